"""Display models that several pages share: statuses, moments, durations, counts, labels.

Nothing here reads the clock. A display model must be the same for the same data, because a row's version and the
board's ETag are made of it. The browser computes relative times from the ISO time.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from django.utils import timezone

from taskruns.models import Run, Status, Task


@dataclass(frozen=True, slots=True)
class Link:
    text: str
    url: str
    current: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One answer to a person. `tone` is success, info, warning or error."""

    tone: str
    text: str


@dataclass(frozen=True, slots=True)
class Moment:
    """`iso`: in UTC. `text`: in the person's time zone, with its name."""

    iso: str
    text: str

    @classmethod
    def of(cls, at: datetime | None) -> "Moment | None":
        return None if at is None else _moment(at, timezone.get_current_timezone())


# A board formats the same moments on every poll.
@lru_cache(maxsize=16_384)
def _moment(at: datetime, zone: tzinfo) -> Moment:
    local = _in_zone(at, zone)
    text = local.strftime("%Y-%m-%d %H:%M:%S ") + _zone_name(local)
    return Moment(at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"), text)


def _in_zone(at: datetime, zone: tzinfo) -> datetime:
    """Servers written in Go send the year 1 for "not yet", which overflows west of Greenwich: then use UTC."""
    try:
        return at.astimezone(zone)
    except OverflowError:
        return at.astimezone(UTC)


def _zone_name(local: datetime) -> str:
    zone = local.tzinfo
    return local.tzname() or (zone.key if isinstance(zone, ZoneInfo) else "UTC")


@dataclass(frozen=True, slots=True)
class StatusMark:
    """`value`: for the colour and `data-status`. `word`: Arize's own. `icon`: a heroicon. `note`: a qualification."""

    value: str
    word: str
    icon: str
    note: str = ""


_ICONS = {
    Status.PENDING: "clock",
    Status.RUNNING: "play",
    Status.COMPLETED: "check",
    Status.FAILED: "x-mark",
    Status.CANCELLED: "no-symbol",
    Status.UNKNOWN: "question-mark-circle",
    Status.GONE: "eye-slash",
}


def status_mark(run: Run) -> StatusMark:
    status = Status(run.status)
    word = run.raw_status if status is Status.UNKNOWN else status.value.upper()
    note = "with errors" if status is Status.COMPLETED and run.num_errors else ""
    return StatusMark(status.value, word or "UNKNOWN", _ICONS[status], note)


def mark_of(status: Status) -> StatusMark:
    """The mark of a status without a run, for a legend."""
    return StatusMark(status.value, status.value.upper(), _ICONS[status])


@dataclass(frozen=True, slots=True)
class Duration:
    """`text` for a run that has ended, or `since` (ISO) for an active one, which the browser updates."""

    text: str
    since: str = ""


def duration_of(run: Run) -> Duration | None:
    if run.run_started_at is None:
        return None
    if run.run_finished_at is not None:
        return Duration(in_words(run.run_finished_at - run.run_started_at))
    started = Moment.of(run.run_started_at)
    return Duration("", started.iso) if run.is_active and started else None


def in_words(span: timedelta) -> str:
    """`5 min 21 s`, `2 h 3 min`, `1 d 4 h`: the two largest units."""
    seconds = max(0, round(span.total_seconds()))
    sizes = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    parts: list[str] = []
    for unit, size in sizes:
        amount, seconds = divmod(seconds, size)
        if amount or (unit == "s" and not parts):
            parts.append(f"{amount} {unit}")
    return " ".join(parts[:2])


@dataclass(frozen=True, slots=True)
class Counts:
    """Items succeeded, errored and skipped, with one SVG path for each part of a bar 100 wide and 8 high."""

    succeeded: int
    errored: int
    skipped: int
    succeeded_path: str
    errored_path: str
    skipped_path: str

    @property
    def text(self) -> str:
        return f"{self.succeeded:,} succeeded, {self.errored:,} errored, {self.skipped:,} skipped"


def counts_of(run: Run) -> Counts:
    parts = (run.num_successes or 0, run.num_errors or 0, run.num_skipped or 0)
    total = sum(parts)
    edges = [0.0]
    for part in parts:
        # Even the smallest part is visible: at least one hundredth of the bar.
        edges.append(edges[-1] + (max(1.0, 100 * part / total) if part else 0.0))
    scale = 100 / max(100.0, edges[-1])
    bars = [_bar(edges[i] * scale, (edges[i + 1] - edges[i]) * scale) for i in range(3)]
    return Counts(*parts, *bars)


def _bar(start: float, width: float) -> str:
    return f"M{start:.1f} 0h{width:.1f}v8H{start:.1f}z" if width else ""


TIMES_USUAL = 2
AT_LEAST_OVER = timedelta(minutes=1)  # a run that takes seconds is not late after a few more
EARLIEST = 1970  # servers written in Go send the year 1 for "not yet"
_SIZES = (("s", 1, 100), ("min", 60, 120), ("h", 3_600, 48), ("d", 86_400, None))


@dataclass(frozen=True, slots=True)
class Pace:
    """`usual`: empty if unknown. `longer_at`: when an active run becomes longer than usual (ISO, UTC)."""

    usual: str = ""
    is_longer: bool = False
    longer_at: str = ""


def pace_of(run: Run) -> Pace:
    """Expects `run.task` to be loaded."""
    return Pace(usual_of(run.task), is_longer_than_usual(run), _longer_at(run))


def usual_of(task: Task) -> str:
    """`usually 5 min`: in one unit, so that the text changes rarely."""
    return "" if task.usual_seconds is None else f"usually {roughly(task.usual_seconds)}"


def roughly(seconds: int) -> str:
    """`45 s`, `5 min`, `36 h`, `3 d`: rounded to the most natural unit."""
    for unit, size, below in _SIZES:
        amount = round(seconds / size)
        if below is None or amount < below:
            return f"{amount} {unit}"
    raise AssertionError  # the last size has no limit


def span_of(run: Run) -> timedelta | None:
    """How long a run took, if both times are plausible."""
    started, finished = true_time(run.run_started_at), run.run_finished_at
    if started is None or finished is None or finished < started:
        return None
    return finished - started


def true_time(at: datetime | None) -> datetime | None:
    return None if at is None or at.year < EARLIEST else at


def is_longer_than_usual(run: Run) -> bool:
    """For a run that has ended with known times. For an active run, the browser decides."""
    due = None if run.is_active else _due(run)
    return due is not None and run.run_finished_at is not None and run.run_finished_at > due


def _longer_at(run: Run) -> str:
    moment = Moment.of(_due(run)) if run.is_active and run.run_finished_at is None else None
    return moment.iso if moment else ""


def _due(run: Run) -> datetime | None:
    """When the run becomes longer than usual, if known."""
    started = true_time(run.run_started_at)
    if run.task.usual_seconds is None or started is None:
        return None
    usual = timedelta(seconds=run.task.usual_seconds)
    try:
        return started + max(usual * TIMES_USUAL, usual + AT_LEAST_OVER)
    except OverflowError:
        return None


LABEL = 100  # characters of a name where no style sheet can clamp it
ID_END = 8


def shortened(text: str, most: int = LABEL) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def told_apart(named: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """Id -> label, from (id, name, space). Equal names get their space and the end of their id."""
    tasks = {id_: (shortened(name or id_), shortened(space)) for id_, name, space in named}
    shared = Counter(label for label, _ in tasks.values())
    ends = Counter((*task, id_[-ID_END:]) for id_, task in tasks.items())

    def label_of(id_: str, label: str, space: str) -> str:
        if shared[label] == 1:
            return label
        end = f"…{id_[-ID_END:]}" if ends[label, space, id_[-ID_END:]] == 1 else id_
        return " · ".join(part for part in (label, space, end) if part)

    return {id_: label_of(id_, *task) for id_, task in tasks.items()}
