"""Display models that several pages share: statuses, moments, durations, counts, labels.

Nothing here reads the clock. A display model must be the same for the same data, because a row's version and the
board's ETag are made of it. The browser computes relative times from the ISO time.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Protocol
from zoneinfo import ZoneInfo

from django.utils import timezone

from taskruns.arize.ids import decoded
from taskruns.models import Run, Status, Task, User
from taskruns.models.runs import true_time


@dataclass(frozen=True, slots=True)
class Link:
    text: str
    url: str
    current: bool = False


@dataclass(frozen=True, slots=True)
class Message:
    """One answer to a person. `tone` is success, info, warning or error. `link`: where to mend it."""

    tone: str
    text: str
    link: Link | None = None


class Act(Protocol):
    """What a person did. `person_label`: the address that they had then, which remains without the account."""

    @property
    def person(self) -> User | None: ...
    @property
    def person_label(self) -> str: ...


def named(name: str, address: str) -> str:
    return f"{name} ({address})" if name else address


def who_of(act: Act, *, role: str = "") -> str:
    """The name before the address, like "Mona (mona@example.com)". Expects the person to be loaded."""
    name = act.person.name if act.person else ""
    if not name and role:
        return f"{act.person_label} ({role})"
    return named(name, ", ".join(part for part in (act.person_label, role) if part))


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

    @property
    def parts(self) -> tuple[str, str, str]:
        return f"{self.succeeded:,}", f"{self.errored:,}", f"{self.skipped:,}"

    @property
    def share(self) -> str:
        """`12 % errors`, of the succeeded and errored items; empty without errors."""
        if not self.errored:
            return ""
        percent = 100 * self.errored // (self.succeeded + self.errored)
        return f"{percent} % errors" if percent else "under 1 % errors"

    @property
    def has_many_errors(self) -> bool:
        return self.errored * 10 > self.succeeded + self.errored


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


_SOON = timedelta(seconds=5)


def speed_of(run: Run) -> str:
    """`84/min`: items of an active run per minute, from its start until they last changed. Empty if unknown."""
    items = (run.num_successes or 0) + (run.num_errors or 0) + (run.num_skipped or 0)
    started, until = true_time(run.run_started_at), run.progress_changed_at
    if not (run.is_active and items and started and until) or until - started < _SOON:
        return ""
    speed = items * 60 / (until - started).total_seconds()
    if speed >= 1_000:
        return f"{speed / 1_000:.1f}k/min" if speed < 99_950 else f"{speed / 1_000:,.0f}k/min"
    return f"{speed:.0f}/min" if speed >= 10 else f"{speed:.1f}/min"


_SIZES = (("s", 1, 100), ("min", 60, 120), ("h", 3_600, 48), ("d", 86_400, None))


@dataclass(frozen=True, slots=True)
class Pace:
    """`usual`: empty if unknown. `is_longer`: the run takes longer than usual, or did."""

    usual: str = ""
    is_longer: bool = False


def pace_of(run: Run) -> Pace:
    """Expects `run.task` to be loaded."""
    return Pace(usual_of(run.task), bool(run.longer_than_usual))


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


def counted(number: int, one: str, many: str, rest: str = "") -> str:
    """`1 run keeps running`, `2 runs keep running`; empty for none."""
    return f"{number:,} {one if number == 1 else many} {rest}".rstrip() if number else ""


LABEL = 100  # characters of a name where no style sheet can clamp it
ID_END = 8


_RUN_NUMBER = re.compile(r"TaskRun:([0-9]{1,20}):.*")


# A board shows the ids of the same runs on every poll.
@lru_cache(maxsize=16_384)
def short_id(arize_id: str) -> str:
    """What tells runs apart: the number in `TaskRun:<number>:<suffix>`, which the id encodes, else the id's end.

    Arize's ids all begin alike and often end alike.
    """
    number = _RUN_NUMBER.fullmatch(decoded(arize_id))
    return number[1] if number else arize_id[-ID_END:]


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
