"""The team as its reader's requests load it: the prepared query finds what Django finds with the same values."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.db.models import DateTimeField, UUIDField, Value
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.models import Channel, EmergencyStop, Heartbeat, Membership, Team, TeamRole, User
from taskruns.models.credentials import RETRIED_WITHIN
from taskruns.models.jobs import QUEUE, WORKER
from taskruns.models.prepared import Prepared
from taskruns.models.teams import confirmed_since
from taskruns.services import members
from tests.factories import NOW, make_channel, make_credential, person
from tests.threads import in_threads

DAYS = timedelta(days=1)
# When something ends: a key's wait, the emergency stop, then zoe's role from her groups.
MOMENTS = (NOW, NOW + timedelta(minutes=10), NOW + 2 * DAYS, NOW + 8 * DAYS)


@pytest.fixture
def zoe(team: Team, other_team: Team) -> User:
    """A manager in both teams, in one of them by her groups."""
    zoe = person("zoe@example.com", sso_signed_in_at=NOW)
    Membership.objects.create(team=team, user=zoe, role=TeamRole.MANAGER, by_groups=True)
    Membership.objects.create(team=other_team, user=zoe, role=TeamRole.VIEWER)
    return zoe


@pytest.fixture
def readers(team: Team, other_team: Team, oli: User, otto: User, ada: User, zoe: User) -> list[User]:
    """Of two teams: one with keys in every state and an emergency stop, one without anything."""
    make_credential(team, name="good", last_good_at=NOW)
    make_credential(team, name="waiting", last_good_at=NOW - DAYS, backoff_until=NOW + timedelta(minutes=2))
    make_credential(team, name="failing", last_good_at=NOW - 2 * DAYS, failing_since=NOW)
    make_credential(team, name="revoked", last_good_at=NOW - 3 * DAYS, revoked_at=NOW)
    Channel.objects.filter(pk=make_channel(team).pk).update(muted_until=NOW + timedelta(minutes=1))
    EmergencyStop.objects.create(team=team, person_label="oli", reason="why", expires_at=NOW + DAYS)
    Heartbeat.objects.create(name=WORKER, seen_at=NOW)
    Heartbeat.objects.create(name=QUEUE, seen_at=NOW - timedelta(minutes=1))
    return [oli, otto, ada, zoe]


def found_by_django(reader: User) -> list[dict[str, Any]]:
    """Built and compiled anew, with values instead of slots."""
    now = Value(timezone.now(), DateTimeField())
    teams = members.annotated(
        person=Value(reader.pk, UUIDField()),
        now=now,
        since=Value(confirmed_since(), DateTimeField()),
        retried_since=Value(timezone.now() - RETRIED_WITHIN, DateTimeField()),
        database_now=now,
    )
    return [content(team) for team in teams.order_by("name")]


def content(team: Team) -> dict[str, Any]:
    return {name: value for name, value in vars(team).items() if name != "_state"}


def seen(reader: User, slug: str) -> Team:
    team = members.seen_by(reader, slug)
    assert team is not None
    return team


def test_each_reader_sees_what_django_finds_at_each_moment(readers: list[User]):
    answers = []
    for moment in MOMENTS:
        with time_machine.travel(moment, tick=False):
            for reader in readers:
                found = [content(seen(reader, slug)) for slug in ("ops-north", "ops-south")]
                assert found == found_by_django(reader)
                expected = [row for row in found if row["role"]]
                assert [content(team) for team in members.own_seen_by(reader)] == expected
                answers.append([{name: row[name] for name in row if name != "database_now"} for row in found])
    assert all(answers.count(answer) < len(MOMENTS) for answer in answers), "each reader sees something end"


def test_values_have_the_types_of_django(readers: list[User]):
    with time_machine.travel(NOW, tick=False):
        team = seen(readers[3], "ops-north")
    assert (team.role, team.reader_manages, team.has_other_teams, team.is_stopped) == ("manager", True, True, True)
    assert (team.as_of, team.waiting_keys, team.database_now) == (NOW - DAYS, 1, NOW)
    assert (team.worker_seen_at, team.queue_seen_at) == (NOW, NOW - timedelta(minutes=1))
    assert team == Team.objects.get(slug="ops-north")


def test_an_unknown_team_is_none(oli: User):
    assert members.seen_by(oli, "ops-never") is None


def test_a_team_is_loaded_with_one_query_that_is_not_compiled_again(oli: User, monkeypatch: pytest.MonkeyPatch):
    seen(oli, "ops-north")
    monkeypatch.setattr(members, "annotated", None)
    with CaptureQueriesContext(connection) as queries:
        assert seen(oli, "ops-north").role == "operator"
    assert len(queries) == 1


@pytest.mark.usefixtures("committed")
def test_parallel_calls_do_not_mix_their_values(team: Team, other_team: Team, oli: User, otto: User):
    def look(number: int) -> tuple[str, str]:
        reader = (oli, otto)[number % 2]
        found = [seen(reader, slug) for slug in ("ops-north", "ops-south")]
        return (found[0].role, found[1].role)

    assert in_threads(20, look) == [("operator", ""), ("", "manager")] * 10


def test_a_slot_without_its_value_is_an_error(oli: User):
    prepared: Prepared[Team] = members._team(has_clock=False)
    with pytest.raises(KeyError, match="slug"):
        prepared.rows(**members._reader(oli))
