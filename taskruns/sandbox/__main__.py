"""`python -m taskruns.sandbox`: starts the simulated Arize and runs until SIGTERM or Ctrl-C."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Sequence
from typing import TypeVar

from . import api, controls
from .keys import UnreadableKeys, read_keys
from .server import start
from .simulation import Settings
from .wire import Wire

KEYS_VARIABLE = "SANDBOX_KEYS"
Number = TypeVar("Number", int, float)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 after a signal, 1 with a sentence when it cannot start; argparse exits with 2."""
    options = _parser().parse_args(arguments)
    # Block the signals before any thread starts, so that only sigwait below receives them.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    try:
        server = start(_settings(options), host=options.host, port=options.port)
    except UnreadableKeys as unreadable:
        return _refuse(str(unreadable))
    except OSError as refused:
        return _refuse(_why(refused, options=options))
    sys.stdout.write(f"sandbox ready on {server.url}\n")
    sys.stdout.flush()
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stop()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m taskruns.sandbox",
        description="A simulated Arize AX.",
        epilog=f"{api.__doc__}\n{controls.__doc__}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--port", type=port_number, required=True, help="0 picks a free port and prints it")
    parser.add_argument("--host", default="127.0.0.1", help="default 127.0.0.1: this machine only")
    parser.add_argument(
        "--key",
        action="append",
        default=[],
        metavar="KEY[=SPACE,SPACE]",
        help="an API key, optionally limited to spaces by name or id; repeatable. "
        f"To hide keys from `ps`, put them into {KEYS_VARIABLE}, separated by `;`",
    )
    parser.add_argument(
        "--wire", type=Wire, choices=list(Wire), default=Wire.UPPER, help="upper or lower case values, or a mixture"
    )
    parser.add_argument("--seed", type=int, default=1, help="the same seed gives the same world")
    parser.add_argument("--tasks", type=number_of_tasks, default=40, help="number of tasks, 1 to 5000")
    parser.add_argument(
        "--busy", type=number_or_none, default=0, help="number of tasks in each space that are always active"
    )
    parser.add_argument("--speed", type=speed, default=1.0, help="10 is ten times as fast, 0 stops the clock")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    """Raises UnreadableKeys."""
    from_environment = [text for text in os.environ.get(KEYS_VARIABLE, "").split(";") if text.strip()]
    keys = read_keys([*options.key, *from_environment])
    if not keys:
        raise UnreadableKeys(f"Give at least one key, with --key or in {KEYS_VARIABLE}.")
    return Settings(
        keys=keys,
        wire=options.wire,
        seed=options.seed,
        tasks=options.tasks,
        speed=options.speed,
        busy=options.busy,
    )


def port_number(text: str) -> int:
    return _between(int(text), least=0, most=65_535)


def number_of_tasks(text: str) -> int:
    return _between(int(text), least=1, most=5_000)


def number_or_none(text: str) -> int:
    return _between(int(text), least=0, most=5_000)


def speed(text: str) -> float:
    return _between(float(text), least=0, most=10_000)


def _between(number: Number, *, least: float, most: float) -> Number:
    """Also refuses NaN."""
    if least <= number <= most:
        return number
    raise argparse.ArgumentTypeError(f"must be from {least} to {most}")


def _why(refused: OSError, *, options: argparse.Namespace) -> str:
    if refused.errno == errno.EADDRINUSE:
        return f"Port {options.port} on {options.host} is taken; choose another with --port."
    reason = (refused.strerror or "unknown reason").lower()
    return f"Cannot listen on port {options.port} of {options.host}: {reason}."


def _refuse(sentence: str) -> int:
    sys.stderr.write(sentence + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
