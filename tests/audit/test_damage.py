"""Invalid values written to the log by hand, which SQLite accepts in any column. Each is a fault at its row, and
everything that reads the log still works.
"""

import io
import json
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection
from huey.contrib.djhuey import HUEY

from taskruns.audit import EventType, record
from taskruns.audit.anchors import anchor_chain, anchor_changed
from taskruns.models import AuditAnchor, AuditEvent, AuditVerification, Team, TeamRole, User
from taskruns.services import audit
from tests.clients import ClientOf
from tests.factories import actor, member
from tests.queue_worker import work

from .chain_reader import TABLE, stored
from .tampering import ANCHORS, HEADS, IS_POSTGRESQL, edit, fault_texts, found, insert, without_triggers

pytestmark = pytest.mark.usefixtures("empty_queue", "db")

ROWS, PLACE = 6, 4


def only_sqlite(test: Any) -> Any:
    """PostgreSQL's typed columns refuse such values."""
    return None if IS_POSTGRESQL else test


STRANGE = {"bytes": "x'ff00'", "no UTF-8": "CAST(x'ff41' AS TEXT)", "a fraction": "2.5"}
COLUMNS = [field.column for field in AuditEvent._meta.concrete_fields if field.name != "id"]
ANCHOR_COLUMNS = [field.column for field in AuditAnchor._meta.concrete_fields if field.name not in {"id", "chain"}]


@pytest.fixture(scope="module")
def team(file_db: None) -> Team:
    return Team.objects.create(slug="ops-north", name="Ops North")


@pytest.fixture(scope="module")
def oli(team: Team) -> User:
    return member(team, "oli@example.com", TeamRole.OPERATOR)


@pytest.fixture(scope="module")
def chain(team: Team, oli: User) -> str:
    for number in range(ROWS):
        record(EventType.TEAM_CHANGE, "done", by=actor(oli), team=team, reason=f"reason {number}")
    name = f"team:{team.pk}"
    assert anchor_chain(name)
    return name


def put(column: str, value: str, *, table: str = TABLE, where: str = f"seq = {PLACE}") -> None:
    """Write an SQL expression to a column, bypassing SQLite's checks."""
    with without_triggers(), connection.cursor() as cursor:
        if not IS_POSTGRESQL:
            cursor.execute("PRAGMA ignore_check_constraints = 1")
        cursor.execute(f"UPDATE {table} SET {column} = {value} WHERE {where}")
        if not IS_POSTGRESQL:
            cursor.execute("PRAGMA ignore_check_constraints = 0")


@only_sqlite
@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("column", COLUMNS)
def test_any_changed_value_is_a_fault_at_its_row(chain: str, column: str, value: str):
    put(column, value)
    if column == "chain":
        assert ("missing", PLACE) in found(chain)
        is_reported = any("not a valid chain name" in fault for fault in fault_texts(None))
        assert is_reported or ("edited", PLACE) in found("2.5")
        return
    faults = found(chain)
    assert ("edited", PLACE) in faults
    assert {place for _, place in faults} <= {PLACE, PLACE + 1}, "the other rows are not affected"


SPELT_OTHERWISE = {
    "a time that sorts elsewhere": ("at", "replace(at, ' ', 'T')"),
    "a time with a space": ("at", "at || ' '"),
    "a time with an offset": ("at", "at || '+00:00'"),
    "a name twice": ("details", """replace(details, '{', '{"page": "x", ')"""),
    "a space in the details": ("details", "' ' || details"),
    "no space in the details": ("details", "replace(details, ' ', '')"),
}


@only_sqlite
@pytest.mark.parametrize("name", SPELT_OTHERWISE)
def test_the_same_value_spelt_otherwise_is_an_edit(name: str, chain: str, team: Team, oli: User):
    """Filters and sorting compare the text, so they would miss the row."""
    record(EventType.ACCESS_DENIED, "denied", by=actor(oli), team=team, details={"page": "y"})
    column, value = SPELT_OTHERWISE[name]
    assert found(chain) == [], "the control"
    put(column, value, where=f"seq = {ROWS + 1}")
    assert ("edited", ROWS + 1) in found(chain)


def test_a_huge_row_is_not_hashed_a_thousand_times(chain: str, monkeypatch: Any):
    hashed: list[int] = []
    module = "taskruns.services.audit.verification.event_hash"
    monkeypatch.setattr(module, lambda event: hashed.append(event["seq"]) or "")
    edit(chain, 2, details={"a": "x" * 100_000})
    assert (found(chain)[0], hashed) == (("edited", 2), [])
    edit(chain, 2, details={"a": "x" * 10_000})
    assert (found(chain)[0], len(hashed) > 1_000) == (("edited", 2), True), "the control"


@pytest.mark.parametrize(
    ("value", "places"),
    [("-id", [PLACE]), ("id + 1000", [PLACE + 1]), ("0", [PLACE])],
    ids=["hidden from filters", "shown as the newest", "0"],
)
def test_a_changed_id_is_reported_as_reordered(value: str, places: list[int], chain: str):
    """No hash covers the id, but the pages sort by it."""
    put("id", value)
    assert found(chain) == [("reordered", place) for place in places]


@only_sqlite
@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize("column", ANCHOR_COLUMNS)
def test_any_changed_value_in_an_anchor_is_a_bad_anchor(chain: str, column: str, value: str):
    put(column, value, table=ANCHORS, where=f"seq = {ROWS}")
    assert [kind for kind, _ in found(chain)] == ["bad anchor signature"]


@only_sqlite
@pytest.mark.parametrize("value", ["'x'", *STRANGE.values()])
def test_a_head_without_a_number_is_reported(chain: str, value: str):
    put("seq", value, table=HEADS, where="1 = 1")
    assert found(chain) == [("missing", 0)]
    assert audit.start_verification(by=actor(User(email="ada@example.com"))).rows_expected == 0
    anchor_changed()


@only_sqlite
@pytest.mark.parametrize("value", STRANGE.values(), ids=STRANGE)
def test_a_head_with_an_invalid_hash_or_name_is_reported(chain: str, value: str):
    put("hash", value, table=HEADS, where="1 = 1")
    assert found(chain) == [("bad link", ROWS)]
    put("chain", value, table=HEADS, where="1 = 1")
    faults = fault_texts(None)
    assert f"{chain} row 0: missing" in "\n".join(faults)
    anchor_changed()


@pytest.mark.parametrize("seq", [0, -1, -7, -(2**63)])
def test_a_row_before_the_first_is_reported_as_inserted(chain: str, seq: int):
    insert(stored(chain)[0] | {"seq": seq, "event_id": "11111111-1111-4111-8111-111111111111"})
    assert ("inserted", seq) in found(chain)
    assert found("site") == []


def test_a_row_numbered_below_one_is_missing_and_inserted(chain: str):
    edit(chain, PLACE, seq=-PLACE)
    assert set(found(chain)) >= {("missing", PLACE), ("inserted", -PLACE)}


@lambda test: test if IS_POSTGRESQL else None  # SQLite stores times as text
@pytest.mark.parametrize("at", ["infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "20000-01-01 00:00:00+00"])
def test_a_time_python_cannot_represent_is_an_edited_row(chain: str, at: str):
    put("at", f"'{at}'")
    assert found(chain) == [("edited", PLACE)]
    put("signed_at", f"'{at}'", table=ANCHORS, where=f"seq = {ROWS}")
    assert ("bad anchor signature", ROWS) in found(chain)


UNREADABLE = {"at": "'infinity'"} if IS_POSTGRESQL else {"at": "'oops'", "reason": "x'ff'", "details": "'oops'"}
FORGED = {"event": "'x.y'", "details": "'[1]'", "outcome": "'perhaps'"}


@pytest.mark.parametrize(("column", "value"), [*UNREADABLE.items(), *FORGED.items()])
def test_pages_show_the_stored_values_of_a_damaged_row(
    chain: str, column: str, value: str, ada: User, mona: User, client_of: ClientOf
):
    put(column, value)
    for who, path in ((mona, "/teams/ops-north/audit/"), (ada, "/audit/")):
        answer = client_of(who).get(path)
        assert answer.status_code == 200
        text = answer.content.decode()
        assert "This entry cannot be read" in text
        assert "reason 2" in text
        assert "reason 4" in text


@pytest.mark.parametrize(("column", "value"), [*UNREADABLE.items(), *FORGED.items()])
def test_the_export_includes_the_damaged_row_and_its_fault(chain: str, column: str, value: str):
    put(column, value)
    out = io.StringIO()
    call_command("export_audit", "ops-north", stdout=out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    rows = [line["event"] for line in lines if "event" in line]
    assert [row["seq"] for row in rows] == list(range(1, ROWS + 2))
    out.getvalue().encode()
    assert "reason 5" in out.getvalue()


@only_sqlite
def test_a_lone_surrogate_is_escaped_in_an_export(chain: str, mona: User, client_of: ClientOf):
    put("details", """'{"why": "\\ud800"}'""")
    answer = client_of(mona).get("/teams/ops-north/audit/export.jsonl")
    text = b"".join(answer.streaming_content).decode()
    assert '"why":"\\ud800"' in text
    assert b"".join(client_of(mona).get("/teams/ops-north/audit/export.csv").streaming_content).decode()
    assert client_of(mona).get("/teams/ops-north/audit/").status_code == 200


@only_sqlite
def test_searching_for_a_batch_skips_invalid_json_details(chain: str, mona: User, client_of: ClientOf):
    put("details", "'oops'")
    assert client_of(mona).get("/teams/ops-north/audit/?batch=7").status_code == 200


@only_sqlite
def test_verify_now_finishes_and_shows_the_banner(chain: str, ada: User, client_of: ClientOf):
    put("reason", "x'ff00'")
    client_of(ada).post("/audit/verify/")
    work()
    assert not len(HUEY)
    assert AuditVerification.objects.get().result == "faults"
    assert "found 1 fault. The log may have been tampered with" in client_of(ada).get("/runs/").content.decode()


@only_sqlite
def test_a_forged_row_cannot_control_the_terminal(chain: str):
    put("chain", "'x' || char(10) || 'clean' || char(27) || '[2J'")
    faults = fault_texts(None)
    assert any("not a valid chain name" in fault for fault in faults)
    assert all(fault.isprintable() for fault in faults)
