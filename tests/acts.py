"""Everything that a person can do over HTTP, one act for each url and method that changes something: done so that it
works, and the audit events that must come of it.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import responses
from allauth.account.utils import user_pk_to_url_str
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import generate_totp_secret
from allauth.usersessions.models import UserSession
from django.db import connection
from django.test import Client
from django.urls import URLResolver, get_resolver, reverse
from django.utils import timezone
from fido2.utils import websafe_encode

from taskruns.audit import Actor
from taskruns.models import (
    BatchSource,
    BatchState,
    CancelBatch,
    Credential,
    EmergencyStop,
    Invitation,
    ItemState,
    Run,
    SavedView,
    SiteRole,
    Team,
    TeamRole,
    User,
)
from taskruns.pages.teams import link_of
from taskruns.services import batches as bulk
from taskruns.services import invitations
from taskruns.services.people import factors
from tests.clients import code_of, show_factor
from tests.factories import PASSWORD, actor, member, person
from tests.people.soft_passkey import SoftPasskey
from tests.wire import ENDPOINT, run_url, trigger_url, wire_run

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
    batches: dict[str, CancelBatch]  # by the name of the url that acts on it
    arize: responses.RequestsMock
    secret: str  # of tom's authenticator app
    passkey: SoftPasskey  # tom's too
    session: UserSession  # another one of vera's

    def ids_for(self, url: str) -> dict[str, object]:
        return self.ids | {"batch_id": self.batches.get(url, self.batches["batch-confirm"]).pk}

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
            "session_id": self.session.pk,
            "factor_id": Authenticator.objects.get(type="totp").pk,
            "person_id": self.people["vera"].pk,
            "uidb36": "abc",
            "key": "def",
        }

    def client(self, who: str) -> Client:
        client = Client()
        if who:
            client.force_login(self.people[who], backend="allauth.account.auth_backends.AuthenticationBackend")
        if who == "tom":
            show_factor(client, self.people[who])
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
        # A viewer with second factors.
        "tom": member(team, "tom@example.com", TeamRole.VIEWER),
    }
    secret, passkey = add_factors(people["tom"])
    nothing: dict[str, Any] = {"pagination": {"has_more": False}}
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    arize.post(trigger_url(run.task), json=wire_run(run, "PENDING", id="new-run"), status=201)
    arize.get(f"{ENDPOINT}/v2/spaces", json=nothing | {"spaces": []})
    arize.get(f"{ENDPOINT}/v2/tasks", json=nothing | {"tasks": []})
    by: Actor = actor(people["mona"], "manager")
    link = link_of(invitations.invite(team, email="stranger@example.com", role=TeamRole.VIEWER, by=by))
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
        batches=batches_of(team, run, actor(people["oli"])),
        arize=arize,
        secret=secret,
        passkey=passkey,
        session=another_session(people["vera"]),
    )


def add_factors(tom: User) -> tuple[str, SoftPasskey]:
    secret, passkey = generate_totp_secret(), SoftPasskey()
    asked = {"publicKey": {"challenge": "AAAA", "user": {"id": websafe_encode(user_pk_to_url_str(tom).encode())}}}
    credential = json.loads(passkey.create(json.dumps(asked)))
    by = Actor(type="command", label="tests")
    factors.add_totp(tom, secret=secret, by=by)
    factors.add_passkey(tom, name="Soft", credential=credential, by=by)
    return secret, passkey


def another_session(person: User) -> UserSession:
    client = Client()
    client.force_login(person, backend="allauth.account.auth_backends.AuthenticationBackend")
    return UserSession.objects.create(user=person, session_key=client.session.session_key, ip="192.0.2.9")


def views() -> Iterator[tuple[Any, str]]:
    patterns = list(get_resolver().url_patterns)
    while patterns:
        pattern = patterns.pop()
        if isinstance(pattern, URLResolver):
            patterns += pattern.url_patterns
        else:
            yield pattern.callback, str(pattern.name)


def batches_of(team: Team, run: Run, by: Actor) -> dict[str, CancelBatch]:
    """A draft to confirm, one at work to abort, and one that left its run out; of none a row in the log."""

    def batch(**fields: Any) -> CancelBatch:
        draft = bulk.freeze(team, run_ids=[run.pk], source=BatchSource.SELECTION)
        assert draft is not None
        CancelBatch.objects.filter(pk=draft.pk).update(**fields)
        return draft

    asked = {"person": by.person, "person_label": by.label, "asker": {"type": "user", "label": by.label}}
    draft = batch(state=BatchState.DRAFT)
    at_work = batch(state=BatchState.WORKING, **asked)
    aborted = batch(state=BatchState.ABORTED, finished_at=timezone.now(), **asked)
    aborted.items.update(state=ItemState.LEFT_OUT)
    return {"batch-confirm": draft, "batch-abort": at_work, "batch-retry": aborted}


@dataclass(frozen=True)
class Act:
    """`who`: empty for somebody without a session. `events`: (event, outcome) that the act leaves, in order.

    `data` may be made by what comes before the act: a page that was opened, a sign-in half done. `prepare`
    sets a scene that the stage has not.
    """

    url: str
    who: str
    events: tuple[tuple[str, str], ...]
    data: dict[str, object] | Callable[[Stage, Client], dict[str, object]] = field(default_factory=dict)
    method: str = "post"
    prepare: Callable[[Stage], object] = lambda _: None

    @property
    def is_everybodys(self) -> bool:
        """No role has anything to do with it."""
        (view,) = (view for view, name in views() if name == self.url)
        return getattr(view, "declared_access", "signed in") in {"signed in", "anyone"}

    @property
    def _arguments(self) -> list[str]:
        ((_, wanted),) = get_resolver().reverse_dict.getlist(self.url)[0][0]
        return wanted

    def filled(self, stage: Stage, client: Client) -> dict[str, object]:
        return self.data(stage, client) if callable(self.data) else self.data

    def path(self, stage: Stage) -> str:
        return reverse(self.url, kwargs={name: stage.ids_for(self.url)[name] for name in self._arguments})

    def do(self, stage: Stage, client: Client | None = None, data: dict[str, object] | None = None) -> Any:
        client = stage.client(self.who) if client is None else client
        data = self.filled(stage, client) if data is None else data
        return getattr(client, self.method)(self.path(stage), data if self.method == "post" else None)


def a_stop(stage: Stage) -> None:
    oli = stage.people["oli"]
    EmergencyStop.objects.create(team=stage.team, person=oli, person_label=oli.email, reason="why")


# A filled form that starts a run of an evaluation task on a project.
EVALUATION: dict[str, object] = {
    "operation": "5f0c4a34-27a5-4d0c-9d0f-3c3c1b8a0001",
    "data_start_time": "2026-11-22T03:00",
    "data_end_time": "2026-11-23T03:00",
    "max_spans": "10000",
}
TESTED = ("credential.test", "ok")
SIGNED_IN = (("auth.sign_in", "done"),)
TOM = {"login": "tom@example.com", "password": PASSWORD}


def a_code(stage: Stage, client: Client) -> dict[str, object]:
    return {"code": code_of(stage.secret)}


def a_code_after_the_password(stage: Stage, client: Client) -> dict[str, object]:
    client.post(reverse("account_login"), TOM)
    return a_code(stage, client)


def a_code_of_a_new_app(stage: Stage, client: Client) -> dict[str, object]:
    return {"code": code_of(client.get(reverse("factor-totp")).context["secret"])}


def a_new_passkey(stage: Stage, client: Client) -> dict[str, object]:
    options = client.get(reverse("factor-passkey")).context["options"]
    return {"name": "Soft", "credential": SoftPasskey().create(options)}


def the_passkey_alone(stage: Stage, client: Client) -> dict[str, object]:
    asked = client.get(reverse("mfa_login_webauthn"), headers={"Accept": "application/json"}).json()
    return {"credential": stage.passkey.get(asked["request_options"])}


def the_passkey_again(stage: Stage, client: Client) -> dict[str, object]:
    return {"credential": stage.passkey.get(client.get(reverse("mfa_reauthenticate_webauthn")).context["options"])}


def while_disabled(stage: Stage, client: Client) -> dict[str, object]:
    User.objects.filter(pk=stage.people["vera"].pk).update(is_active=False)
    return {}


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
    "enter a second factor": Act("mfa_authenticate", "", SIGNED_IN, a_code_after_the_password),
    "sign in by a passkey alone": Act("mfa_login_webauthn", "", SIGNED_IN, the_passkey_alone),
    "confirm by the password": Act("account_reauthenticate", "vera", SIGNED_IN, {"password": PASSWORD}),
    "confirm by a code": Act("mfa_reauthenticate", "tom", SIGNED_IN, a_code),
    "confirm by a passkey": Act("mfa_reauthenticate_webauthn", "tom", SIGNED_IN, the_passkey_again),
    "add an authenticator app": Act("factor-totp", "vera", (("auth.mfa_add", "done"),), a_code_of_a_new_app),
    "add a passkey": Act("factor-passkey", "vera", (("auth.mfa_add", "done"),), a_new_passkey),
    "make new recovery codes": Act("factor-recovery-codes", "tom", (("auth.mfa_add", "done"),)),
    "remove a second factor": Act("factor-remove", "tom", (("auth.mfa_remove", "done"),)),
    "end a session": Act("session-end", "vera", (("auth.session_end", "done"),)),
    "end the other sessions": Act("sessions-end-others", "vera", (("auth.session_end", "done"),)),
    "change the profile": Act(
        "profile", "vera", (("profile.change", "done"),), {"time_zone": "Asia/Tokyo", "theme": "dark", "shortcuts": ""}
    ),
    "give a site role": Act("person-role", "adam", (("person.grant", "done"),), {"role": "auditor"}),
    "disable a person": Act("person-disable", "adam", (("person.disable", "done"),)),
    "let a person in again": Act("person-enable", "adam", (("person.enable", "done"),), while_disabled),
    "end a person's sessions": Act("person-sessions-end", "adam", (("auth.session_end", "done"),)),
    "make a team": Act("team-new", "adam", (("team.create", "done"),), {"name": "Ops West", "slug": "", "manager": ""}),
    "accept an invitation": Act(
        "invitation",
        "",
        (("person.create", "done"), ("invitation.accept", "done"), ("auth.sign_in", "done")),
        {"name": "Stranger", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD},
    ),
    "cancel a run": Act("run-cancel", "oli", (("run.cancel", "requested"), ("run.cancel", "confirmed"))),
    "cancel many runs": Act(
        "batch-confirm",
        "oli",
        (
            ("run.cancel_many", "requested"),
            ("run.cancel", "requested"),
            ("run.cancel", "confirmed"),
            ("run.cancel_many", "finished"),
        ),
        {"reason": "a bad prompt"},
    ),
    "abort a cancel of many": Act("batch-abort", "oli", (("run.cancel_many", "aborted"),)),
    "start a run": Act("task-trigger", "oli", (("run.trigger", "requested"), ("run.trigger", "done")), EVALUATION),
    "pull the emergency stop": Act(
        "stop",
        "oli",
        (
            *(("run.cancel_many", "requested"), ("stop.pull", "done")),
            *(("run.cancel", "requested"), ("run.cancel", "confirmed"), ("run.cancel_many", "finished")),
        ),
        {"reason": "why"},
    ),
    "lift the emergency stop": Act("stop-lift", "oli", (("stop.lift", "done"),), prepare=a_stop),
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
# A list of runs to look at is no act yet: its rows come with the word to begin.
LATER = {
    "list runs to cancel": Act("batches", "oli", (), {"match": "all", "status": "running"}),
    "list again what was not stopped": Act("batch-retry", "oli", ()),
    # Of the team's chain and of the site's.
    "verify the log": Act("audit-verify", "ada", (("audit.verify", "ok"), ("audit.verify", "ok"))),
}
# What takes no POST, and whose GET leaves no row: looking at runs, keys and members is no act.
ONLY_LOOKED_AT = {
    *("home", "teams", "teams-table", "board", "board-table", "run", "run-by-arize-id", "credentials", "members"),
    *("board-chart", "batch", "task", "task-strip", "board-export-page", "help"),
    *("audit-verification", "encryption", "account_inactive", "rights", "sessions", "factors", "confirm"),
    *("people", "person"),
}
# Without DEBUG, single sign-on and mail these are not there at all; house/test_style_guide.py, sso/test_sign_on.py and
# people/test_password_reset.py have them.
NOT_HERE = {
    "style-guide",
    *("sso-login", "sso-callback", "sso-connect", "sso-disconnect", "sso-again"),
    *("account_reset_password", "account_reset_password_done"),
    *("account_reset_password_from_key", "account_reset_password_from_key_done"),
}
# Tables in which the house keeps house: counters of the sign-in throttle, and of the calls that were made.
HOUSEKEEPING = {"cache", "django_migrations", "taskruns_keyusage"}
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
