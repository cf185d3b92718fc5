"""Verification finds every change by someone who controls the database, and names the right row."""

import uuid
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from django.db import DatabaseError, transaction

from taskruns.audit import EventType, record
from taskruns.audit.anchors import anchor_chain
from taskruns.models import AuditAnchor, AuditEvent, Run, Team, User
from taskruns.services.audit.rows import ANCHOR, stream_values
from taskruns.verifier import event_hash
from tests.factories import actor

from .chain_reader import HASHED, TABLE, stored
from .tampering import (
    ANCHORS,
    HEADS,
    IS_POSTGRESQL,
    delete,
    edit,
    found,
    insert,
    recompute,
    renumber,
    set_head,
    sql,
    swap,
    without_triggers,
)

pytestmark = pytest.mark.usefixtures("any_details")

ROWS, FIRST, MIDDLE, LAST = 9, 1, 5, 9
ANCHORED = 7
PLACES = {"first": FIRST, "middle": MIDDLE, "last": LAST}


@pytest.fixture
def chain(team: Team, run: Run, oli: User) -> str:
    """Nine rows of a team, the seventh with an anchor, and some rows of the site."""
    by = replace(actor(oli), auth_method="password", session_ref="0123456789abcdef", ip="192.0.2.7", request_id="r-1")
    for number in range(1, ROWS + 1):
        words = {"reason": f"reason {number}", "details": {"number": number, "why": "東京"}}
        record(EventType.RUN_CANCEL, "requested", by=by, team=team, run=run, operation_id=uuid.uuid4(), **words)
        record(EventType.PERSON_CREATE, "done", by=by)
        if number == ANCHORED:
            assert anchor_chain(f"team:{team.pk}")
    return f"team:{team.pk}"


@pytest.fixture
def outside(chain: str) -> list[dict[str, Any]]:
    """A copy of the anchors, as in AUDIT_ANCHOR_FILE. It also has an anchor of the newest row."""
    assert anchor_chain(chain)
    copy = list(stream_values(AuditAnchor.objects.filter(chain=chain), ANCHOR))
    delete(chain, f"seq > {ANCHORED}", table=ANCHORS)
    return copy


def other_than(value: object) -> object:
    """Another value of the same type."""
    match value:
        case int():
            return value + 1
        case dict():
            return value | {"number": 99}
        case None:
            return str(uuid.uuid4())
    text = str(value)
    try:
        return str(uuid.UUID(text, version=4).__class__(int=uuid.UUID(text).int ^ 1))
    except ValueError:
        pass
    return text[:-1] + ("0" if text[-1] != "0" else "1") if len(text) > 30 and text[-1] != "Z" else f"{text}x"


EDITS = [name for name in (*HASHED, "hash") if name not in {"seq", "chain"}]


def test_an_untouched_log_is_clean(chain: str, outside: list[dict[str, Any]]):
    assert found(chain) == found("site") == []
    assert found(chain, outside=outside) == []


@pytest.mark.parametrize("seq", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("column", EDITS)
def test_an_edit_of_any_column_is_found_at_its_row(chain: str, column: str, seq: int):
    before = stored(chain)[seq - 1]
    value = "2026-01-01T00:00:00.000000Z" if column == "at" else other_than(before[column])
    edit(chain, seq, **{column: value})
    assert stored(chain)[seq - 1] != before
    faults = found(chain)
    # The head also has the last row's hash.
    also = [("bad link", LAST)] if (column, seq) == ("hash", LAST) else []
    assert faults == [("edited", seq), *also]
    assert found("site") == []


@pytest.mark.parametrize("seq", PLACES.values(), ids=PLACES)
def test_a_row_moved_to_another_chain_is_found_in_both(chain: str, seq: int, other_team: Team):
    there = f"team:{other_team.pk}"
    edit(chain, seq, chain=there)
    missing = [("missing", seq), ("anchor not met", ANCHORED)] if seq == ANCHORED else [("missing", seq)]
    assert found(chain) == missing
    assert ("edited", seq) in found(there)


@pytest.mark.parametrize("seq", PLACES.values(), ids=PLACES)
def test_a_renumbered_row_is_reordered_and_missing(chain: str, seq: int):
    edit(chain, seq, seq=seq + 20)
    assert set(found(chain)) >= {("reordered", seq + 20), ("missing", seq)}


@pytest.mark.parametrize("seq", PLACES.values(), ids=PLACES)
def test_an_edit_with_a_new_hash_breaks_the_next_link(chain: str, seq: int):
    row = stored(chain)[seq - 1] | {"reason": "another"}
    edit(chain, seq, reason="another", hash=event_hash(row))
    assert found(chain) == [("bad link", min(seq + 1, LAST))]


def test_an_edited_row_with_an_anchor_is_found_by_both(chain: str):
    row = stored(chain)[ANCHORED - 1] | {"reason": "another"}
    edit(chain, ANCHORED, reason="another", hash=event_hash(row))
    assert found(chain) == [("anchor not met", ANCHORED), ("bad link", ANCHORED + 1)]


@pytest.mark.parametrize("seq", PLACES.values(), ids=PLACES)
def test_a_deleted_row_is_missing(chain: str, seq: int):
    delete(chain, f"seq = {seq}")
    assert found(chain) == [("missing", seq)]


@pytest.mark.parametrize("seq", PLACES.values(), ids=PLACES)
def test_a_deleted_row_is_found_after_renumbering(chain: str, seq: int):
    delete(chain, f"seq = {seq}")
    renumber(chain, f"seq > {seq}", by=-1)
    if seq == LAST:
        set_head(chain, LAST - 1)
        assert found(chain) == [], "a tail cut with its head leaves no trace in the chain, only in the anchors"
        return
    faults = found(chain)
    assert faults[0] == ("reordered", seq)
    assert ("missing", LAST) in faults


@pytest.mark.parametrize("seq", [FIRST, MIDDLE])
def test_two_swapped_rows_are_both_reported(chain: str, seq: int):
    swap(chain, seq, seq + 1)
    assert found(chain) == [("reordered", seq), ("reordered", seq + 1)]


@pytest.mark.parametrize("seq", [FIRST, MIDDLE])
def test_an_inserted_row_displaces_the_next_one(chain: str, seq: int):
    rows = stored(chain)
    renumber(chain, f"seq >= {seq}", by=1)
    forged = rows[seq - 1] | {"event_id": str(uuid.uuid4()), "reason": "forged"}
    insert(forged | {"hash": event_hash(forged)})
    set_head(chain, LAST + 1)
    assert found(chain)[0] == ("reordered", seq + 1)


def test_an_inserted_row_at_the_end_is_found_by_the_head(chain: str):
    last = stored(chain)[-1]
    forged = last | {"seq": LAST + 1, "event_id": str(uuid.uuid4()), "prev_hash": last["hash"]}
    insert(forged | {"hash": event_hash(forged)})
    assert found(chain) == [("inserted", LAST + 1)]


def test_an_inserted_row_with_a_wrong_hash_is_found(chain: str):
    insert(stored(chain)[-1] | {"seq": LAST + 1, "event_id": str(uuid.uuid4())})
    set_head(chain, LAST + 1)
    assert found(chain) == [("edited", LAST + 1)]


@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_a_cut_tail_is_found_by_the_head(chain: str, rows: int):
    delete(chain, f"seq > {ROWS - rows}")
    faults = found(chain)
    assert faults[0] == ("missing", ROWS - rows + 1)


@pytest.mark.parametrize("rows", [1, 2])
def test_only_external_anchors_find_a_tail_cut_with_its_head(chain: str, rows: int, outside: list[dict[str, Any]]):
    delete(chain, f"seq > {ROWS - rows}")
    set_head(chain, ROWS - rows)
    assert found(chain) == []
    assert found(chain, outside=outside) == [("anchor not met", LAST)]


def test_only_external_anchors_find_a_chain_recomputed_in_part(chain: str, outside: list[dict[str, Any]]):
    edit(chain, 8, reason="another")
    recompute(chain, start=8)
    assert found(chain) == []
    assert found(chain, outside=outside) == [("anchor not met", LAST)]


def test_stored_anchors_find_a_fully_recomputed_chain(chain: str, outside: list[dict[str, Any]]):
    edit(chain, 2, reason="another")
    recompute(chain)
    assert found(chain) == [("anchor not met", ANCHORED)]
    delete(chain, "seq > 0", table=ANCHORS)
    assert found(chain) == []
    assert found(chain, outside=outside) == [("anchor not met", ANCHORED), ("anchor not met", LAST)]


def test_external_anchors_find_a_deleted_chain(chain: str, outside: list[dict[str, Any]]):
    for table in (TABLE, ANCHORS, HEADS):
        delete(chain, "1 = 1", table=table)
    assert found(chain, outside=outside) == [("anchor not met", ANCHORED), ("anchor not met", LAST)]


def test_a_chain_without_its_head_is_found(chain: str):
    delete(chain, "1 = 1", table=HEADS)
    assert found(chain) == [("missing", 0)]


@pytest.mark.parametrize("change", [{"seq": 6}, {"hash": "0" * 64}, {"signature": "AAAA"}, {"key_id": "0" * 16}])
def test_an_edited_anchor_has_a_bad_signature(chain: str, change: dict[str, object]):
    (name, value), *_ = change.items()
    with without_triggers():
        sql(f"UPDATE {ANCHORS} SET {name} = %s WHERE chain = %s", value, chain)
    assert found(chain) == [("bad anchor signature", change.get("seq", ANCHORED))]


def test_changes_to_every_row_are_found_in_reasonable_time(chain: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("taskruns.services.audit.verification.SEARCHES", 3)
    hashes: list[int] = []
    counting = "taskruns.services.audit.verification.event_hash"
    monkeypatch.setattr(counting, lambda event: hashes.append(1) or event_hash(event))
    with without_triggers():
        sql(f"UPDATE {TABLE} SET reason = 'another'")
    assert found(chain) == [("edited", seq) for seq in range(1, ROWS + 1)]
    assert len(hashes) < 4 * 1_010


STRANGE = {
    "at": "some day",
    "event_id": "no uuid",
    "operation_id": "x",
    "schema": "one",
    "details": "{",
    "details with a lone surrogate": '{"why": "\\ud800"}',
}


@pytest.mark.parametrize("name", STRANGE)
def test_an_unreadable_row_is_edited_or_refused_by_postgresql(chain: str, name: str):
    column = name.split(maxsplit=1)[0]
    change = f"UPDATE {TABLE} SET {column} = %s WHERE chain = %s AND seq = %s"
    if IS_POSTGRESQL:
        with without_triggers(), pytest.raises(DatabaseError), transaction.atomic():
            sql(change, STRANGE[name], chain, MIDDLE)
        return
    with without_triggers():
        sql("PRAGMA ignore_check_constraints = 1")
        sql(change, STRANGE[name], chain, MIDDLE)
        sql("PRAGMA ignore_check_constraints = 0")
    assert found(chain) == [("edited", MIDDLE)]
    with without_triggers():
        sql(f"UPDATE {TABLE} SET seq = 'text' WHERE chain = %s AND seq = 3", chain)
    assert set(found(chain)) >= {("edited", MIDDLE), ("missing", 3)}


ACTS: dict[str, Callable[[str], None]] = {
    "edit": lambda chain: edit(chain, MIDDLE, reason="another"),
    "delete": lambda chain: delete(chain, f"seq = {MIDDLE}"),
}


@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_rows_can_be_added_after_a_fault_and_the_fault_stays(
    chain: str, team: Team, oli: User, act: Callable[[str], None]
):
    act(chain)
    before = found(chain)
    record(EventType.TEAM_CHANGE, "done", by=actor(oli), team=team)
    assert before == found(chain) != []
    assert AuditEvent.objects.filter(chain=chain, seq=LAST + 1).exists()
