"""What is above the board's rows: how many runs each status and flag has, each a link that filters, and the filters
that are set, each a link that removes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import parse_qsl, urlencode

from django.http import QueryDict

from taskruns.forms import BoardFilter, Flag
from taskruns.models import Status
from taskruns.pages.saved_views import ALL
from taskruns.pages.values import Moment, shortened

from .counts import BoardCounts, Count

FLAG_WORDS = {
    Flag.WITH_ERRORS: "WITH ERRORS",
    Flag.LONGER_THAN_USUAL: "LONGER THAN USUAL",
    Flag.PENDING_LONG: "PENDING LONG",
    Flag.CANCEL_OPEN: "CANCEL NOT CONFIRMED",
    Flag.ATTENTION: "NEEDS ATTENTION",
}
# Those of _ALWAYS are always shown, after those of _ONLY_SET that are set; the others while they have runs or are set.
_ALWAYS = (Status.PENDING, Status.RUNNING, Status.FAILED, Flag.WITH_ERRORS, Flag.LONGER_THAN_USUAL, Status.CANCELLED)
_SOMETIMES = (Flag.PENDING_LONG, Flag.CANCEL_OPEN, Status.UNKNOWN, Status.GONE)
_ONLY_SET = (Status.COMPLETED, Flag.ATTENTION)
_ENDED = "that ended in the last 24 hours"
_MEANINGS: Mapping[Status | Flag, str] = {
    Status.PENDING: "pending now",
    Status.RUNNING: "running now",
    Status.COMPLETED: f"completed, {_ENDED}",
    Status.FAILED: f"failed, {_ENDED}",
    Status.CANCELLED: f"cancelled, {_ENDED}",
    Status.UNKNOWN: "with a status that the panel does not know",
    Status.GONE: f"that Arize no longer has, {_ENDED}",
    Flag.WITH_ERRORS: f"with errors, active or {_ENDED}",
    Flag.LONGER_THAN_USUAL: f"that take longer than usual, active or {_ENDED}",
    Flag.PENDING_LONG: "pending for more than 10 minutes",
    Flag.CANCEL_OPEN: "active, with a cancel that is not confirmed",
    Flag.ATTENTION: "that need attention",
}
_OF_ONE: Mapping[Status | Flag, str] = {
    Flag.LONGER_THAN_USUAL: f"that takes longer than usual, active or {_ENDED}",
    Flag.ATTENTION: "that needs attention",
}
_NAMES = {
    "q": "search",
    "credential": "key",
    "flag": "only",
    "not_task": "not task",
    "min_duration": "longer than",
    "min_error_share": "errors at least",
}
_UNITS = {"min_duration": " s", "min_error_share": " %"}


@dataclass(frozen=True, slots=True)
class Chip:
    """A link that adds this status or flag to the filter, or removes it if `is_set`. `meaning`: what is counted."""

    value: str
    word: str
    count: str
    is_none: bool
    url: str
    is_set: bool
    meaning: str


@dataclass(frozen=True, slots=True)
class SetFilter:
    """One filter that is set. `url`: the board without it. `except_url`: of a task, the board without its runs."""

    name: str
    value: str
    url: str
    except_url: str = ""


def chips(wanted: BoardFilter, counts: BoardCounts, url: str) -> tuple[Chip, ...]:
    shown: list[Status | Flag] = [it for it in _ONLY_SET if _is_set(wanted, it)]
    shown += _ALWAYS
    shown += [it for it in _SOMETIMES if _is_set(wanted, it) or _count(counts, it).number]
    return tuple(_chip(it, wanted, _count(counts, it), url) for it in shown)


def _chip(kind: Status | Flag, wanted: BoardFilter, count: Count, url: str) -> Chip:
    return Chip(
        value=kind.value,
        word=FLAG_WORDS[kind] if isinstance(kind, Flag) else kind.value.upper(),
        count=count.text,
        is_none=not count.number,
        url=board_with(_toggled(wanted, kind), url),
        is_set=_is_set(wanted, kind),
        meaning=f"1 run {_OF_ONE.get(kind, _MEANINGS[kind])}"
        if count.number == 1
        else f"{count.text} runs {_MEANINGS[kind]}",
    )


def _count(counts: BoardCounts, kind: Status | Flag) -> Count:
    return counts.flags[kind] if isinstance(kind, Flag) else counts.statuses[kind]


def _is_set(wanted: BoardFilter, kind: Status | Flag) -> bool:
    return kind in wanted.flags if isinstance(kind, Flag) else kind in wanted.statuses


def _toggled(wanted: BoardFilter, kind: Status | Flag) -> BoardFilter:
    if isinstance(kind, Flag):
        return replace(wanted, flags=tuple(sorted({*wanted.flags} ^ {kind})), cursor=None)
    return replace(wanted, statuses=tuple(sorted({*wanted.statuses} ^ {kind})), cursor=None)


def board_with(wanted: BoardFilter, url: str) -> str:
    """The address of a board with exactly this filter: without any query it would open the default view."""
    return url + (wanted.query() or f"?{ALL}")


def set_filters(wanted: BoardFilter, labels: Mapping[str, str], url: str) -> tuple[SetFilter, ...]:
    """The filters that are set, without those that are chips. `labels`: the names of tasks, spaces and keys by id."""
    pairs = parse_qsl(wanted.unsorted().query().removeprefix("?"))
    return tuple(
        SetFilter(
            name=_NAMES.get(name, name.replace("_", " ")),
            value=_value(name, value, labels),
            url=board_with(_parsed(_other(pairs, (name, value)), wanted), url),
            except_url=_except(pairs, value, wanted, url) if name == "task" else "",
        )
        for name, value in pairs
        if name not in {"status", "flag"}
    )


def _value(name: str, value: str, labels: Mapping[str, str]) -> str:
    if name.endswith(("_after", "_before")):
        at = Moment.of(_moment(name, value))
        return at.text if at else value
    return shortened(labels.get(value, value) + _UNITS.get(name, ""))


def _moment(name: str, value: str) -> datetime | None:
    found: datetime | None = getattr(BoardFilter.parse(QueryDict(urlencode({name: value}))), name)
    return found


def _except(pairs: Sequence[tuple[str, str]], task: str, wanted: BoardFilter, url: str) -> str:
    return board_with(_parsed([*_other(pairs, ("task", task)), ("not_task", task)], wanted), url)


def _other(pairs: Iterable[tuple[str, str]], left_out: tuple[str, str]) -> list[tuple[str, str]]:
    return [pair for pair in pairs if pair != left_out]


def _parsed(pairs: Sequence[tuple[str, str]], wanted: BoardFilter) -> BoardFilter:
    """The filter of these pairs, in the order of the board."""
    return BoardFilter.parse(QueryDict(urlencode(pairs))).sorted_by(wanted.sort, descending=wanted.descending)
