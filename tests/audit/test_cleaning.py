"""Strange text must neither forge a log line nor make the insert fail, because an action without its row fails."""

import string
from typing import Any

import pytest
from django.db import models
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import AuditEvent, Run, Team

from .chain_reader import assert_whole

pytestmark = pytest.mark.usefixtures("any_details")

TEXTS = {
    field.attname: field.max_length
    for field in AuditEvent._meta.concrete_fields
    if isinstance(field, models.CharField) and field.attname not in {"chain", "event", "outcome", "prev_hash", "hash"}
}
STRANGE = {
    "line ends": "one\r\ntwo\rthree\nfour",
    "an escape": "\x1b[31mred\x1b[0m",
    "separators": "one\u2028two\u2029three\x85four",
    "NUL": "one\x00two",
    "lone surrogates": "one\ud83dtwo\udc00",
    "direction marks": "one\u202egpj.exe\u2066",
    "a forged row": 'fine"}\n{"event": {"event": "run.cancel", "seq": 99}}',
    "a very long text": "x" * 100_000,
    "a long line of emoji": "\N{ROCKET}" * 5_000,
}
FORBIDDEN = [*map(chr, range(0x20)), *map(chr, range(0x7F, 0xA0)), "\u2028", "\u2029"]


def written_with(text: str) -> dict[str, Any]:
    """A row in which every free-text column is `text`."""
    by = Actor(
        type=text,
        id=text,
        label=text,
        role=text,
        auth_method=text,
        session_ref=text,
        ip=text,
        user_agent=text,
        request_id=text,
    )
    target = Target(text, text, text)
    record(EventType.TEAM_CHANGE, "done", by=by, target=target, reason=text, details={text: [text], "n": {"t": text}})
    return assert_whole("site", rows=AuditEvent.objects.count())[-1]


@pytest.mark.parametrize("text", STRANGE.values(), ids=STRANGE)
def test_strange_text_is_written_as_one_line(db: None, text: str):
    row = written_with(text)
    for name, limit in TEXTS.items():
        assert len(row[name]) <= limit
    kept = [row[name] for name in TEXTS] + [*row["details"], *row["details"]["n"].values()]
    assert not [character for value in kept for character in FORBIDDEN if character in value]


def test_harmless_text_is_unchanged(db: None):
    text = "Grüße aus 東京 \N{ROCKET} <b>&amp;</b>"
    row = written_with(text)
    assert row["reason"] == row["user_agent"] == row["target_label"] == text
    assert row["details"][text] == [text]


def test_control_characters_and_separators_become_a_space(db: None):
    row = written_with("one\r\ntwo\u2028three\x00four")
    assert row["reason"] == "one two three four"


def test_the_reason_keeps_512_characters(db: None):
    assert written_with("r" * 513)["reason"] == "r" * 512
    assert written_with("r" * 512)["reason"] == "r" * 512


def test_names_from_arize_are_cleaned_and_truncated(team: Team, run: Run):
    run.task.name = "Evaluation\r\n" + "x" * 5_000
    run.arize_id = "id\x00" + "y" * 5_000
    record(EventType.RUN_CANCEL, "requested", by=Actor(type="user"), team=team, run=run)
    (row,) = assert_whole(f"team:{team.pk}", rows=1)
    assert row["target_label"] == "Evaluation " + "x" * 289
    assert row["run_id"].startswith("id yyy")
    assert len(row["run_id"]) == TEXTS["run_id"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(codec=None), max_size=700),
    details=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(st.characters(codec=None), max_size=60),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(string.ascii_letters), inner, max_size=3),
        max_leaves=8,
    ),
)
def test_any_text_is_written_with_a_valid_hash(db: None, text: str, details: Any):
    by = Actor(type="user", label=text, user_agent=text)
    target = Target("team", "1", text)
    record(EventType.TEAM_CHANGE, "done", by=by, target=target, reason=text, details={"found": details})
    assert_whole("site", rows=AuditEvent.objects.count())
