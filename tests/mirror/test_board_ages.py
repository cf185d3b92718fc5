"""How old a board is: its oldest status, and since when a new run may be missing."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from taskruns.models import Credential, Status, Task, Team
from taskruns.models.tasks import UNLISTED_AFTER
from taskruns.services.mirror.staleness import Ages, board_ages, keys_with_ages
from tests.factories import make_credential, make_run
from tests.fake_arize import START

pytestmark = pytest.mark.django_db


def ago(seconds: float) -> Any:
    return START - timedelta(seconds=seconds)


@pytest.fixture
def key(credential: Credential) -> Credential:
    """Its tasks were listed 3 s ago; T1 was searched 40 s ago, T2 20 s ago."""
    Credential.objects.update(tasks_listed_from=ago(3), tasks_read_at=START)
    for number, seconds in ((1, 40), (2, 20)):
        make_task(credential, f"T{number}", searched_at=ago(seconds))
    return Credential.objects.get()


def make_task(key: Credential, arize_id: str, **fields: Any) -> Task:
    return Task.objects.create(team=key.team, endpoint=key.endpoint, credential=key, arize_id=arize_id, **fields)


def ages(*teams: Team) -> Ages:
    """For one team, by its prepared query: what the query of several teams finds."""
    found = board_ages([team.pk for team in teams or Team.objects.all()])
    together = board_ages([*(team.pk for team in teams or Team.objects.all()), uuid.uuid4()])
    assert (found, found.versions) == (together, together.versions)
    return found


def test_the_oldest_status_of_an_active_run_counts(key: Credential) -> None:
    assert ages().statuses_at is None
    task = Task.objects.get(arize_id="T1")
    make_run(task, observed_at=ago(9))
    make_run(task, observed_at=ago(4))
    make_run(task, observed_at=ago(900), status=Status.COMPLETED)
    assert ages().statuses_at == ago(9)


@pytest.mark.parametrize("state", [{"failing_since": START}, {"revoked_at": START}])
def test_keys_that_do_not_work_do_not_count(state: dict[str, Any], key: Credential) -> None:
    other = make_credential(key.team, name="Other", tasks_listed_from=ago(500), tasks_read_at=START)
    make_run(make_task(other, "T9", searched_at=ago(600)), observed_at=ago(700))
    assert ages() == Ages(ago(700), ago(600))
    Credential.objects.filter(pk=other.pk).update(**state)
    assert ages() == Ages(None, ago(40))


def test_the_task_searched_longest_ago_and_the_listing_count(key: Credential) -> None:
    assert ages().searched_at == ago(40)
    Credential.objects.update(tasks_listed_from=ago(90))
    assert ages().searched_at == ago(90)


def test_before_each_task_was_searched_nothing_is_claimed(key: Credential) -> None:
    new = make_task(key, "T3")
    assert ages().searched_at is None
    Task.objects.filter(pk=new.pk).update(searched_at=ago(1))
    assert ages().searched_at == ago(40)
    Credential.objects.update(tasks_listed_from=None)
    assert ages().searched_at is None
    Credential.objects.update(revoked_at=START)
    assert ages() == Ages(None, None)


def test_tasks_that_arize_no_longer_lists_do_not_count(key: Credential) -> None:
    make_task(key, "T3", searched_at=ago(9_000), listed_at=ago(1) - UNLISTED_AFTER)
    make_task(key, "", searched_at=None)
    assert ages().searched_at == ago(40)
    Task.objects.filter(arize_id="T3").update(listed_at=timezone.now())
    assert ages().searched_at == ago(9_000), "the control"


def test_the_keys_of_one_team_are_read_as_those_of_several(key: Credential, other_team: Team) -> None:
    make_credential(other_team)
    states = {"Q": {"last_good_at": ago(9)}, "R": {"failing_since": START}, "S": {"revoked_at": START}}
    for name, fields in states.items():
        make_task(make_credential(key.team, name=name, **fields), f"T-{name}", searched_at=ago(7))

    def columns(team_ids: list[uuid.UUID]) -> list[dict[str, Any]]:
        return [{name: it for name, it in vars(key).items() if name != "_state"} for key in keys_with_ages(team_ids)]

    assert columns([key.team.pk]) == columns([key.team.pk, uuid.uuid4()])
    assert [row["name"] for row in columns([key.team.pk])] == ["Production", "Q", "R"]
    assert not any("ciphertext" in row for row in columns([key.team.pk]))
    assert len(keys_with_ages([key.team.pk, other_team.pk])) == 4


@pytest.mark.parametrize("place", ["task", "listing"])
def test_a_search_of_the_future_proves_nothing(place: str, key: Credential):
    """It was noted before the clock was set back, perhaps long ago."""
    make_task(key, "T8", searched_at=ago(30))
    assert ages().searched_at == ago(40)
    if place == "task":
        make_task(key, "T9", searched_at=ago(-3_600))
    else:
        Credential.objects.update(tasks_listed_from=ago(-3_600))
    assert ages().searched_at is None


def test_a_status_of_the_future_has_no_age(key: Credential):
    make_run(make_task(key, "T8", searched_at=ago(60)), observed_at=ago(-3_600))
    assert ages().statuses_at is None


def test_a_board_of_several_teams_shows_the_oldest(
    key: Credential, other_team: Team, django_assert_num_queries: Any
) -> None:
    other = make_credential(other_team, tasks_listed_from=ago(2), tasks_read_at=START)
    make_run(make_task(other, "T1", searched_at=ago(60)), observed_at=ago(5))
    assert ages(key.team) == Ages(None, ago(40))
    assert ages(other_team) == Ages(ago(5), ago(60))
    with django_assert_num_queries(1):
        assert board_ages([key.team.pk, other_team.pk]) == Ages(ago(5), ago(60))
