"""How long a run takes compared with the others of its task.

The clock is the browser's: a run that goes on carries the moment from which it is longer than usual, and a ready-made
marker is shown when that moment has come. Of a run that has ended it is known here.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from taskruns.models import Run, Task

from .values import Moment

TIMES_USUAL = 2
AT_LEAST_OVER = timedelta(minutes=1)  # a run of seconds is not late for a few more
EARLIEST = 1970  # servers written in Go send the year 1 for "not yet"
_SIZES = (("s", 1, 100), ("min", 60, 120), ("h", 3_600, 48), ("d", 86_400, None))


@dataclass(frozen=True, slots=True)
class Pace:
    """`usual` is empty when it is not known. `longer_at`: when a run that goes on becomes longer (ISO, UTC)."""

    usual: str = ""
    is_longer: bool = False
    longer_at: str = ""


def pace_of(run: Run) -> Pace:
    """Expects `run.task` to be loaded."""
    return Pace(usual_of(run.task), is_longer_than_usual(run), _longer_at(run))


def usual_of(task: Task) -> str:
    """`usually 5 min`: in one unit, so that the words change as seldom as what they mean."""
    return "" if task.usual_seconds is None else f"usually {roughly(task.usual_seconds)}"


def roughly(seconds: int) -> str:
    """`45 s`, `5 min`, `36 h`, `3 d`: rounded to the unit in which one would say it."""
    for unit, size, below in _SIZES:
        amount = round(seconds / size)
        if below is None or amount < below:
            return f"{amount} {unit}"
    raise AssertionError  # days have no end


def span_of(run: Run) -> timedelta | None:
    """How long a run took, if both of its times can be true."""
    started, finished = true_time(run.run_started_at), run.run_finished_at
    if started is None or finished is None or finished < started:
        return None
    return finished - started


def true_time(at: datetime | None) -> datetime | None:
    return None if at is None or at.year < EARLIEST else at


def is_longer_than_usual(run: Run) -> bool:
    """Of a run that has ended with known times; one that goes on is told by the browser's clock."""
    due = None if run.is_active else _due(run)
    return due is not None and run.run_finished_at is not None and run.run_finished_at > due


def _longer_at(run: Run) -> str:
    moment = Moment.of(_due(run)) if run.is_active and run.run_finished_at is None else None
    return moment.iso if moment else ""


def _due(run: Run) -> datetime | None:
    """Until when the run would not be longer than usual, if that can be said."""
    started = true_time(run.run_started_at)
    if run.task.usual_seconds is None or started is None:
        return None
    usual = timedelta(seconds=run.task.usual_seconds)
    try:
        return started + max(usual * TIMES_USUAL, usual + AT_LEAST_OVER)
    except OverflowError:
        return None
