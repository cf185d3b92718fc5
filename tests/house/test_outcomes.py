"""The two tables of outcomes, their facts and their words, are complete and agree."""

import dataclasses
import string
from collections.abc import Mapping
from typing import Any

import pytest

from taskruns.audit import CATALOGUE, EventType
from taskruns.models import (
    CANCEL_FACTS,
    TRIGGER_FACTS,
    BatchKind,
    CancelItem,
    Cancellation,
    Effect,
    Outcome,
    Trigger,
    TriggerOutcome,
)
from taskruns.models.batches import ITEM_STATES, START_OUTCOMES, STARTED
from taskruns.pages import batch_words as batches
from taskruns.pages.audit.sentences import SENTENCES
from taskruns.pages.help import help_page
from taskruns.pages.outcomes import CANCEL_WORDS, TRIGGER_WORDS, Words
from taskruns.services.batches.draft import NOT_STARTED, NOT_STOPPED

TONES = {"success", "info", "warning", "error"}
TABLES: list[tuple[Any, Mapping[Any, Any], Mapping[Any, Words], EventType, Any]] = [
    (Outcome, CANCEL_FACTS, CANCEL_WORDS, EventType.RUN_CANCEL, Cancellation),
    (TriggerOutcome, TRIGGER_FACTS, TRIGGER_WORDS, EventType.RUN_TRIGGER, Trigger),
]
cancels = pytest.mark.parametrize("outcome", Outcome, ids=lambda outcome: outcome.code)
every = pytest.mark.parametrize(("members", "facts", "words", "event", "model"), TABLES, ids=["cancel", "trigger"])


def names_in(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


@every
def test_each_outcome_has_its_facts_and_its_words(members: Any, facts: Any, words: Any, event: Any, model: Any):
    assert len(members) >= 7
    assert list(facts) == list(words) == list(members)
    assert len({member.code for member in members}) == len(members)
    assert all(member.code for member in members)


@every
def test_each_outcome_has_a_tone_and_a_status(members: Any, facts: Any, words: Any, event: Any, model: Any):
    for row in words.values():
        assert row.sentence.endswith(".")
        assert row.tone in TONES
        assert row.log_tone in TONES | {""}
        assert row.status in {200, 409, 502}


@every
def test_catalogue_and_column_have_the_same_outcomes(members: Any, facts: Any, words: Any, event: Any, model: Any):
    logged = {member for member in members if words[member].log}
    assert {member.value for member in logged} == CATALOGUE[event] - {"requested", "denied"}
    assert {member.value: words[member].log for member in logged}.items() <= SENTENCES[event].items()
    assert all(names_in(words[member].log) <= {"who", "run", "target"} for member in logged)
    stored = {member.value: member.label for member in members if facts[member].has_row}
    assert dict(model._meta.get_field("outcome").choices) == stored
    assert {member.value for member in logged} >= set(stored) - {""}


@cancels
def test_each_outcome_of_a_cancel_is_explained(outcome: Outcome):
    (explained,) = [it for it in help_page().outcomes if it.code == outcome.code]
    assert explained.text


@cancels
def test_a_run_in_a_batch_can_have_each_outcome(outcome: Outcome):
    if CANCEL_FACTS[outcome].effect is Effect.OPEN:
        assert outcome.value not in ITEM_STATES
        assert not CANCEL_WORDS[outcome].in_batch
        return
    assert ITEM_STATES[outcome] == outcome.label
    (shown,) = batches.state_counts({outcome: 3})
    assert (shown.word, shown.number) == (CANCEL_WORDS[outcome].in_batch, 3)
    assert shown.word
    assert (shown.tone == "bad") == (outcome in NOT_STOPPED) == (CANCEL_FACTS[outcome].effect is Effect.NOT_STOPPED)


def test_each_state_of_a_run_in_a_batch_has_label_and_filter():
    assert dict(CancelItem._meta.get_field("state").choices or ()) == ITEM_STATES
    every = dict.fromkeys(ITEM_STATES, 1)
    counts = [count for kind in BatchKind for count in batches.state_counts(every, kind=kind)]
    assert {count.state for count in counts} == set(ITEM_STATES)
    assert all(count.word and count.tone and count.icon for count in counts)


def test_a_run_to_start_again_can_have_each_outcome_of_a_start():
    for outcome in START_OUTCOMES:
        (shown,) = batches.state_counts({outcome: 3}, kind=BatchKind.TRIGGER)
        assert (shown.word, shown.number) == (TRIGGER_WORDS[outcome].in_batch, 3)
        assert (shown.tone == "good") == (outcome in STARTED) or outcome == TriggerOutcome.UNKNOWN
        assert (outcome in NOT_STARTED) != (outcome in STARTED), "a retry takes what was certainly not started"
    assert not {*STARTED} & {*NOT_STARTED}
    assert [it for it in TriggerOutcome if TRIGGER_WORDS[it].in_batch] == list(START_OUTCOMES)


@cancels
def test_an_outcome_that_credits_the_cancel_says_so(outcome: Outcome):
    facts, words = CANCEL_FACTS[outcome], CANCEL_WORDS[outcome]
    assert bool(facts.credit) == bool(words.cause)
    assert names_in(words.cause) <= {"who", "by", "can"}
    if facts.credit:
        assert "who" in names_in(words.cause)
        assert facts.has_row
    if words.is_alarm:
        assert words.note


def test_the_credit_of_two_outcomes_is_never_the_same():
    shares = [facts.credit for facts in CANCEL_FACTS.values() if facts.credit]
    assert len(set(shares)) == len(shares) > 1


def test_words_require_every_text_that_pages_show():
    wanted = {it.name for it in dataclasses.fields(Words) if it.default is dataclasses.MISSING}
    assert wanted == {"sentence", "log"}
    with pytest.raises(TypeError):
        Words(sentence="The control: a row without words for the log.")  # type: ignore[call-arg]
