"""Every request with which a person changes something: one successful example for each url and method, with the audit
events that it must leave.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from django.test import Client
from django.urls import reverse

from taskruns.models import User
from tests.clients import code_of
from tests.factories import PASSWORD
from tests.people.soft_passkey import SoftPasskey
from tests.stage import Stage, a_list_to_start_again, a_stop
from tests.urlconf import views, wanted
from tests.wire import ENDPOINT

NEW_PASSWORD = "another battery staple"
NEW_KEY = "ak-new-1Xy7Qz4Mn8Lk2Jh5"


@dataclass(frozen=True)
class HttpAction:
    """`who`: empty for a browser without a session. `events`: (event, outcome) pairs that the action leaves, in order.

    `data` can be a function, for forms that depend on earlier requests, such as an opened page or a sign-in in
    progress. `prepare` sets up state that the stage does not have.
    """

    url: str
    who: str
    events: tuple[tuple[str, str], ...]
    data: dict[str, object] | Callable[[Stage, Client], dict[str, object]] = field(default_factory=dict)
    method: str = "post"
    prepare: Callable[[Stage], object] = lambda _: None

    @property
    def is_everyones(self) -> bool:
        """Whether it needs no role."""
        (view,) = (view for view, name in views() if name == self.url)
        return getattr(view, "declared_access", "signed in") in {"signed in", "anyone"}

    def filled(self, stage: Stage, client: Client) -> dict[str, object]:
        return self.data(stage, client) if callable(self.data) else self.data

    def path(self, stage: Stage) -> str:
        return reverse(self.url, kwargs={name: stage.ids_for(self.url)[name] for name in wanted(self.url)})

    def do(self, stage: Stage, client: Client | None = None, data: dict[str, object] | None = None) -> Any:
        client = stage.client(self.who) if client is None else client
        data = self.filled(stage, client) if data is None else data
        return getattr(client, self.method)(self.path(stage), data if self.method == "post" else None)


# A valid form that starts a run of an evaluation task on a project.
EVALUATION: dict[str, object] = {
    "operation": "5f0c4a34-27a5-4d0c-9d0f-3c3c1b8a0001",
    "data_start_time": "2026-11-22T03:00",
    "data_end_time": "2026-11-23T03:00",
    "max_spans": "10000",
}
A_RULE: dict[str, object] = {
    "events": ["run.failed", "stop.pull"],
    "view": "",
    "query": "status=failed",
    "min_error_share": "0",
    "usual_percent": "300",
    "running_minutes": "90",
    "pending_minutes": "20",
    "idle_minutes": "30",
    "quiet_minutes": "5",
}
TESTED = (("credential.test", "requested"), ("credential.test", "ok"))
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


ACTIONS: dict[str, HttpAction] = {
    "sign in": HttpAction(
        "account_login", "", (("auth.sign_in", "done"),), {"login": "vera@example.com", "password": PASSWORD}
    ),
    "fail to sign in": HttpAction(
        "account_login", "", (("auth.sign_in", "failed"),), {"login": "vera@example.com", "password": "wrong"}
    ),
    "sign out": HttpAction("account_logout", "vera", (("auth.sign_out", "done"),)),
    "change the password": HttpAction(
        "account_change_password",
        "vera",
        (("auth.password_change", "done"),),
        {"oldpassword": PASSWORD, "password1": NEW_PASSWORD, "password2": NEW_PASSWORD},
    ),
    "enter a second factor": HttpAction("mfa_authenticate", "", SIGNED_IN, a_code_after_the_password),
    "sign in with a passkey alone": HttpAction("mfa_login_webauthn", "", SIGNED_IN, the_passkey_alone),
    "confirm with the password": HttpAction("account_reauthenticate", "vera", SIGNED_IN, {"password": PASSWORD}),
    "confirm with a code": HttpAction("mfa_reauthenticate", "tom", SIGNED_IN, a_code),
    "confirm with a passkey": HttpAction("mfa_reauthenticate_webauthn", "tom", SIGNED_IN, the_passkey_again),
    "add an authenticator app": HttpAction("factor-totp", "vera", (("auth.mfa_add", "done"),), a_code_of_a_new_app),
    "add a passkey": HttpAction("factor-passkey", "vera", (("auth.mfa_add", "done"),), a_new_passkey),
    "create new recovery codes": HttpAction("factor-recovery-codes", "tom", (("auth.mfa_add", "done"),)),
    "remove a second factor": HttpAction("factor-remove", "tom", (("auth.mfa_remove", "done"),)),
    "end a session": HttpAction("session-end", "vera", (("auth.session_end", "done"),)),
    "end the other sessions": HttpAction("sessions-end-others", "vera", (("auth.session_end", "done"),)),
    "change the profile": HttpAction(
        "profile", "vera", (("profile.change", "done"),), {"time_zone": "Asia/Tokyo", "theme": "dark", "shortcuts": ""}
    ),
    "change a name and email": HttpAction(
        "person-change", "adam", (("person.change", "done"),), {"name": "Vera", "email": "vera.new@example.com"}
    ),
    "assign a site role": HttpAction("person-role", "adam", (("person.grant", "done"),), {"role": "auditor"}),
    "disable a person": HttpAction(
        "person-disable",
        "adam",
        (("person.disable", "done"),),
        {"confirmed": "1", "name": "vera@example.com", "reason": "left the company"},
    ),
    "enable a person": HttpAction("person-enable", "adam", (("person.enable", "done"),), while_disabled),
    "end a person's sessions": HttpAction("person-sessions-end", "adam", (("auth.session_end", "done"),)),
    "create a team": HttpAction(
        "team-new", "adam", (("team.create", "done"),), {"name": "Ops West", "slug": "", "manager": ""}
    ),
    "accept an invitation": HttpAction(
        "invitation",
        "",
        (("person.create", "done"), ("invitation.accept", "done"), ("auth.sign_in", "done")),
        {"name": "Stranger", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD},
    ),
    "cancel a run": HttpAction(
        "run-cancel", "oli", (("run.cancel", "requested"), ("run.cancel", "confirmed")), {"confirmed": "1"}
    ),
    "cancel a batch": HttpAction(
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
    "start runs again": HttpAction(
        "batch-confirm",
        "oli",
        (
            *(("run.trigger_many", "requested"), ("run.trigger", "requested")),
            *(("run.trigger", "done"), ("run.trigger_many", "finished")),
        ),
        {"kind": "trigger", "reason": "bad data"},
        prepare=a_list_to_start_again,
    ),
    "abort a batch": HttpAction("batch-abort", "oli", (("run.cancel_many", "aborted"),)),
    "start a run": HttpAction(
        "task-trigger", "oli", (("run.trigger", "requested"), ("run.trigger", "done")), EVALUATION
    ),
    "pull the emergency stop": HttpAction(
        "stop",
        "oli",
        (
            *(("run.cancel_many", "requested"), ("stop.pull", "done")),
            *(("run.cancel", "requested"), ("run.cancel", "confirmed"), ("run.cancel_many", "finished")),
        ),
        {"reason": "why"},
    ),
    "lift the emergency stop": HttpAction("stop-lift", "oli", (("stop.lift", "done"),), prepare=a_stop),
    "leave a note on a run": HttpAction("run-note", "oli", (("run.note", "done"),), {"note": "wrong model"}),
    "export the runs": HttpAction("board-export", "ada", (("run.export", "done"),), method="get"),
    "save a view": HttpAction(
        "saved-views", "oli", (("view.save", "done"),), {"name": "Running", "query": "status=running", "shared": "on"}
    ),
    "rename a view": HttpAction("saved-view", "oli", (("view.save", "done"),), {"name": "Lost ones", "shared": "on"}),
    "make a view the team's default": HttpAction(
        "saved-view-default", "oli", (("view.save", "done"),), {"whose": "team"}
    ),
    "delete a view": HttpAction("saved-view-delete", "oli", (("view.delete", "done"),)),
    "add a key": HttpAction(
        "credential-new",
        "mona",
        (*TESTED, ("credential.add", "done")),
        {"name": "Second", "endpoint": ENDPOINT, "key": NEW_KEY, "expires_on": ""},
    ),
    "replace a key": HttpAction(
        "credential-replace", "mona", (*TESTED, ("credential.replace", "done")), {"key": NEW_KEY, "expires_on": ""}
    ),
    "test a key": HttpAction("credential-test", "mona", TESTED),
    "revoke a key": HttpAction("credential-revoke", "mona", (("credential.revoke", "done"),)),
    "add a channel": HttpAction(
        "channel-new",
        "mona",
        (("channel.add", "done"),),
        {"name": "On call", "kind": "webhook", "address": "https://alerts.example.com/hook"} | A_RULE,
    ),
    "rename a channel": HttpAction(
        "channel-change", "mona", (("channel.change", "done"),), {"name": "Night", "is_on": "on", "address": ""}
    ),
    "test a channel": HttpAction("channel-test", "mona", (("channel.test", "done"),)),
    "mute a channel": HttpAction("channel-mute", "oli", (("channel.mute", "done"),), {"hours": "8"}),
    "remove a channel": HttpAction("channel-remove", "mona", (("channel.remove", "done"),)),
    "add a rule": HttpAction("channel-rule-new", "mona", (("channel.change", "done"),), A_RULE),
    "change a rule": HttpAction("channel-rule", "mona", (("channel.change", "done"),), A_RULE),
    "remove a rule": HttpAction("channel-rule-remove", "mona", (("channel.change", "done"),)),
    "create an address for Arize": HttpAction(
        "arize-hook", "mona", (("channel.add", "done"),), prepare=lambda stage: stage.hook.delete()
    ),
    "store its secret": HttpAction(
        "arize-hook-secret", "mona", (("channel.change", "done"),), {"auth": "hmac", "secret": "whsec_of-the-test-1"}
    ),
    "remove its address": HttpAction("arize-hook-remove", "mona", (("channel.remove", "done"),)),
    "create a token": HttpAction(
        "token-new",
        "mona",
        (("token.create", "done"),),
        {"name": "Nightly", "role": "operator", "days": "90", "credential": "", "networks": "192.0.2.0/24"},
    ),
    "replace a token": HttpAction(
        "token-replace", "mona", (("token.create", "done"),), {"hours": "24", "days": "90", "credential": ""}
    ),
    "revoke a token": HttpAction("token-revoke", "mona", (("token.revoke", "done"),)),
    "add a member": HttpAction(
        "member-add", "mona", (("member.add", "done"),), {"email": "ada@example.com", "role": "viewer"}
    ),
    "invite a stranger": HttpAction(
        "member-add", "mona", (("invitation.create", "done"),), {"email": "new@example.com", "role": "viewer"}
    ),
    "change a role": HttpAction("member-role", "mona", (("member.change_role", "done"),), {"role": "operator"}),
    "remove a member": HttpAction("member-remove", "mona", (("member.remove", "done"),)),
    "revoke an invitation": HttpAction("invitation-revoke", "mona", (("invitation.revoke", "done"),)),
    "rename the team": HttpAction("team-settings", "mona", (("team.change", "done"),), {"name": "Ops Far North"}),
    "archive the team": HttpAction(
        "team-archive",
        "adam",
        (("credential.revoke", "done"), ("token.revoke", "done"), ("team.archive", "done")),
        {"confirmed": "1", "name": "Ops North", "reason": "merged into another team"},
    ),
    "read the team's log": HttpAction("audit", "mona", (("audit.read", "done"),), method="get"),
    "read the site's log": HttpAction("site-audit", "ada", (("audit.read", "done"),), method="get"),
    "export the team's log": HttpAction("audit-export", "mona", (("audit.export", "done"),), method="get"),
    "export the site's log": HttpAction("site-audit-export", "ada", (("audit.export", "done"),), method="get"),
}
# Actions whose audit rows come later: preparing a batch leaves none until it is confirmed, and a job verifies the log.
LATER = {
    "prepare a batch": HttpAction("batches", "oli", (), {"match": "all", "status": "running"}),
    "prepare to start runs again": HttpAction(
        "batches", "oli", (), {"kind": "trigger", "match": "all", "status": "failed"}, prepare=a_list_to_start_again
    ),
    "remove a run from a list": HttpAction("batch-remove", "oli", (), lambda stage, _: {"remove": [str(stage.run.pk)]}),
    # One's own notice is no act of the team's.
    "ask for a mail about a run": HttpAction("run-notice", "vera", ()),
    "retry a batch": HttpAction("batch-retry", "oli", ()),
    # One row in the team's chain, one in the site's.
    "verify the log": HttpAction("audit-verify", "ada", (("audit.verify", "ok"), ("audit.verify", "ok"))),
}
# Urls that take no POST and whose GET leaves no row: reading runs, keys and members is not recorded.
READ_ONLY = {
    *(
        "home",
        "teams",
        "teams-table",
        "teams-chart",
        "board",
        "board-table",
        "run",
        "run-by-arize-id",
        "credentials",
        *("channels", "channel", "tokens"),
        "members",
    ),
    *("board-chart", "batch", "task", "task-strip", "board-export-page", "help"),
    *("audit-verification", "encryption", "account_inactive", "rights", "sessions", "factors", "confirm"),
    "confirm-finish",
    *("people", "person"),
}
# Urls that do not exist without DEBUG, single sign-on and mail. house/test_style_guide.py, sso/test_sign_on.py and
# people/test_password_reset.py test them.
ABSENT = {
    "style-guide",
    "gateway",  # for tokens: gateway/
    "hook",  # the token is that of an invitation: channels/test_hooks.py
    *("sso-login", "sso-callback", "sso-connect", "sso-disconnect", "sso-again"),
    *("account_reset_password", "account_reset_password_done"),
    *("account_reset_password_from_key", "account_reset_password_from_key_done"),
}
