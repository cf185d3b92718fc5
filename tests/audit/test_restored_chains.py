"""A chain that a restore has cut: the gap is acknowledged by a signed row, and by nothing else."""

import json
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.db import transaction
from django.utils import timezone

from taskruns import verifier
from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import anchor_changed, check_anchor_file, publish, unwritten_since
from taskruns.audit.record import chain_of
from taskruns.audit.row_json import value_as_json
from taskruns.audit.signing_keys import sign, signing_key_id
from taskruns.models import AuditAnchor, AuditChain, AuditEvent, Restore, Team
from taskruns.services import backups
from taskruns.services.audit import AnchorFile
from taskruns.services.user_errors import UserError
from taskruns.verifier import ChainChecker, event_hash, lost_rows, unknown_anchors
from tests.audit.verifying import verify

from .chain_reader import stored
from .exports import Auditor, exported, id_of, signature
from .tampering import ANCHORS, delete, edit

VERA = Actor(type="user", id="7", label="vera@example.com", role="viewer")
ROOT = Actor(type="command", label="root")
BACKUP = cast("backups.Archive", SimpleNamespace(digest="ab" * 32, manifest={"made_at": "2026-11-23T03:00:00.000000Z"}))
FORGER = Ed25519PrivateKey.from_private_bytes(b"a key that a forger made himself")
Commits = Callable[[], Any]


def append(team: Team | None, rows: int) -> None:
    for _ in range(rows):
        with transaction.atomic():
            record(EventType.TEAM_CHANGE, "done", by=VERA, team=team)


def anchored(commits: Commits) -> None:
    with commits():
        anchor_changed()


@pytest.fixture
def chain(team: Team, anchor_file: Path, commits: Commits) -> str:
    """Rows 1 to 5. The file of anchors names 3 and 5."""
    append(team, 3)
    anchored(commits)
    append(team, 2)
    anchored(commits)
    return chain_of(team.pk)


def put_back(chain: str, last: int) -> None:
    """The database as it was when the backup was made."""
    delete(chain, f"seq > {last}")
    delete(chain, f"seq > {last}", table=ANCHORS)
    head = AuditEvent.objects.filter(chain=chain, seq=last).first()
    move_head(chain, last, head.hash if head else "0" * 64)


def move_head(chain: str, seq: int, of_hash: str = "") -> None:
    """By default, keep the hash: the next row then links to the last one across a gap."""
    heads = AuditChain.objects.filter(chain=chain)
    heads.update(seq=seq, hash=of_hash or heads.get().hash)


def restored(anchor_file: Path, by: Actor = ROOT) -> dict[str, backups.Acknowledged]:
    return {one.chain: one for one in backups.acknowledge(BACKUP, anchors=AnchorFile(anchor_file), by=by)}


def note(chain: str, rows: str) -> str:
    day = f"{Restore.objects.latest('pk').restored_at:%Y-%m-%d}"
    return f"{chain}: gap acknowledged: {rows} lost by the restore of {day}"


def kinds(lines: list[str]) -> list[tuple[int, str]]:
    """Number and kind of each fault."""
    faults = [line.split(" row ", 1)[1].split(": ") for line in lines if " row " in line]
    return [(int(parts[0]), parts[1]) for parts in faults if parts[0].isdigit()]


def rewrite_last(chain: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """The owner of the database changes the details of the newest row, and hashes it again."""
    row = stored(chain)[-1]
    row["details"] = change(row["details"])
    row["hash"] = event_hash(row)
    edit(chain, row["seq"], details=row["details"], hash=row["hash"])
    move_head(chain, row["seq"], row["hash"])


def test_an_acknowledged_gap_is_no_fault(team: Team, chain: str, anchor_file: Path, auditor: Auditor):
    put_back(chain, 3)
    assert restored(anchor_file)[chain] == backups.Acknowledged(chain, 6, 4, 5)
    code, lines = verify()
    assert (code, f"note: {note(chain, 'rows 4-5')}" in lines) == (0, True)
    code, said = auditor(exported(team), anchors=anchor_file.read_bytes())
    assert code == 0
    assert note(chain, "rows 4-5") in said.splitlines()
    assert said.splitlines()[-1] == "clean"


def test_the_row_of_a_restore_names_what_is_lost(chain: str, anchor_file: Path):
    put_back(chain, 3)
    restored(anchor_file)
    row = stored(chain)[-1]
    before = stored(chain)[-2]
    assert (row["seq"], row["prev_hash"], before["seq"]) == (6, before["hash"], 3)
    details = row["details"]
    superseded = json.loads(anchor_file.read_text().splitlines()[-1])
    assert details["superseded"] == [{name: superseded[name] for name in ("seq", "hash", "key_id")}]
    assert {name: details[name] for name in ("backup", "backup_made_at", "restored_by", "superseded_count")} == {
        "backup": BACKUP.digest,
        "backup_made_at": "2026-11-23T03:00:00.000000Z",
        "restored_by": "root",
        "superseded_count": 1,
    }
    statement = details | {"chain": chain, "seq": 6, "prev_hash": before["hash"]}
    del statement["signature"]
    assert (
        signature("taskruns-restore-v1", statement, Ed25519PrivateKey.from_private_bytes(_our_key()))
        == (details["signature"])
    )


def _our_key() -> bytes:
    from django.conf import settings

    return bytes(settings.AUDIT_SIGNING_KEY)


def test_one_lost_row_is_named_alone(chain: str, anchor_file: Path):
    put_back(chain, 4)
    restored(anchor_file)
    assert f"note: {note(chain, 'row 5')}" in verify()[1]


def test_without_the_row_of_a_restore_the_gap_is_a_fault(team: Team, chain: str, anchor_file: Path):
    """The control of the tests above."""
    put_back(chain, 3)
    move_head(chain, 5)
    append(team, 1)
    code, lines = verify("--chain", "ops-north")
    assert (code, (4, "missing") in kinds(lines)) == (1, True)


@pytest.mark.parametrize("forged", ["nobody's", "another key", "more rows", "another chain's"])
def test_without_a_valid_signature_the_gap_stays_a_fault(
    forged: str, team: Team, other_team: Team, chain: str, anchor_file: Path, auditor: Auditor
):
    append(other_team, 3)
    put_back(chain, 3)
    restored(anchor_file)
    own = stored(chain)[-1]
    other = stored(chain_of(other_team.pk))[-1]["details"]
    statement = {"chain": chain, "seq": own["seq"], "prev_hash": own["prev_hash"]}

    def forge(details: dict[str, Any]) -> dict[str, Any]:
        unsigned = {name: value for name, value in details.items() if name != "signature"}
        match forged:
            case "nobody's":
                return details | {"signature": "A" * 86 + "=="}
            case "another key":
                mine = unsigned | {"key_id": id_of(FORGER)}
                return mine | {"signature": signature("taskruns-restore-v1", mine | statement, FORGER)}
            case "more rows":
                return details | {"missing_from": 3}
        return other | {"missing_from": 4, "missing_to": 5}

    rewrite_last(chain, forge)
    code, lines = verify("--chain", "ops-north")
    assert code == 1
    assert set(kinds(lines)) >= {(4, "missing"), (6, "bad restore")}
    code, said = auditor(exported(team))
    assert code == 1
    assert set(kinds(said.splitlines())) >= {(4, "missing"), (6, "bad restore")}


def test_a_row_of_a_restore_without_its_link_is_a_fault(monkeypatch: pytest.MonkeyPatch):
    """Without the package for signatures, nothing else reads the link."""
    monkeypatch.setattr(verifier, "CHECKS_SIGNATURES", False)
    details = {"missing_from": 1, "missing_to": 3}
    row = {"event": "system.restored", "outcome": "done", "seq": 4, "details": details, "hash": "0" * 64}
    assert "bad restore" in {fault.kind for fault in ChainChecker("c", {}).row(row)}


def test_a_gap_elsewhere_stays_a_fault(team: Team, chain: str, anchor_file: Path, auditor: Auditor):
    put_back(chain, 3)
    restored(anchor_file)
    append(team, 3)
    delete(chain, "seq = 8")
    code, lines = verify("--chain", "ops-north")
    assert code == 1
    assert (8, "missing") in kinds(lines)
    assert not {number for number, _ in kinds(lines)} & {4, 5, 6}
    code, said = auditor(exported(team))
    assert code == 1
    assert (8, "missing") in kinds(said.splitlines())


def test_a_cut_before_the_acknowledged_gap_is_a_fault(chain: str, anchor_file: Path):
    """The owner of the database deletes one more row and lets the restore take the blame."""
    put_back(chain, 3)
    restored(anchor_file)
    delete(chain, "seq = 3")
    code, lines = verify("--chain", "ops-north")
    assert code == 1
    assert {(3, "missing"), (6, "bad restore")} <= set(kinds(lines))


def test_two_restores_acknowledge_two_gaps(
    team: Team, chain: str, anchor_file: Path, auditor: Auditor, commits: Commits
):
    put_back(chain, 3)
    restored(anchor_file)
    with commits():
        backups.adopt(by=ROOT)
    append(team, 3)
    anchored(commits)
    put_back(chain, 7)
    assert restored(anchor_file)[chain] == backups.Acknowledged(chain, 10, 8, 9)
    code, lines = verify()
    assert code == 0, lines
    assert {f"note: {note(chain, rows)}" for rows in ("rows 4-5", "rows 8-9")} <= set(lines)
    code, said = auditor(exported(team), anchors=anchor_file.read_bytes())
    assert code == 0, said
    assert said.count("gap acknowledged") == 2


def test_the_same_backup_restored_twice(team: Team, chain: str, anchor_file: Path, commits: Commits):
    put_back(chain, 3)
    restored(anchor_file)
    with commits():
        backups.adopt(by=ROOT)
    append(team, 2)
    anchored(commits)
    put_back(chain, 3)
    Restore.objects.all().delete()
    assert restored(anchor_file)[chain] == backups.Acknowledged(chain, 9, 4, 8)
    code, lines = verify()
    assert (code, f"note: {note(chain, 'rows 4-8')}" in lines) == (0, True)


def test_a_team_of_which_nothing_is_left_keeps_its_place(
    chain: str, team: Team, other_team: Team, anchor_file: Path, commits: Commits
):
    append(other_team, 2)
    anchored(commits)
    lost = chain_of(other_team.pk)
    put_back(lost, 0)
    AuditChain.objects.filter(chain=lost).delete()
    team_id = other_team.pk
    other_team.delete()
    assert restored(anchor_file)[lost] == backups.Acknowledged(lost, 3, 1, 2)
    row = AuditEvent.objects.get(chain=lost)
    assert (row.team_id, row.prev_hash) == (team_id, "0" * 64)
    code, lines = verify()
    assert (code, f"note: {note(lost, 'rows 1-2')}" in lines) == (0, True)


def test_anchors_of_others_do_not_move_the_number(chain: str, anchor_file: Path):
    statement = {"chain": chain, "seq": 4_000_000, "hash": "0" * 64, "signed_at": "2026-11-23T03:00:00.000000Z"}
    statement |= {"key_id": id_of(FORGER)}
    forged = statement | {"signature": signature("taskruns-anchor-v1", statement, FORGER)}
    with anchor_file.open("a") as file:
        file.write(json.dumps(forged) + "\n")
    put_back(chain, 3)
    assert restored(anchor_file)[chain].seq == 6


@pytest.mark.parametrize("seq", [100, 10**6, 2**63 - 1])
def test_anchors_planted_in_the_database_do_not_move_the_number(seq: int, chain: str, anchor_file: Path):
    planted: dict[str, Any] = {
        "hash": "0" * 64,
        "signed_at": timezone.now(),
        "key_id": signing_key_id(),
        "signature": "AAAA",
    }
    put_back(chain, 3)
    AuditAnchor(chain=chain, seq=seq, **planted).save(force_insert=True)
    assert restored(anchor_file)[chain] == backups.Acknowledged(chain, 6, 4, 5)


@pytest.mark.parametrize("seq", [-1, 2**63 - 1])
def test_an_impossible_head_is_refused(seq: int, chain: str, anchor_file: Path):
    put_back(chain, 3)
    move_head(chain, seq)
    with pytest.raises(backups.BadBackup, match=r"audit log team:\S+ has an impossible head\."):
        restored(anchor_file)


def test_a_long_gap_is_not_counted_as_rows_without_anchor(team: Team, chain: str, anchor_file: Path, commits: Commits):
    put_back(chain, 3)
    move_head(chain, 4_000)
    restored(anchor_file)
    append(team, 1)
    code, lines = verify()
    assert (code, f"note: {note(chain, 'rows 4-4000')}" in lines) == (0, True)


def test_a_continued_export_crosses_the_gap(team: Team, chain: str, anchor_file: Path, auditor: Auditor):
    put_back(chain, 3)
    first = exported(team)
    last = json.loads(first.splitlines()[0])["manifest"]["last_seq"]
    move_head(chain, last + 5)
    restored(anchor_file)
    code, said = auditor(first, exported(team, after=last))
    assert code == 0, said
    assert note(chain, f"rows {last + 1}-{last + 5}") in said


def test_a_lost_entry_cannot_be_continued(team: Team, chain: str, anchor_file: Path):
    put_back(chain, 3)
    restored(anchor_file)
    with pytest.raises(UserError, match=r"no entry 5\..*A restore lost entries 4 to 5"):
        exported(team, after=5)


# Anchors of lost rows


def restored_knowing(
    chain: str, anchors: list[str], anchor_file: Path, monkeypatch: pytest.MonkeyPatch, *, days: int = 0
) -> None:
    """A validly signed restore that knew only these anchors, and says that it was `days` ago."""
    put_back(chain, 3)
    whole = anchor_file.read_text()
    anchor_file.write_text("".join(anchors) or whole)
    acknowledge = backups.actions.record_restored

    def signed(name: str, *, seq: int, details: dict[str, Any], by: Actor) -> AuditEvent:
        if name == chain:
            at = value_as_json(timezone.now() - timedelta(days=days))
            details |= {"missing_from": 4, "missing_to": 9, "restored_at": at}
            details |= {} if anchors else {"superseded": [], "superseded_count": 0}
            seq = 10
        return acknowledge(name, seq=seq, details=details, by=by)

    monkeypatch.setattr(backups.actions, "record_restored", signed)
    restored(anchor_file)
    Restore.objects.update(adopted_at=timezone.now())
    anchor_file.write_text(whole)


@pytest.mark.parametrize(
    ("known", "days", "unknown"),
    [(3, 0, []), (1, 0, [7, 9]), (0, 0, [5, 7, 9]), (3, 1, [5, 7, 9])],
    ids=["all", "the oldest", "none", "all, but earlier than they were signed"],
)
def test_a_restore_excuses_only_the_anchors_that_it_knew(
    known: int,
    days: int,
    unknown: list[int],
    team: Team,
    chain: str,
    anchor_file: Path,
    commits: Commits,
    monkeypatch: pytest.MonkeyPatch,
    auditor: Auditor,
):
    for _ in range(2):
        append(team, 2)
        anchored(commits)
    lost = anchor_file.read_text().splitlines(keepends=True)[1:]
    restored_knowing(chain, lost[:known], anchor_file, monkeypatch, days=days)
    code, lines = verify("--chain", "ops-north")
    assert (code, kinds(lines)) == (1 if unknown else 0, [(seq, "anchor not met") for seq in unknown])
    assert f"note: {chain}: 3 anchors of these lost rows were set aside" in lines
    code, said = auditor(exported(team), anchors=anchor_file.read_bytes())
    assert (code, kinds(said.splitlines())) == (1 if unknown else 0, [(seq, "anchor not met") for seq in unknown])
    assert f"{chain}: 3 anchors of these lost rows were set aside" in said.splitlines()


def test_of_many_anchors_a_restore_names_the_newest_and_counts_all():
    lost = [{"seq": seq, "hash": "a", "key_id": "k", "signed_at": "2026-01-01"} for seq in (4, 5, 6, 7)]
    details = {"restored_at": "2026-01-02", "superseded_count": 4, "superseded": lost[2:]}
    assert unknown_anchors(details, lost) == []
    for place in (0, 3):
        other = lost[place] | {"hash": "b"}
        assert unknown_anchors(details, [*lost, other]) == [other], "one too many"
    assert unknown_anchors({}, lost) == lost


# A drill beside the real panel


def signed_by_the_real_panel(chain: str, anchor_file: Path, seq: int, hours: int) -> None:
    """An anchor of a row that only the other database has."""
    at = f"{timezone.now() + timedelta(hours=hours):%Y-%m-%dT%H:%M:%S.%fZ}"
    statement = {"chain": chain, "seq": seq, "hash": "7" * 64, "signed_at": at, "key_id": signing_key_id()}
    with anchor_file.open("a") as file:
        file.write(json.dumps(statement | {"signature": sign(statement)}) + "\n")


def test_a_drill_leaves_out_what_the_real_panel_signed_since(team: Team, chain: str, anchor_file: Path):
    put_back(chain, 3)
    restored(anchor_file)
    append(team, 3)
    for seq in (7, 40):
        signed_by_the_real_panel(chain, anchor_file, seq, 1)
    code, lines = verify()
    assert code == 0, lines
    assert [line.split(" were")[0] for line in lines if "signed after" in line] == ["note: 2 external anchors"]
    assert any("not checked against external anchors" in line for line in lines), "it proves less"
    signed_by_the_real_panel(chain, anchor_file, 8, -1)
    assert (8, "anchor not met") in kinds(verify()[1]), "the control: it was signed before the restore"


@pytest.mark.parametrize("resting", ["never restored", "adopted", "restored by hand"])
def test_only_a_panel_that_rests_leaves_anchors_out(
    resting: str, team: Team, chain: str, anchor_file: Path, commits: Commits
):
    if resting == "adopted":
        put_back(chain, 3)
        restored(anchor_file)
        with commits():
            backups.adopt(by=ROOT)
    elif resting == "restored by hand":  # in the database, without a signed row
        Restore.objects.create(restored_by="root", backup="ab" * 32, backup_made_at=timezone.now())
    signed_by_the_real_panel(chain, anchor_file, 40, 1)
    assert (40, "anchor not met") in kinds(verify()[1])


# Publishing


def test_a_resting_panel_publishes_nothing_until_adopted(
    team: Team, chain: str, anchor_file: Path, commits: Commits, caplog: pytest.LogCaptureFixture
):
    put_back(chain, 3)
    before = anchor_file.read_bytes()
    restored(anchor_file)
    append(team, 2)
    caplog.clear()
    anchored(commits)
    assert publish() == 0
    assert (anchor_file.read_bytes(), "audit_anchor" in caplog.text) == (before, False)
    assert AuditAnchor.objects.filter(chain=chain, seq=8).exists(), "they are made, and wait"
    with commits():
        assert backups.adopt(by=ROOT)
    added = anchor_file.read_bytes().removeprefix(before)
    assert '"seq": 8' in added.decode()
    assert backups.adopt(by=ROOT) is False
    assert verify()[0] == 0


def test_adoption_publishes_what_was_anchored_without_a_file(
    team: Team, chain: str, anchor_file: Path, commits: Commits, settings: Any, caplog: pytest.LogCaptureFixture
):
    put_back(chain, 3)
    restored(anchor_file)
    append(team, 2)
    settings.AUDIT_ANCHOR_FILE = ""
    anchored(commits)
    settings.AUDIT_ANCHOR_FILE = str(anchor_file)
    caplog.clear()
    caplog.set_level("INFO")
    with commits():
        backups.adopt(by=ROOT)
    newest = {name: AuditAnchor.objects.filter(chain=name).latest("seq").seq for name in (chain, "site")}
    assert newest[chain] == 8
    logged = [record.msg for record in caplog.records if isinstance(record.msg, dict)]
    written = [json.loads(line) for line in anchor_file.read_text().splitlines()]
    for name, seq in newest.items():
        for published in (logged, written):
            found = [each for each in published if (each.get("chain"), each.get("seq")) == (name, seq)]
            assert [each["hash"] for each in found] == [AuditEvent.objects.get(chain=name, seq=seq).hash]


def test_adoption_is_recorded(chain: str, anchor_file: Path, commits: Commits):
    put_back(chain, 3)
    restored(anchor_file)
    with commits():
        backups.adopt(by=ROOT)
    row = AuditEvent.objects.filter(chain="site").latest("seq")
    assert (row.event, row.outcome, row.actor_label) == ("system.restored", "adopted", "root")
    assert row.details["backup"] == BACKUP.digest
    restore = Restore.objects.get()
    assert (restore.adopted_by, restore.adopted_at is None) == ("root", False)
    assert lost_rows({}, {}) is None


def test_it_is_not_adopted_while_the_old_panel_works(team: Team, chain: str, anchor_file: Path, commits: Commits):
    whole = anchor_file.read_text().splitlines(keepends=True)
    put_back(chain, 3)
    anchor_file.write_text(whole[0])  # as it was when the backup was restored
    restored(anchor_file)
    anchor_file.write_text("".join(whole))
    with pytest.raises(UserError, match=r"AUDIT_ANCHOR_FILE names row 5 of team:.*Then restore again\."):
        backups.adopt(by=ROOT)
    assert Restore.objects.get().adopted_at is None


def test_a_file_ahead_of_the_database_stops_publishing(
    team: Team, chain: str, anchor_file: Path, commits: Commits, caplog: pytest.LogCaptureFixture
):
    """An older copy of the database was put in place by hand."""
    put_back(chain, 3)
    before = anchor_file.read_bytes()
    assert not check_anchor_file(), "each process says so as soon as it starts"
    assert "names row 5 of team:" in caplog.text
    append(team, 4)
    anchored(commits)
    assert anchor_file.read_bytes() == before, "row 5 is another one now"
    assert unwritten_since() is not None
    put_back(chain, 3)
    restored(anchor_file)
    with commits():
        backups.adopt(by=ROOT)
    assert anchor_file.read_bytes() != before
    assert unwritten_since() is None
    assert check_anchor_file()
    assert verify()[0] == 0
