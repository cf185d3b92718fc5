"""Everything that a person can do over HTTP, one act for each url and method that changes something: done so that it
works, and the audit events that must come of it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import responses
from django.db import connection
from django.test import Client
from django.urls import get_resolver, reverse

from taskruns.audit import Actor
from taskruns.models import Credential, Invitation, Run, SavedView, SiteRole, Team, TeamRole, User
from taskruns.services import invitations

from .conftest import ENDPOINT, PASSWORD, actor, member, person, run_url, trigger_url, wire_run

NEW_PASSWORD = "another battery staple"
NEW_KEY = "ak-new-1Xy7Qz4Mn8Lk2Jh5"


@dataclass
class Stage:
    """A team with all that can be acted upon, and an Arize that says yes."""

    team: Team
    run: Run
    credential: Credential
    people: dict[str, User]
    invitation: Invitation
    token: str
    view: SavedView
    arize: responses.RequestsMock

    @property
    def ids(self) -> dict[str, object]:
        return {
            "slug": self.team.slug,
            "run_id": self.run.pk,
            "task_id": self.run.task_id,
            "credential_id": self.credential.pk,
            "user_id": self.people["vera"].pk,
            "invitation_id": self.invitation.pk,
            "token": self.token,
            "view_id": self.view.pk,
            "kind": "jsonl",
            "arize_id": self.run.arize_id,
        }

    def client(self, who: str) -> Client:
        client = Client()
        if who:
            client.force_login(self.people[who], backend="allauth.account.auth_backends.AuthenticationBackend")
        return client

    @property
    def posts_to_arize(self) -> int:
        return sum(call.request.method == "POST" for call in self.arize.calls)


@pytest.fixture
def stage(team: Team, run: Run, credential: Credential, arize: responses.RequestsMock) -> Stage:
    people = {
        "vera": member(team, "vera@example.com", TeamRole.VIEWER),
        "oli": member(team, "oli@example.com", TeamRole.OPERATOR),
        "mona": member(team, "mona@example.com", TeamRole.MANAGER),
        "ada": person("ada@example.com", site_role=SiteRole.AUDITOR),
        "adam": person("adam@example.com", site_role=SiteRole.ADMIN),
    }
    nothing: dict[str, Any] = {"pagination": {"has_more": False}}
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    arize.post(trigger_url(run.task), json=wire_run(run, "PENDING", id="new-run"), status=201)
    arize.get(f"{ENDPOINT}/v2/spaces", json=nothing | {"spaces": []})
    arize.get(f"{ENDPOINT}/v2/tasks", json=nothing | {"tasks": []})
    by: Actor = actor(people["mona"], "manager")
    link = invitations.invite(team, email="stranger@example.com", role=TeamRole.VIEWER, by=by).link
    return Stage(
        team=team,
        run=run,
        credential=credential,
        people=people,
        invitation=team.invitations.get(),
        token=link.rstrip("/").rsplit("/", 1)[1],
        view=SavedView.objects.create(
            team=team, owner=people["oli"], name="Failed ones", query="status=failed", is_shared=True
        ),
        arize=arize,
    )


@dataclass(frozen=True)
class Act:
    """`who`: empty for somebody without a session. `events`: (event, outcome) that the act leaves, in order."""

    url: str
    who: str
    events: tuple[tuple[str, str], ...]
    data: dict[str, object] = field(default_factory=dict)
    method: str = "post"

    def path(self, stage: Stage) -> str:
        ((_, wanted),) = get_resolver().reverse_dict.getlist(self.url)[0][0]
        return reverse(self.url, kwargs={name: stage.ids[name] for name in wanted})

    def do(self, stage: Stage, client: Client | None = None) -> Any:
        client = stage.client(self.who) if client is None else client
        return getattr(client, self.method)(self.path(stage), self.data if self.method == "post" else None)


# A filled form that starts a run of an evaluation task on a project.
EVALUATION: dict[str, object] = {
    "operation": "5f0c4a34-27a5-4d0c-9d0f-3c3c1b8a0001",
    "data_start_time": "2026-11-22T03:00",
    "data_end_time": "2026-11-23T03:00",
    "max_spans": "10000",
}
TESTED = ("credential.test", "ok")
ACTS: dict[str, Act] = {
    "sign in": Act(
        "account_login", "", (("auth.sign_in", "done"),), {"login": "vera@example.com", "password": PASSWORD}
    ),
    "fail to sign in": Act(
        "account_login", "", (("auth.sign_in", "failed"),), {"login": "vera@example.com", "password": "wrong"}
    ),
    "sign out": Act("account_logout", "vera", (("auth.sign_out", "done"),)),
    "change the password": Act(
        "account_change_password",
        "vera",
        (("auth.password_change", "done"),),
        {"oldpassword": PASSWORD, "password1": NEW_PASSWORD, "password2": NEW_PASSWORD},
    ),
    "make a team": Act("team-new", "adam", (("team.create", "done"),), {"name": "Ops West", "slug": "", "manager": ""}),
    "accept an invitation": Act(
        "invitation",
        "",
        (("person.create", "done"), ("invitation.accept", "done"), ("auth.sign_in", "done")),
        {"name": "Stranger", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD},
    ),
    "cancel a run": Act("run-cancel", "oli", (("run.cancel", "requested"), ("run.cancel", "confirmed"))),
    "start a run": Act("task-trigger", "oli", (("run.trigger", "requested"), ("run.trigger", "done")), EVALUATION),
    "take the runs away": Act("board-export", "ada", (("run.export", "done"),), method="get"),
    "save a view": Act(
        "saved-views", "oli", (("view.save", "done"),), {"name": "Running", "query": "status=running", "shared": "on"}
    ),
    "rename a view": Act("saved-view", "oli", (("view.save", "done"),), {"name": "Lost ones", "shared": "on"}),
    "make a view the team's default": Act("saved-view-default", "oli", (("view.save", "done"),), {"whose": "team"}),
    "delete a view": Act("saved-view-delete", "oli", (("view.delete", "done"),)),
    "add a key": Act(
        "credential-new",
        "mona",
        (("credential.add", "done"), TESTED),
        {"name": "Second", "endpoint": ENDPOINT, "key": NEW_KEY, "expires_on": ""},
    ),
    "replace a key": Act(
        "credential-replace", "mona", (("credential.replace", "done"), TESTED), {"key": NEW_KEY, "expires_on": ""}
    ),
    "test a key": Act("credential-test", "mona", (TESTED,)),
    "revoke a key": Act("credential-revoke", "mona", (("credential.revoke", "done"),)),
    "add a member": Act(
        "member-add", "mona", (("member.add", "done"),), {"email": "ada@example.com", "role": "viewer"}
    ),
    "invite a stranger": Act(
        "member-add", "mona", (("invitation.create", "done"),), {"email": "new@example.com", "role": "viewer"}
    ),
    "change a role": Act("member-role", "mona", (("member.change_role", "done"),), {"role": "operator"}),
    "remove a member": Act("member-remove", "mona", (("member.remove", "done"),)),
    "take an invitation back": Act("invitation-revoke", "mona", (("invitation.revoke", "done"),)),
    "rename the team": Act("team-settings", "mona", (("team.change", "done"),), {"name": "Ops Far North"}),
    "archive the team": Act("team-archive", "adam", (("credential.revoke", "done"), ("team.archive", "done"))),
    "read the team's log": Act("audit", "mona", (("audit.read", "done"),), method="get"),
    "read the site's log": Act("site-audit", "ada", (("audit.read", "done"),), method="get"),
    "export the team's log": Act("audit-export", "mona", (("audit.export", "done"),), method="get"),
    "export the site's log": Act("site-audit-export", "ada", (("audit.export", "done"),), method="get"),
}
# The act is a job's; its rows come with its end. See `test_verify_now_is_a_job_and_the_page_tells_how_it_went`.
LATER = {
    "verify the log": Act("audit-verify", "ada", (("audit.verify", "ok"),)),
}
# What takes no POST, and whose GET leaves no row: looking at runs, keys and members is no act.
ONLY_LOOKED_AT = {
    *("home", "teams", "teams-table", "board", "board-table", "run", "run-by-arize-id", "credentials", "members"),
    *("board-chart", "task", "task-strip", "board-export-page"),
    *("audit-verification", "account_inactive"),
}
# Tables in which the house keeps house: counters of the sign-in throttle, and when a board was looked at.
HOUSEKEEPING = {"cache", "django_migrations"}
Dump = dict[str, list[tuple[Any, ...]]]


def dump(*, without: Callable[[str], bool] = lambda _: False) -> Dump:
    """All rows of all tables."""
    with connection.cursor() as cursor:
        tables = [name for name in connection.introspection.table_names(cursor) if name not in HOUSEKEEPING]
        found: Dump = {}
        for table in tables:
            if not without(table):
                cursor.execute(f'SELECT * FROM "{table}"')
                found[table] = sorted(cursor.fetchall(), key=repr)
    assert found
    return found
