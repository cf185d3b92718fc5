"""Readings of a run, at a number of seconds after a fixed time."""

from datetime import UTC, datetime, timedelta
from typing import Any

from taskruns.arize.wire import WireRun
from taskruns.models import Run
from tests.wire import wire_run

START = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)


def reading(run: Run, status: str = "RUNNING", **members: Any) -> WireRun:
    return WireRun.from_json(wire_run(run, status, **members))


def without(run: Run, *names: str) -> WireRun:
    return WireRun.from_json({name: value for name, value in wire_run(run).items() if name not in names})


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)
