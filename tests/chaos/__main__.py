"""`python -m tests.chaos`: see the package's docstring."""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

from config.processes import Signals, Stopped
from tests.chaos.driver import Setting, carry_out
from tests.chaos.judge import judge, table
from tests.chaos.plan import Kind, Plan


def main() -> int:
    options = _options()
    plan = Plan(
        seed=options.seed,
        seconds=options.seconds,
        workers=3 if options.database else 1,
        webs=2 if options.database else 1,
        has_postgres=bool(options.database),
        has_redis=options.queue == "redis:",
        without=frozenset(Kind(name) for name in options.without.split(",") if name),
    )
    if options.show_plan:
        for event in plan.events():
            print(f"{event.at:8.2f} s  {event.kind:<14} {event.whom:<10} for {event.lasts:.2f} s")  # noqa: T201
        return 0
    Signals()  # so that a terminated run stops the panel's processes too
    try:
        record = carry_out(
            Setting(
                plan,
                database=options.database,
                queue=options.queue,
                settle=options.settle or min(240.0, 60 + options.seconds / 2),
                is_hurried=options.seconds < 240,
                logs=options.logs,
            )
        )
    except Stopped:
        return 2
    except (AssertionError, OSError) as error:
        sys.stderr.write(f"could not run: {error}\n")
        return 2
    if options.logs:
        (options.logs / "record.json").write_text(json.dumps(asdict(record), default=sorted, indent=1))
    findings = judge(record)
    for line in table(findings, most=options.most):
        print(line)  # noqa: T201 - the table is what this command is for
    broken = sum(bool(found.broken) for found in findings)
    print(f"\nseed {plan.seed}, {plan.seconds:.0f} s: {broken or 'no'} broken promise{'' if broken == 1 else 's'}")  # noqa: T201
    return int(bool(broken))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    minutes = float(os.environ.get("CHAOS_MINUTES", "10"))
    parser.add_argument("--seed", type=int, default=int(os.environ.get("CHAOS_SEED") or time.time()))
    parser.add_argument("--seconds", type=float, default=60 * minutes, help="how long the disturbances last")
    parser.add_argument("--settle", type=float, default=0, help="most seconds to wait for everything to settle")
    parser.add_argument("--database", default=os.environ.get("CHAOS_DATABASE", ""), help="a PostgreSQL server")
    parser.add_argument("--queue", default=os.environ.get("CHAOS_QUEUE", ""), help="redis: or a url")
    parser.add_argument("--without", default="", help="kinds of disturbances to leave out, separated by commas")
    parser.add_argument("--logs", type=Path, help="a new directory to keep: logs, SQLite files and record.json")
    parser.add_argument("--most", type=int, default=12, help="cases shown for each broken promise")
    parser.add_argument("--show-plan", action="store_true", help="show the plan and run nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
