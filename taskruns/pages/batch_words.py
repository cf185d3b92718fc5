"""The words of a batch: of each state of a run in it, and of each kind of batch."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from django.db.models import QuerySet

from taskruns.models import (
    CANCEL_FACTS,
    BatchKind,
    BatchSource,
    BatchState,
    CancelBatch,
    Effect,
    ItemState,
    Outcome,
    TriggerOutcome,
)
from taskruns.models.batches import ITEM_OUTCOMES, NOT_STARTABLE, OPEN_ITEMS, START_OUTCOMES

from . import values
from .outcomes import CANCEL_WORDS, TRIGGER_WORDS

STILL_ACTIVE = "reported as cancelled by Arize, but still active"
_TONES = {Effect.STOPPED: "good", Effect.ENDED: "quiet", Effect.NOT_STOPPED: "bad"}


class StateWords(NamedTuple):
    word: str
    tone: str
    icon: str


@dataclass(frozen=True, slots=True)
class StateCount:
    """`tone` (good, quiet, going or bad) selects the colour; `word` says the same in text."""

    state: str
    word: str
    number: int
    tone: str
    icon: str


@dataclass(frozen=True, slots=True)
class KindWords:
    """`titles`: by state of the batch, with {runs}. `act`: the button, with {runs}. `failed`: the heading of the runs
    that were not stopped or not started.
    """

    states: Mapping[str, StateWords]
    titles: Mapping[BatchState, str]
    sources: Mapping[BatchSource, str]
    passed_over: str
    act: str
    keep: str
    stop: str
    failed: str


def _icon(outcome: Outcome) -> str:
    if CANCEL_FACTS[outcome].effect is not Effect.NOT_STOPPED:
        return "check"
    return "error" if CANCEL_FACTS[outcome].is_final else "warning"


_OPEN: dict[str, StateWords] = {
    ItemState.QUEUED: StateWords("queued", "quiet", "clock"),
    ItemState.SENT: StateWords("in progress", "going", "play"),
}
_LEFT_OUT: dict[str, StateWords] = {ItemState.LEFT_OUT: StateWords("dropped, nothing sent", "bad", "warning")}
# In the order of the counts: outcomes grouped by their effect on the run.
STATE_WORDS: dict[str, StateWords] = {
    **_OPEN,
    **{
        outcome: StateWords(CANCEL_WORDS[outcome].in_batch, tone, _icon(outcome))
        for effect, tone in _TONES.items()
        for outcome in ITEM_OUTCOMES
        if CANCEL_FACTS[outcome].effect is effect
    },
    **_LEFT_OUT,
}
_START_LOOKS = {TriggerOutcome.DONE: ("good", "check"), TriggerOutcome.UNKNOWN: ("bad", "warning")}
START_WORDS: dict[str, StateWords] = {
    **_OPEN,
    **{it: StateWords(TRIGGER_WORDS[it].in_batch, *_START_LOOKS.get(it, ("bad", "error"))) for it in START_OUTCOMES},
    ItemState.HELD: StateWords("held by the emergency stop, nothing sent", "bad", "hand"),
    **_LEFT_OUT,
    ItemState.ALREADY_STARTED: StateWords("already started again before", "quiet", "info"),
    ItemState.NO_WINDOW: StateWords("not started: the time range of its data is unknown", "quiet", "info"),
    ItemState.LONG_WINDOW: StateWords("not started: its data covers more than 30 days", "quiet", "info"),
    ItemState.UNKNOWN_TYPE: StateWords("not started: unknown type of task", "quiet", "info"),
}

KIND_WORDS: Mapping[str, KindWords] = {
    BatchKind.CANCEL: KindWords(
        states=STATE_WORDS,
        titles={
            BatchState.DRAFT: "Cancel {runs}?",
            BatchState.WORKING: "Cancelling {runs}",
            BatchState.FINISHED: "Cancel of {runs}",
            BatchState.ABORTED: "Cancel of {runs}, stopped early",
        },
        sources={
            BatchSource.SELECTION: "selected runs",
            BatchSource.FILTER: "all runs that matched a filter",
            BatchSource.RETRY: "runs that an earlier bulk cancel did not stop",
            BatchSource.STOP: "the emergency stop",
        },
        passed_over="not pending or running",
        act="Cancel {runs}",
        keep="Keep them running",
        stop="Stop sending cancels",
        failed="Not stopped",
    ),
    BatchKind.TRIGGER: KindWords(
        states=START_WORDS,
        titles={
            BatchState.DRAFT: "Start {runs} again?",
            BatchState.WORKING: "Starting {runs} again",
            BatchState.FINISHED: "Start {runs} again",
            BatchState.ABORTED: "Start {runs} again, stopped early",
        },
        sources={
            BatchSource.SELECTION: "selected runs",
            BatchSource.FILTER: "all failed and cancelled runs that matched a filter",
            BatchSource.RETRY: "runs that were not started again before",
            BatchSource.BATCH: "runs of an earlier bulk cancel",
        },
        passed_over="not failed or cancelled",
        act="Start {runs} again",
        keep="Go back",
        stop="Stop starting runs",
        failed="Not started",
    ),
}


def counted(number: int) -> str:
    return f"{number:,} run{'' if number == 1 else 's'}"


def words_of(batch: CancelBatch) -> KindWords:
    return KIND_WORDS[batch.kind]


def title_of(batch: CancelBatch, total: int) -> str:
    return words_of(batch).titles[BatchState(batch.state)].format(runs=counted(total))


def total_of(counts: Mapping[str, int]) -> int:
    """The runs of a batch, without those that were listed only to say why they cannot be started."""
    return sum(number for state, number in counts.items() if state not in NOT_STARTABLE)


def unfinished(counts: Mapping[str, int]) -> int:
    return sum(counts.get(state, 0) for state in OPEN_ITEMS)


def number_of(counts: Mapping[str, int], effect: Effect) -> int:
    return sum(counts.get(outcome, 0) for outcome in ITEM_OUTCOMES if CANCEL_FACTS[outcome].effect is effect)


def sentence_of(batch: CancelBatch, counts: Mapping[str, int], still_active: int, active: int) -> str:
    """`still_active`: the confirmed runs that are active again. `active`: these and all others that are active now."""
    total, is_open = total_of(counts), unfinished(counts)
    if batch.state == BatchState.DRAFT:
        return "Nothing has been sent yet. Check the list, then confirm it."
    if is_open:
        sent = counts.get(ItemState.SENT, 0)
        return f"{total - is_open:,} of {total:,} done, {sent:,} in progress."
    if batch.kind == BatchKind.TRIGGER:
        started, lost = counts.get(TriggerOutcome.DONE, 0), counts.get(TriggerOutcome.UNKNOWN, 0)
        return f"{started:,} of {total:,} started, {lost:,} unknown, {total - started - lost:,} not started."
    stopped = number_of(counts, Effect.STOPPED) - still_active
    ended = number_of(counts, Effect.ENDED)
    over = total - stopped - ended - active
    later = f", {over:,} no longer running" if over > 0 else ""
    return f"{stopped:,} of {total:,} cancelled, {ended:,} finished first, {active:,} still running{later}."


def state_counts(
    counts: Mapping[str, int], *, kind: str = BatchKind.CANCEL, still_active: int = 0
) -> tuple[StateCount, ...]:
    """In the order of the kind's states. `still_active`: the confirmed runs that are active again, counted apart."""
    numbers = dict(counts) | {Outcome.CONFIRMED: counts.get(Outcome.CONFIRMED, 0) - still_active}
    found = [
        StateCount(state, words.word, numbers[state], words.tone, words.icon)
        for state, words in KIND_WORDS[kind].states.items()
        if numbers.get(state)
    ]
    alarm = [StateCount("still_active", STILL_ACTIVE, still_active, "bad", "error")] if still_active else []
    return tuple(alarm + found)


def stopping_batches(working: QuerySet[CancelBatch]) -> tuple[str, str]:
    """What happens to bulk cancels and bulk starts in progress if they are stopped now; empty for none."""
    of_kind = Counter(working.values_list("kind", flat=True))
    cancels, starts = of_kind[BatchKind.CANCEL], of_kind[BatchKind.TRIGGER]
    return (
        values.counted(cancels, "bulk cancel is", "bulk cancels are", "stopped. Runs not cancelled yet keep running."),
        values.counted(starts, "bulk start is", "bulk starts are", "stopped. The remaining runs are not started."),
    )
