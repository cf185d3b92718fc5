"""Someone with write access to the database plants anchors or empties their queue. The file outside still gets every
anchor of ours, and no others.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.db import transaction

from taskruns import jobs
from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import anchor_changed, publish
from taskruns.audit.signing_keys import signing_key_id
from taskruns.models import AnchorToPublish, AuditAnchor, Team

from .exports import OWN, Auditor, base64_of, exported, hashed, id_of, parsed, signature, signed
from .tampering import ANCHORS, IS_POSTGRESQL, sql, without_triggers

VERA = Actor(type="user", id="7", label="vera@example.com", role="viewer")
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def chain(team: Team, anchor_file: Path) -> str:
    append(team, 3)
    return f"team:{team.pk}"


def append(team: Team, rows: int = 1) -> None:
    for _ in range(rows):
        with transaction.atomic():
            record(EventType.TEAM_CHANGE, "done", by=VERA, team=team)


def plant(chain: str, seq: int, **columns: Any) -> AuditAnchor:
    defaults = {"hash": "0" * 64, "signed_at": AT, "key_id": "0" * 16, "signature": "AAAA"}
    anchor = AuditAnchor(chain=chain, seq=seq, **defaults | columns)
    anchor.save(force_insert=True)
    return anchor


def planted_by_forger(chain: str, seq: int, row_hash: str) -> AuditAnchor:
    """With a valid signature, but by the forger's own key."""
    statement = {"chain": chain, "seq": seq, "hash": row_hash, "key_id": id_of(OWN)}
    text = statement | {"signed_at": AT.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}
    return plant(**statement, signed_at=AT, signature=signature("taskruns-anchor-v1", text, OWN))


def outside(path: Path) -> list[tuple[int, str]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [(anchor["seq"], anchor["key_id"]) for anchor in map(json.loads, lines)]


@pytest.mark.parametrize("seqs", [[10**9], [3], [2, 3, 4, 5], range(4, 40)], ids=str)
def test_planted_anchors_do_not_stop_the_anchoring(
    seqs: list[int], chain: str, team: Team, anchor_file: Path, commits: Any
):
    for seq in seqs:
        plant(chain, seq)
    with commits():
        assert anchor_changed() == 1
    assert outside(anchor_file) == [(3, signing_key_id())]
    append(team)
    with commits():
        assert anchor_changed() == 1
    assert outside(anchor_file)[1:] == [(4, signing_key_id())]


def test_an_anchor_whose_place_is_taken_still_reaches_the_file(chain: str, anchor_file: Path, commits: Any):
    plant(chain, 3, key_id=signing_key_id())
    with commits():
        assert anchor_changed() == 1
    assert outside(anchor_file) == [(3, signing_key_id())]
    assert json.loads(anchor_file.read_text())["signature"] != "AAAA"


def test_an_emptied_queue_keeps_no_anchor_from_the_file(chain: str, anchor_file: Path, commits: Any):
    with commits():
        anchor_changed()
        AnchorToPublish.objects.all().delete()
    assert outside(anchor_file) == [(3, signing_key_id())]


def test_an_anchor_another_process_wrote_is_not_repeated(chain: str, anchor_file: Path, commits: Any):
    with commits():
        anchor_changed()
        publish()
    assert outside(anchor_file) == [(3, signing_key_id())]


def test_a_planted_anchor_does_not_reach_the_file(chain: str, anchor_file: Path, commits: Any):
    for anchor in (plant(chain, 2), planted_by_forger(chain, 1, "0" * 64)):
        AnchorToPublish.objects.create(anchor=anchor)
    AnchorToPublish.objects.create(anchor_id=10**6)
    with commits():
        anchor_changed()
    assert outside(anchor_file) == [(3, signing_key_id())]
    assert not AnchorToPublish.objects.exists()


UNREADABLE = ["'infinity'"] if IS_POSTGRESQL else ["'soon'", "x'ff'", "CAST(x'ff41' AS TEXT)"]


@pytest.mark.parametrize("value", UNREADABLE)
def test_an_unreadable_anchor_holds_up_no_other(value: str, chain: str, anchor_file: Path, commits: Any):
    AnchorToPublish.objects.create(anchor=plant(chain, 9))
    with without_triggers():
        sql(f"UPDATE {ANCHORS} SET signed_at = {value}")
    with commits():
        assert anchor_changed() == 1
    jobs.look_after_audit()
    assert outside(anchor_file) == [(3, signing_key_id())]


def test_a_forgers_key_does_not_become_trusted(
    chain: str, team: Team, anchor_file: Path, auditor: Auditor, commits: Any
):
    """The forger plants an anchor signed with their own key, so that the anchor file would vouch for their export."""
    lines = parsed(exported(team, "q=vera"))
    lines[2]["event"] = hashed(lines[2]["event"] | {"reason": "forged"})
    lines[0]["manifest"]["public_keys"] |= {id_of(OWN): base64_of(OWN)}
    AnchorToPublish.objects.create(anchor=planted_by_forger(chain, 2, lines[2]["event"]["hash"]))
    with commits():
        anchor_changed()
    publish()
    code, said = auditor(signed(lines, OWN), pin=None, anchors=anchor_file.read_bytes())
    assert code != 0, said
