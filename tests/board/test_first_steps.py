"""The checklist of a new team: what is done, what comes next, and who sees it."""

import re
from datetime import timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.models import Credential, Invitation, Task, Team, TeamRole, User
from tests.clients import ClientOf
from tests.factories import make_credential, make_run, member
from tests.wire import ENDPOINT

BOARD = "/teams/ops-north/runs/"


def steps(client: Client) -> tuple[int, str]:
    """The number of completed steps, and the link of the next one."""
    page = client.get(BOARD).content.decode()
    if 'class="panel first-steps"' not in page:
        return -1, ""
    done = re.search(r">(\d) of 4 done<", page)
    following = re.search(r'<li aria-current="step">(.*?)</li>', page, re.DOTALL)
    assert done
    assert following
    return int(done[1]), "".join(re.findall(r'<a href="([^"]+)"', following[1]))


def test_each_step_links_to_its_page_until_all_are_done(mona: User, team: Team, client_of: ClientOf):
    manager = client_of(mona)
    assert steps(manager) == (0, "/teams/ops-north/credentials/new/")
    key = make_credential(team)
    assert steps(manager) == (1, "/teams/ops-north/credentials/")
    Credential.objects.update(last_good_at=timezone.now())
    assert steps(manager) == (2, "")
    make_run(Task.objects.create(team=team, endpoint=ENDPOINT, arize_id="T1", credential=key))
    assert steps(manager) == (3, "/teams/ops-north/members/")
    member(team, "vera@example.com", TeamRole.VIEWER)
    assert steps(manager) == (-1, "")


def test_an_open_invitation_counts_as_an_invited_member(mona: User, team: Team, client_of: ClientOf):
    tomorrow = timezone.now() + timedelta(days=1)
    invitation = Invitation.objects.create(team=team, email="new@example.com", role="viewer", expires_at=tomorrow)
    assert steps(client_of(mona))[0] == 1
    Invitation.objects.filter(pk=invitation.pk).update(revoked_at=timezone.now())
    assert steps(client_of(mona))[0] == 0


@pytest.mark.parametrize("who", ["vera", "oli", "ada", "adam"])
def test_people_who_cannot_take_the_steps_do_not_see_them(who: str, cast: dict[str, User], client_of: ClientOf):
    assert steps(client_of(cast[who])) == (-1, "")


def test_an_older_team_runs_no_query_for_it(mona: User, team: Team, client_of: ClientOf):
    manager = client_of(mona)

    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            manager.get(BOARD)
        return len(captured)

    queries()
    new = queries()
    Team.objects.update(created_at=timezone.now() - timedelta(days=31))
    assert steps(manager) == (-1, "")
    assert queries() == new - 1
