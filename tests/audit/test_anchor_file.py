"""The anchor file outside the database: every verification reads it, missing anchors are appended later, and a fault
it revealed stays on the page until a clean comparison.
"""

import io
import json
import os
import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.core.management import CommandError, call_command
from django.db import connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from huey.contrib.djhuey import HUEY

from taskruns import jobs
from taskruns.audit import Actor, EventType, record
from taskruns.audit.anchors import anchor_chain, anchor_changed, check_anchor_file, unwritten_since
from taskruns.models import AnchorToPublish, AuditAnchor, AuditVerification, Heartbeat, Team, User
from taskruns.services import audit
from taskruns.services.audit.anchors import AnchorFile
from taskruns.services.audit.rows import ANCHOR, stream_values
from tests import forked_command
from tests.audit.verifying import verify
from tests.clients import ClientOf
from tests.database_refusals import accept_inserts, refuse_inserts
from tests.queue_worker import work

from .tampering import ANCHORS, delete, edit, set_head

pytestmark = pytest.mark.usefixtures("empty_queue")

VERA = Actor(type="user", id="7", label="vera@example.com", role="viewer")
BANNER = "The last verification of the audit log found"


def append(team: Team | None, rows: int = 1) -> None:
    for _ in range(rows):
        with transaction.atomic():
            record(EventType.TEAM_CHANGE, "done", by=VERA, team=team)


@pytest.fixture
def chain(team: Team, anchor_file: Path, commits: Any) -> str:
    """Five rows. The third and the last have anchors, in the database and in the file."""
    append(team, 3)
    with commits():
        anchor_changed()
    append(team, 2)
    with commits():
        anchor_changed()
    return f"team:{team.pk}"


def cut(chain: str) -> None:
    """Cut the tail, and everything in the database that refers to it."""
    delete(chain, "seq > 3")
    delete(chain, "seq > 3", table=ANCHORS)
    set_head(chain, 3)


def seqs(path: Path) -> list[int]:
    return [json.loads(line)["seq"] for line in path.read_text().splitlines() if line.startswith("{") and "}" in line]


# --- Reading the file


def test_verification_reads_audit_anchor_file(chain: str, anchor_file: Path, settings: Any):
    assert verify() == (0, [f"{chain}: 5 rows, 2 anchors checked", "clean"])
    cut(chain)
    code, lines = verify("--chain", "ops-north")
    assert code == 1
    assert f"{chain} row 5: anchor not met" in lines[0]
    settings.AUDIT_ANCHOR_FILE = ""
    assert verify("--chain", "ops-north")[0] == 0, "the control: it was the file"


def test_a_given_anchor_file_is_used_instead(chain: str, anchor_file: Path, tmp_path: Path):
    (tmp_path / "older").write_text(anchor_file.read_text().splitlines()[0] + "\n")
    cut(chain)
    assert verify("--anchors", str(tmp_path / "older"))[0] == 0
    assert verify()[0] == 1


def test_an_unreadable_anchor_file_is_exit_2_after_the_rest(chain: str, anchor_file: Path):
    anchor_file.unlink()
    out = io.StringIO()
    with pytest.raises(CommandError, match=r"^AUDIT_ANCHOR_FILE cannot be read") as refused:
        call_command("verify_audit", stdout=out)
    assert (refused.value.returncode, "clean" in out.getvalue()) == (2, False)
    assert f"{chain}: 5 rows" in out.getvalue()
    assert "note: not compared with AUDIT_ANCHOR_FILE: The anchor file cannot be read" in out.getvalue()
    assert "not checked against external anchors" in out.getvalue()
    edit(chain, 4, reason="another")
    code, lines = verify()
    assert (code, lines[-1]) == (1, "1 faults"), "a fault counts more"


@pytest.mark.parametrize("held", ["", "garbage\n", "another panel's"])
def test_an_anchor_file_that_was_emptied_or_overwritten_is_exit_2(held: str, chain: str, anchor_file: Path):
    theirs = anchor_file.read_text().replace(chain, "team:5b0c7a52-7d0c-4b3f-9a51-0c1f0a1f4e11")
    anchor_file.write_text(theirs if held == "another panel's" else held)
    out = io.StringIO()
    with pytest.raises(CommandError, match=r"AUDIT_ANCHOR_FILE .*has no anchors of this log") as refused:
        call_command("verify_audit", "--chain", "ops-north", stdout=out)
    assert (refused.value.returncode, "clean" in out.getvalue()) == (2, False)


def test_before_the_first_anchor_there_is_no_file(team: Team, anchor_file: Path):
    append(team)
    assert verify()[0] == 0
    assert not anchor_file.exists()


@pytest.mark.parametrize("held", ["", "\n", "another"])
def test_a_given_file_without_anchors_of_the_chain_is_an_error(
    held: str, chain: str, anchor_file: Path, tmp_path: Path, other_team: Team, commits: Any
):
    other = tmp_path / "other.jsonl"
    append(other_team)
    with commits():
        anchor_changed()
    lines = anchor_file.read_text().splitlines(keepends=True)
    elsewhere = [line for line in lines if json.loads(line)["chain"] != chain]
    assert len(elsewhere) == 1
    other.write_text("".join(elsewhere) if held == "another" else held)
    with pytest.raises(CommandError, match=r"(contains|has) no anchors") as refused:
        verify("--chain", "ops-north", "--anchors", str(other))
    assert refused.value.returncode == 2
    assert verify("--chain", "ops-north", "--anchors", str(anchor_file))[0] == 0, "the control"


def test_a_chain_missing_from_the_file_is_noted_and_clears_no_fault(
    chain: str, anchor_file: Path, other_team: Team, commits: Any
):
    append(other_team)
    with commits():
        anchor_changed()
    copy = anchor_file.read_text().splitlines(keepends=True)
    cut(chain)
    assert verify()[0] == 1
    assert audit.latest_failed() is not None
    anchor_file.write_text("".join(line for line in copy if json.loads(line)["chain"] != chain))
    code, lines = verify()
    output = " ".join(lines)
    assert code == 0
    assert f"the anchor file has no anchors for chain {chain}" in output
    assert "not checked against external anchors" in output
    assert audit.latest_failed() is not None, "an empty file proves nothing"


def test_banner_stays_until_a_clean_comparison_with_anchors(
    chain: str, ada: User, client_of: ClientOf, anchor_file: Path, settings: Any
):
    def banner() -> bool:
        return BANNER in client_of(ada).get("/runs/").content.decode()

    def verify_now() -> str:
        client_of(ada).post("/audit/verify/")
        work()
        assert not len(HUEY)
        return AuditVerification.objects.latest("started_at").result

    whole = anchor_file.read_text()
    assert (verify_now(), banner()) == ("clean", False)
    anchor_file.write_text(whole.replace('"seq": 5', '"seq": 7'))
    assert (verify_now(), banner()) == ("faults", True)
    page = client_of(ada).get("/audit/").content.decode()
    assert re.search(r';\s+checked against\s+<a href="/help/#audit">external anchors', page)
    settings.AUDIT_ANCHOR_FILE = ""
    assert (verify_now(), banner()) == ("clean", True), "it did not compare with the anchors"
    assert verify()[0] == 0
    assert banner()
    settings.AUDIT_ANCHOR_FILE = str(anchor_file)
    anchor_file.write_text(whole)
    assert (verify_now(), banner()) == ("clean", False)


def test_an_interrupted_verification_shows_the_banner(
    chain: str, ada: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr("taskruns.services.audit.verification.stream_values", fail)
    client_of(ada).post("/audit/verify/")
    work()
    assert "did not finish" in client_of(ada).get("/runs/").content.decode()
    with pytest.raises(CommandError, match=r"the log was not fully checked: MemoryError\(\)") as refused:
        verify()
    assert refused.value.returncode == 2


# --- Torn lines, order, many chains


def test_torn_lines_are_reported_by_number_and_others_count(chain: str, anchor_file: Path):
    lines = anchor_file.read_text().splitlines()
    anchor_file.write_bytes(
        b"\n".join([b'{"chain": "si', lines[1].encode(), b"\x00\xff", lines[0].encode(), b"", b"[]"])
    )
    code, output = verify()
    assert code == 0
    assert "note: anchor file lines that are not anchors, cut short by a crash or edited: 1, 3, 6" in output
    cut(chain)
    assert f"{chain} row 5: anchor not met" in "\n".join(verify()[1])


def test_order_and_duplicate_lines_do_not_matter(chain: str, anchor_file: Path, team: Team):
    append(None, 2)
    anchor_changed()
    site = [json.dumps(line) for line in stream_values(AuditAnchor.objects.filter(chain="site"), ANCHOR)]
    lines = [*anchor_file.read_text().splitlines(), *site]
    anchor_file.write_text("\n".join([*reversed(lines), *lines]))
    code, output = verify()
    assert (code, output[-1]) == (0, "clean")
    assert f"{chain}: 5 rows, 2 anchors checked" in output


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(chain: str, anchor_file: Path):
    one = json.loads(anchor_file.read_text().splitlines()[0])

    def peak(lines: int) -> int:
        anchor_file.write_text("".join(json.dumps(one | {"seq": number}) + "\n" for number in range(lines)))
        tracemalloc.start()
        outside = AnchorFile(anchor_file)
        assert sum(1 for _ in outside.of(chain)) == lines
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(10)
    assert peak(20_000) < peak(1_000) * 1.3


# --- Anchors missing from the file


@pytest.mark.parametrize("trouble", ["gone", "directory"])
def test_missing_anchors_are_appended_later(team: Team, anchor_file: Path, commits: Any, trouble: str, settings: Any):
    if trouble == "gone":
        settings.AUDIT_ANCHOR_FILE = str(anchor_file.parent / "gone" / "anchors.jsonl")
    else:
        anchor_file.mkdir()
    for _ in range(3):
        append(team)
        with commits():
            assert anchor_changed() == 1
    assert AnchorToPublish.objects.count() == 3
    if trouble == "gone":
        Path(settings.AUDIT_ANCHOR_FILE).parent.mkdir()
    else:
        anchor_file.rmdir()
    jobs.look_after_audit()
    path = Path(settings.AUDIT_ANCHOR_FILE)
    assert seqs(path) == [1, 2, 3]
    assert not AnchorToPublish.objects.exists()
    jobs.look_after_audit()
    assert seqs(path) == [1, 2, 3], "once"


def test_a_torn_last_line_does_not_damage_the_next(team: Team, anchor_file: Path, commits: Any):
    anchor_file.write_text('{"chain": "site", "se')
    append(team)
    with commits():
        anchor_changed()
    first, second = anchor_file.read_text().splitlines()
    assert first == '{"chain": "site", "se'
    assert json.loads(second)["seq"] == 1
    assert anchor_file.read_text().endswith("\n")


def test_no_anchors_are_queued_without_a_file(team: Team):
    append(team)
    assert anchor_changed() == 1
    assert not AnchorToPublish.objects.exists()


def test_no_anchor_is_made_if_it_cannot_be_queued(team: Team, anchor_file: Path):
    """Both or neither, or an anchor could be missing from the file permanently."""
    append(team)
    refuse_inserts("taskruns_anchortopublish")
    with transaction.atomic():
        assert anchor_changed() == 0
    assert not AuditAnchor.objects.exists()
    accept_inserts("taskruns_anchortopublish")
    assert anchor_changed() == 1


# --- Anchors missing from the database


def test_too_many_rows_without_an_anchor_are_reported(team: Team, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("taskruns.services.audit.verification.MAX_UNANCHORED", 10)
    chain = f"team:{team.pk}"
    append(team, 8)
    anchor_chain(chain)
    append(team, 8)
    anchor_chain(chain)
    assert verify()[0] == 0
    delete(chain, "seq = 8", table=ANCHORS)
    code, lines = verify()
    assert code == 1
    assert lines[0].startswith(f"{chain} row 1: anchor not met: 10 rows from here on have no anchor")
    delete(chain, "1 = 1", table=ANCHORS)
    assert [line for line in verify()[1] if "anchor not met" in line] == lines[:1]


def test_old_rows_without_an_anchor_are_reported(team: Team):
    chain = f"team:{team.pk}"
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False) as now:
        append(team)
        anchor_chain(chain)
        append(team)
        now.shift(600)
        assert verify()[0] == 0
        now.shift(1)
        code, lines = verify("--chain", "ops-north")
    assert code == 1
    assert lines[0].startswith(f"{chain} row 2: anchor not met: written at 2026-11-23T03:00:00.000000Z, no anchor")


def test_every_changed_chain_is_anchored_before_an_export(team: Team, other_team: Team):
    append(team)
    append(other_team)
    audit.export(team, by=VERA, kind="jsonl")
    assert set(AuditAnchor.objects.values_list("chain", "seq")) == {
        (f"team:{team.pk}", 2),
        (f"team:{other_team.pk}", 1),
    }


def test_one_chain_that_cannot_be_anchored_does_not_block_others(team: Team, other_team: Team):
    append(team)
    append(other_team)
    refuse_inserts(ANCHORS, unless=f"NEW.chain <> 'team:{team.pk}'")
    with transaction.atomic():
        assert anchor_changed() == 1
    assert AuditAnchor.objects.get().chain == f"team:{other_team.pk}"


def test_few_queries_when_no_anchor_is_due(team: Team, other_team: Team):
    append(team)
    append(other_team)
    anchor_changed()
    with CaptureQueriesContext(connection) as queries:
        assert anchor_changed() == 0
    assert len(queries) == 1


# --- A file that cannot be written


@pytest.mark.parametrize("value", [5, "x", {"a": 1}, True])
def test_a_made_up_time_without_the_file_is_no_error(value: object, chain: str, ada: User, client_of: ClientOf):
    cache.set("audit-anchors-unwritten-since", value, 300)
    assert client_of(ada).get("/audit/").status_code == 200
    assert Client().get("/readyz").status_code == 503


@pytest.fixture
def ready(db: None) -> Any:
    Heartbeat.objects.create(name="worker", seen_at=timezone.now())

    def answer() -> tuple[int, bytes]:
        found = Client().get("/readyz")
        return found.status_code, found.content

    return answer


def test_readyz_fails_while_the_anchor_file_is_unwritable(
    team: Team, tmp_path: Path, settings: Any, commits: Any, ready: Any, ada: User, mona: User, client_of: ClientOf
):
    def lines() -> list[bool]:
        pages = [client_of(ada).get("/audit/"), client_of(mona).get("/teams/ops-north/audit/")]
        return [b"the panel has not been able to write anchors" in page.content for page in pages]

    settings.AUDIT_ANCHOR_FILE = str(tmp_path / "gone" / "anchors.jsonl")
    assert ready() == (200, b"ok\n")
    append(team)
    with commits():
        anchor_changed()
    assert ready() == (503, b"not ready\n"), "no detail for strangers"
    assert lines() == [True, True]
    (tmp_path / "gone").mkdir()
    jobs.look_after_audit()
    assert ready() == (200, b"ok\n")
    assert lines() == [False, False]
    assert seqs(tmp_path / "gone" / "anchors.jsonl") == [1], "what waited is written"


def test_an_unwritable_file_is_noticed_without_an_anchor(tmp_path: Path, settings: Any, ready: Any):
    settings.AUDIT_ANCHOR_FILE = str(tmp_path)  # a directory
    jobs.look_after_audit()
    assert not AnchorToPublish.objects.exists()
    assert ready()[0] == 503
    settings.AUDIT_ANCHOR_FILE = ""
    assert ready()[0] == 200, "no file is wanted"


def test_the_page_names_the_first_failure(tmp_path: Path, settings: Any, db: None):
    settings.AUDIT_ANCHOR_FILE = str(tmp_path)
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False) as clock:
        jobs.look_after_audit()
        clock.shift(120)
        jobs.look_after_audit()
        assert str(unwritten_since()) == "2026-11-23 03:00:00+00:00"
        clock.shift(400)
        assert unwritten_since() is None, "nobody tried for minutes: the worker's heartbeat says so"


def test_each_process_checks_the_file_at_its_start(db: None, tmp_path: Path, settings: Any):
    settings.AUDIT_ANCHOR_FILE = str(tmp_path / "anchors.jsonl")
    assert check_anchor_file()
    settings.AUDIT_ANCHOR_FILE = str(tmp_path)
    assert not check_anchor_file()
    settings.AUDIT_ANCHOR_FILE = ""
    assert check_anchor_file()


@pytest.mark.slow
@pytest.mark.parametrize("module", ["config.wsgi", "run_huey"])
def test_web_and_worker_log_an_unwritable_file_at_start(module: str, tmp_path: Path):
    code = {
        "config.wsgi": "import config.wsgi",
        "run_huey": "import sys, django; django.setup(); from taskruns.management.commands import run_huey as worker; "
        "worker.HueyCommand.handle = lambda *_, **__: sys.exit(); worker.readiness.refuse_start = lambda: None; "
        "worker.Command().handle()",
    }[module]
    environ = os.environ | {"DJANGO_SETTINGS_MODULE": "config.settings", "AUDIT_ANCHOR_FILE": str(tmp_path)}
    done = forked_command.run(["-c", code], env=environ)
    assert done.returncode == 0
    logged = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert [line["event"] for line in logged].count("audit_anchor_file_not_writable") == 1
