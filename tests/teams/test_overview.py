"""The home page of auditors and site admins begins with what is wrong in any team."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.audit import anchors
from taskruns.models import Credential, EmergencyStop, Heartbeat, Membership, Run, Status, Task, Team, User
from taskruns.pages import overview as page
from taskruns.pages.overview import Overview, Problem
from tests.clients import ClientOf
from tests.factories import make_credential, make_run, make_task

MINUTE = timedelta(minutes=1)


@pytest.fixture
def read(task: Task) -> Task:
    Credential.objects.update(last_good_at=timezone.now())
    return task


def seen_by(someone: User, client_of: ClientOf) -> Overview:
    found: Overview = client_of(someone).get("/runs/").context["overview"]
    return found


def problems_of(someone: User, client_of: ClientOf) -> dict[str, tuple[tuple[str, str], ...]]:
    """Text -> the name and address of each link."""
    found = seen_by(someone, client_of).problems
    return {it.text: tuple((link.text, link.url) for link in it.links) for it in found}


def failed(task: Task, *, ago: timedelta, **fields: Any) -> Run:
    ended = timezone.now() - ago
    return make_run(task, status=Status.FAILED, created_at=ended - MINUTE, run_finished_at=ended, **fields)


def test_only_people_who_see_all_teams_have_it(read: Task, cast: dict[str, User | None], client_of: ClientOf):
    for name in ("ada", "adam"):
        assert "No team has a rejected API key" in client_of(cast[name]).get("/runs/").content.decode()
    for name in ("vera", "oli", "mona", "otto"):
        answer = client_of(cast[name]).get("/runs/")
        assert "overview" not in answer.context
        assert "All teams, those with a problem first" not in answer.content.decode()


def test_each_problem_leads_to_its_place(
    read: Task, team: Team, other_team: Team, oli: User, ada: User, client_of: ClientOf
):
    assert problems_of(ada, client_of) == {}
    make_credential(other_team, failing_since=timezone.now())
    make_credential(other_team, name="Late", last_good_at=timezone.now() - 10 * MINUTE)
    EmergencyStop.objects.create(team=team, person=oli, person_label=oli.email, person_role="operator", reason="x")
    north, south = "/teams/ops-north", "/teams/ops-south"
    active = {"1 emergency stop is active": (("Ops North", f"{north}/stop/"),)}
    paused = {
        "1 emergency stop is paused because the person who pulled it lost the right": (("Ops North", f"{north}/stop/"),)
    }
    others = {
        "Arize rejects 1 API key": (("Ops South", f"{south}/credentials/"),),
        "1 team was not read from Arize in the last 6 minutes": (("Ops South", f"{south}/runs/"),),
    }
    assert problems_of(ada, client_of) == others | active
    Membership.objects.filter(user=oli).delete()
    assert problems_of(ada, client_of) == others | paused


def test_a_number_of_failed_runs_leads_to_just_these_runs(read: Task, team: Team, ada: User, client_of: ClientOf):
    lately = [failed(read, ago=10 * MINUTE), failed(read, ago=59 * MINUTE)]
    # Created long ago, and failed without a time of Arize's.
    lately.append(failed(read, ago=20 * MINUTE))
    Run.objects.filter(pk=lately[2].pk).update(sorted_at=timezone.now() - timedelta(days=9), run_finished_at=None)
    failed(read, ago=70 * MINUTE)
    make_run(read)
    ((text, ((name, url),)),) = problems_of(ada, client_of).items()
    (line,) = seen_by(ada, client_of).teams
    assert (text, name, line.failed) == ("3 runs failed in the last hour", "Ops North", 3)
    assert url.startswith("/teams/ops-north/runs/?status=failed&ended_after=")
    for link in (url, line.failed_url):
        rows = client_of(ada).get(link).context["board"].rows
        assert {row.id for row in rows} == {str(run.pk) for run in lately}


def test_worker_and_anchors_are_among_the_problems(
    read: Task, ada: User, client_of: ClientOf, settings: Any, tmp_path: Path
):
    Heartbeat.objects.create(name="worker", seen_at=timezone.now() - 5 * MINUTE)
    settings.AUDIT_ANCHOR_FILE = str(tmp_path / "absent" / "anchors")
    anchors.publish()
    worker, anchor = seen_by(ada, client_of).problems
    assert worker.text.startswith("The panel's worker has not been seen for 5 min")
    assert re.fullmatch(r"Since 20\S+ \S+ UTC, anchors of the audit log cannot be written to their file", anchor.text)
    assert [link.url for link in anchor.links] == ["/audit/"]
    cache.clear()


def test_teams_with_a_problem_come_first(read: Task, other_team: Team, ada: User, client_of: ClientOf):
    make_run(read)
    assert [line.name for line in seen_by(ada, client_of).teams] == ["Ops North", "Ops South"]
    make_credential(other_team, failing_since=timezone.now())
    south, north = seen_by(ada, client_of).teams
    assert (south.name, south.keys, south.failing, south.read) == ("Ops South", 1, 1, None)
    assert (north.name, north.keys, north.active, north.failing, north.is_late) == ("Ops North", 1, 1, 0, False)


def test_the_cost_does_not_grow_and_the_lists_are_capped(
    read: Task, ada: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(page, "ROWS", 4)
    client = client_of(ada)
    with CaptureQueriesContext(connection) as few:
        client.get("/runs/")
    for number in range(8):
        team = Team.objects.create(name=f"Team {number}", slug=f"team-{number}")
        key = make_credential(team, failing_since=timezone.now())
        failed(make_task(team, key), ago=MINUTE)
    with CaptureQueriesContext(connection) as many:
        answer = client.get("/runs/")
    assert len(many) == len(few)
    found: Overview = answer.context["overview"]
    rejected: Problem = found.problems[0]
    assert (rejected.text, len(rejected.links), rejected.more) == ("Arize rejects 8 API keys", 5, 3)
    assert (len(found.teams), [link.text for link in found.others][-1]) == (4, "Ops North")
    assert "5 more teams" in answer.content.decode()


def test_names_of_teams_are_escaped(read: Task, team: Team, ada: User, client_of: ClientOf):
    Team.objects.update(name="<b>North</b>")
    failed(read, ago=MINUTE)
    text = client_of(ada).get("/runs/").content.decode()
    assert "<b>North" not in text
    assert "&lt;b&gt;North" in text
