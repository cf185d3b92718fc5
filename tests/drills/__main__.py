"""`python -m tests.drills [NAME ...]`: see the package's docstring.

Exit code 0: all were done, 1: one of them failed, 2: one of them could not run here.
"""

import argparse
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import FrameType

from config.processes import Signals, Stopped
from tests.drills import backup, backup_postgresql, confined, files, install, move, pooler, rolling, rotation, upgrade
from tests.drills.missing import CannotRun

DRILLS = {
    module.__name__.rsplit(".", 1)[-1]: module
    for module in (files, install, confined, upgrade, backup, backup_postgresql, move, rotation, rolling, pooler)
}


class TooLong(BaseException):
    """Not an Exception, so that nothing inside a drill catches it."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(DRILLS)}; by default all")
    names = parser.parse_args().names or list(DRILLS)
    if unknown := [name for name in names if name not in DRILLS]:
        parser.error(f"there is no drill {', '.join(unknown)}")
    Signals()  # so that a terminated run stops its processes too
    signal.signal(signal.SIGALRM, _too_long)
    try:
        codes = [_run(name) for name in names]
    except Stopped:
        return 2
    print(f"\n{codes.count(0)} of {len(codes)} drills done")  # noqa: T201 - the report is what this command is for
    return 1 if 1 in codes else max(codes)


def _run(name: str) -> int:
    drill = DRILLS[name]
    print(f"\n=== {name}: {drill.WHAT}", flush=True)  # noqa: T201
    began = time.monotonic()
    signal.setitimer(signal.ITIMER_REAL, drill.WITHIN)
    try:
        with tempfile.TemporaryDirectory(prefix=f"taskruns-drill-{name}-") as directory:
            drill.run(Path(directory), _proved)
        code, said = 0, "done"
    except CannotRun as missing:
        code, said = 2, f"COULD NOT RUN: {missing}"
    except TooLong:
        code, said = 1, f"FAILED: not done within {drill.WITHIN:.0f} s"
    except Exception:  # noqa: BLE001 - the other drills run all the same
        traceback.print_exc()
        code, said = 1, "FAILED"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    print(f"  {said} after {time.monotonic() - began:.0f} s", flush=True)  # noqa: T201
    return code


def _proved(sentence: str) -> None:
    print(f"  proved: {sentence}", flush=True)  # noqa: T201


def _too_long(_number: int, _frame: FrameType | None) -> None:
    raise TooLong


if __name__ == "__main__":
    sys.exit(main())
