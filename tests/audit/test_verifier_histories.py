"""The verifier on generated histories, hashed by the code that writes the log: no false alarm and no missed change."""

import base64
import json
import random
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.db import transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskruns.audit import Actor, EventType, Target, record, row_as_json
from taskruns.audit.anchors import anchor_chain
from taskruns.audit.row_json import clean_details, clean_line
from taskruns.audit.signing_keys import public_keys, sign, signing_key_id
from taskruns.models import AuditEvent, Team
from taskruns.verifier import ChainChecker, Fault, event_hash, keys_of, signature_holds

from .tampering import found

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("any_details")]

CHAIN = "team:5b0c7a52-7d0c-4b3f-9a51-0c1f0a1f4e11"
BEGIN = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
Rows = list[dict[str, Any]]

texts = st.text(max_size=40).map(lambda text: clean_line(text, 40))
leaves = st.none() | st.booleans() | st.integers(-(2**63) + 1, 2**63 - 1) | texts
details = st.dictionaries(
    texts, st.recursive(leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=4), max_size=3
)
words = st.tuples(texts, texts, details, st.integers(0, 10**9), st.booleans())
histories = st.lists(words, min_size=1, max_size=8)


def chain_of_rows(history: Iterable[tuple[Any, ...]], *, chain: str = CHAIN) -> Rows:
    """Rows of a chain as in an export."""
    rows: Rows = []
    previous = "0" * 64
    for seq, (label, reason, facts, microseconds, is_run) in enumerate(history, start=1):
        blank = {field.attname: "" for field in AuditEvent._meta.concrete_fields}
        row = blank | {
            "schema": 1,
            "chain": chain,
            "seq": seq,
            "event_id": uuid.UUID(int=microseconds + seq),
            "at": BEGIN + timedelta(microseconds=microseconds),
            "operation_id": uuid.UUID(int=seq) if is_run else None,
            "team_id": None,
            "credential_id": None,
            "actor_label": label,
            "reason": reason,
            "details": clean_details(facts),
            "prev_hash": previous,
        }
        columns = row_as_json(SimpleNamespace(**row))
        previous = event_hash(columns)
        rows.append(columns | {"hash": previous})
    return rows


def anchor_of(row: dict[str, Any]) -> dict[str, Any]:
    statement = {
        "chain": row["chain"],
        "seq": row["seq"],
        "hash": row["hash"],
        "signed_at": "2026-11-23T03:00:00.000000Z",
    }
    statement |= {"key_id": signing_key_id()}
    return statement | {"signature": sign(statement)}


def checked(
    rows: Rows, anchors: Iterable[dict[str, Any]] = (), *, last: int | None = None, whole: bool = True
) -> list[Fault]:
    mine = sorted((anchor for anchor in anchors if anchor["chain"] == CHAIN), key=lambda anchor: anchor["seq"])
    checker = ChainChecker(CHAIN, public_keys(), mine, whole=whole)
    faults = [fault for row in rows for fault in checker.row(row)]
    return faults + list(checker.end(last or 0, last))


def places(faults: Iterable[Fault]) -> list[tuple[str, int]]:
    return [(fault.kind, fault.seq) for fault in faults]


@settings(max_examples=1_000, deadline=None)
@given(histories, st.randoms(use_true_random=False))
def test_a_thousand_clean_histories_raise_no_false_alarm(history: Any, chance: random.Random):
    rows = json.loads(json.dumps(chain_of_rows(history)))
    anchors = [anchor_of(row) for row in rows if chance.random() < 0.3]
    assert checked(rows, anchors + anchors, last=len(rows)) == []
    some = [row for row in rows if chance.random() < 0.5]
    assert checked(some, anchors, whole=False) == []


MUTATIONS = ("edit", "rehash", "delete", "double", "swap", "cut", "recompute")


@settings(max_examples=300, deadline=None)
@given(st.lists(words, min_size=3, max_size=8), st.sampled_from(MUTATIONS), st.randoms(use_true_random=False))
def test_any_change_is_found_at_or_right_after_its_row(history: Any, mutation: str, chance: random.Random):
    rows = chain_of_rows(history)
    anchors = [anchor_of(rows[-1])]
    place = chance.randrange(len(rows) - 1)
    changed = mutated(rows, mutation, place)
    faults = checked(changed, anchors, last=len(rows))
    where = {"recompute": len(rows), "cut": place + 2}.get(mutation, place + 1)
    assert faults
    assert faults[0].seq in {where, where + 1}
    assert not checked(rows, anchors, last=len(rows))


def mutated(rows: Rows, mutation: str, place: int) -> Rows:
    before, row, after = rows[:place], rows[place], rows[place + 1 :]
    another = row | {"actor_label": row["actor_label"] + "x"}
    return {
        "edit": [*before, another, *after],
        "rehash": [*before, hashed(another), *after],
        "delete": before + after,
        "double": [*before, row, row, *after],
        "swap": [*before, after[0], row, *after[1:]],
        "cut": [*before, row],
        "recompute": recomputed([*before, another, *after]),
    }[mutation]


def hashed(row: dict[str, Any]) -> dict[str, Any]:
    return row | {"hash": event_hash(row)}


def recomputed(rows: Rows) -> Rows:
    again: Rows = []
    for row in rows:
        again.append(hashed(row | {"prev_hash": again[-1]["hash"] if again else "0" * 64}))
    return again


@pytest.fixture
def rows() -> Rows:
    return chain_of_rows([("oli@example.com", f"reason {number}", {"n": number}, number, True) for number in range(8)])


def test_each_kind_of_fault_is_reported_with_its_row(rows: Rows):
    row = rows[3]
    assert places(checked([*rows[:3], *rows[4:]])) == [("missing", 4)]
    assert places(checked([*rows[:3], *rows[6:]])) == [("missing", 4)]
    assert places(checked([*rows[:3], row | {"reason": ""}, *rows[4:]])) == [("edited", 4)]
    assert places(checked([*rows[:4], row, *rows[4:]])) == [("inserted", 4)]
    assert places(checked([*rows[:3], rows[4], row, *rows[5:]])) == [("reordered", 4)]
    assert places(checked([*rows[:3], row | {"seq": 5}, rows[4] | {"seq": 4}, *rows[5:]])) == [
        ("edited", 5),
        ("reordered", 4),
        ("edited", 4),
    ]
    assert places(checked(rows[:6], last=8)) == [("missing", 7)]
    assert places(checked(rows, last=6)) == [("inserted", 7)]
    assert places(checked([], [anchor_of(row)], last=0)) == [("anchor not met", 4)]
    other = row | {"reason": ""}
    forged = other | {"hash": event_hash(other)}
    assert places(checked([*rows[:3], forged, *rows[4:]])) == [("bad link", 5)]
    assert places(checked(rows, [anchor_of(forged)])) == [("anchor not met", 4)]
    assert places(checked(rows, [anchor_of(row) | {"signed_at": "2026"}])) == [("bad anchor signature", 4)]


def test_a_fault_is_one_readable_line(rows: Rows):
    (fault,) = checked(rows[1:])
    assert str(fault) == f"{CHAIN} row 1: missing: rows 1 to 1 are gone"


def test_a_row_of_another_chain_is_a_fault(rows: Rows):
    stranger = chain_of_rows([("", "", {}, 1, False)], chain="site")
    assert places(checked(stranger)) == [("edited", 1)]
    assert checked(rows, [anchor_of(stranger[0]) | {"hash": "f" * 64}]) == []


def test_a_filtered_history_is_checked_row_by_row(rows: Rows):
    some = [rows[1], rows[5]]
    assert checked(some, whole=False) == []
    assert places(checked([rows[1], rows[5] | {"reason": ""}], whole=False)) == [("edited", 6)]
    other = rows[5] | {"reason": ""}
    forged = other | {"hash": event_hash(other)}
    assert checked([forged], whole=False) == []
    assert places(checked([forged], [anchor_of(rows[5])], whole=False)) == [("anchor not met", 6)]


def test_a_signature_of_an_unknown_key_does_not_hold(rows: Rows):
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    anchor = anchor_of(rows[0])
    assert signature_holds(anchor, public_keys())
    assert not signature_holds(anchor, keys_of([base64.b64encode(key).decode()]))
    assert not signature_holds(anchor, {anchor["key_id"]: key})
    assert not signature_holds(anchor, {})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(texts, texts, details, st.booleans()), max_size=12), st.sets(st.integers(0, 11)))
def test_stored_histories_raise_no_false_alarm(team: Team, history: Any, anchored: set[int]):
    point = transaction.savepoint()
    for number, (label, reason, facts, is_teams) in enumerate(history):
        by = Actor(type="user", label=label)
        target = Target("team", "1", label)
        record(
            EventType.TEAM_CHANGE,
            "done",
            by=by,
            team=team if is_teams else None,
            target=target,
            reason=reason,
            details=facts,
        )
        if number in anchored:
            anchor_chain(f"team:{team.pk}")
    assert found(f"team:{team.pk}") == found("site") == []
    transaction.savepoint_rollback(point)
