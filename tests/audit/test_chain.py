"""The chain has no gaps under rollbacks and concurrent writers, on both databases."""

import pytest
from django.db import transaction

from taskruns.audit import Actor, EventType, record
from taskruns.models import AuditEvent, Team
from tests.threads import in_threads

from .chain_reader import assert_whole

pytestmark = [pytest.mark.commits, pytest.mark.usefixtures("any_details")]
VERA = Actor(type="user", id="7", label="vera@example.com", role="viewer")


def test_writing_outside_a_transaction_is_refused(committed: None):
    with pytest.raises(transaction.TransactionManagementError):
        record(EventType.TEAM_CREATE, "done", by=VERA)
    assert not AuditEvent.objects.exists()
    with transaction.atomic():
        record(EventType.TEAM_CREATE, "done", by=VERA)
    assert_whole("site", rows=1)


def test_a_rollback_leaves_no_gap(committed: None):
    for number in range(6):
        with transaction.atomic():
            record(EventType.TEAM_CREATE, "done", by=VERA, details={"number": number})
            transaction.set_rollback(number % 2 == 0)
    rows = assert_whole("site", rows=3)
    assert [row["details"]["number"] for row in rows] == [1, 3, 5]


def append(team: Team | None, *, writer: int, times: int) -> None:
    for number in range(times):
        with transaction.atomic():
            record(EventType.TEAM_CHANGE, "done", by=VERA, team=team, details={"writer": writer, "number": number})


def test_eight_writers_on_one_chain_leave_no_gap_or_duplicate(committed: None):
    in_threads(8, lambda writer: append(None, writer=writer, times=10))
    rows = assert_whole("site", rows=80)
    written = {(row["details"]["writer"], row["details"]["number"]) for row in rows}
    assert written == {(writer, number) for writer in range(8) for number in range(10)}


def test_eight_writers_on_three_chains_do_not_deadlock(committed: None):
    teams = [Team.objects.create(slug="one", name="One"), Team.objects.create(slug="two", name="Two"), None]

    def append_to_each(writer: int) -> None:
        for number in range(12):
            append(teams[(writer + number) % 3], writer=writer, times=1)

    in_threads(8, append_to_each)
    for team in teams:
        assert_whole(f"team:{team.pk}" if team else "site", rows=32)
