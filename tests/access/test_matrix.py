"""Who reaches what: one table of url name x method x person -> status, and the audit row of each denial.

A url that is missing from the table fails. The gate comes before the method check, so that a 405 reveals nothing to
people without access.
"""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import responses
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import generate_totp_secret
from django.test import Client
from django.urls import reverse

from taskruns.models import ArizeHook, AuditEvent, EmergencyStop, PersonSession, SavedView, Team, TeamRole, User
from taskruns.pages.teams import link_of
from taskruns.services import invitations
from taskruns.services.people import factors
from tests.access.browsers import Browsers, undone
from tests.access.scene import Scene
from tests.clients import sign_in, signed_in
from tests.factories import actor, make_channel, make_token, person
from tests.stage import batches_of
from tests.urlconf import url_names, wanted
from tests.wire import ENDPOINT, run_url, wire_run

# Two kinds of outsiders: otto manages another team, nora is in none.
PEOPLE = ("anonymous", "nora", "otto", "vera", "oli", "mona", "ada", "adam")
OTHER_METHODS = ("PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@dataclass(frozen=True)
class Row:
    """Statuses in the order of PEOPLE. `event`, `get_event`: how a denied POST and a denied GET are recorded."""

    get: str
    post: str
    event: str = "access.denied"
    get_event: str = "access.denied"
    is_teams: bool = True


#                      anonymous nora otto  vera oli mona  ada adam
MEMBERS_READ = Row(get="302 404 404  200 200 200  200 200", post="302 404 404  405 405 405  405 405")
LOG_READ = Row(get="302 404 404  403 403 200  200 200", post="302 404 404  403 403 405  405 405")
LEADS = "302 404 404  302 302 302  302 302"  # to the page that has the form
OPERATOR_GET = "302 404 404  403 405 405  403 403"
MANAGER_GET, MANAGER_POST = "302 404 404  403 403 200  403 403", "302 404 404  403 403 {}  403 403"
PEOPLE_POST = "302 404 404  403 403 {0}  403 {0}"
NO_GET = PEOPLE_POST.format(405)
SITE_ADMIN_GET = "302 404 404  403 403 403  403 200"
SITE_LOG_READ = Row(get="302 403 403  403 403 403  200 200", post="302 403 403  403 403 403  405 405", is_teams=False)
SITE_LOG_POST = "302 403 403  403 403 403  302 302"

EVERYBODY = "302 200 200  200 200 200  200 200"
ABSENT = Row(get=EVERYBODY.replace("200", "404"), post=EVERYBODY.replace("200", "404"), is_teams=False)
PEOPLE_READ = Row(get="302 403 403  403 403 403  200 200", post="302 403 403  403 403 403  405 405", is_teams=False)
PEOPLE_CHANGE = Row(get="302 403 403  403 403 403  403 405", post="302 403 403  403 403 403  403 302", is_teams=False)

# Urls of one run, task or credential: the denial names it.
AIMED_AT = ("run", "task", "credential")
TABLE: dict[str, Row] = {
    # Everyone has their own choice of teams. The home page redirects to it or to a board.
    "home": Row(get="302 302 302  302 302 302  302 302", post="302 405 405  405 405 405  405 405", is_teams=False),
    "teams": Row(get="302 200 200  200 200 200  200 200", post="302 405 405  405 405 405  405 405", is_teams=False),
    "teams-table": Row(
        get="302 200 200  200 200 200  200 200", post="302 405 405  405 405 405  405 405", is_teams=False
    ),
    "teams-chart": Row(
        get="302 200 200  200 200 200  200 200", post="302 405 405  405 405 405  405 405", is_teams=False
    ),
    "team-new": Row(
        get="302 403 403  403 403 403  403 200",
        post="302 403 403  403 403 403  403 422",
        event="team.create",
        is_teams=False,
    ),
    # This invitation is for a new person; people with another account see whom it is for.
    "invitation": Row(
        get="200 200 200  200 200 200  200 200", post="422 422 422  422 422 422  422 422", is_teams=False
    ),
    "board": MEMBERS_READ,
    "board-table": MEMBERS_READ,
    "run-by-arize-id": Row(get="302 404 404  302 302 302  302 302", post=MEMBERS_READ.post),
    "board-chart": MEMBERS_READ,
    "run": MEMBERS_READ,
    # The POST asks whether to; the GET leads to the run.
    "run-cancel": Row(get=LEADS, post="302 404 404  403 200 200  403 403", event="run.cancel"),
    # Without a text. The GET leads to the run.
    "run-note": Row(
        get="302 404 404  302 302 302  302 302", post="302 404 404  403 422 422  403 403", event="run.note"
    ),
    # This panel sends no mail, so the POST says so on the run's page.
    "run-notice": Row(get="302 404 404  302 302 302  302 302", post="302 404 404  302 302 302  302 302"),
    "task": MEMBERS_READ,
    "task-strip": Row(get="302 404 404  302 302 302  302 302", post=MEMBERS_READ.post),
    "task-trigger": Row(
        get="302 404 404  403 200 200  403 403", post="302 404 404  403 422 422  403 403", event="run.trigger"
    ),
    "stop": Row(get=MEMBERS_READ.get, post="302 404 404  403 422 422  403 403", event="stop.pull"),
    # The active stop is oli's. stops/test_actions.py tests that another operator may not lift it.
    "stop-lift": Row(
        get="302 404 404  403 405 405  403 403", post="302 404 404  403 302 302  403 403", event="stop.lift"
    ),
    "board-export-page": MEMBERS_READ,
    "board-export": MEMBERS_READ,
    # Members save views; auditors and site admins do not. This view is oli's, shared with the team.
    "saved-views": Row(get=MEMBERS_READ.get, post="302 404 404  422 422 422  403 403", event="view.save"),
    "saved-view": Row(
        get="302 404 404  403 405 403  403 403", post="302 404 404  403 422 403  403 403", event="view.save"
    ),
    "saved-view-default": Row(
        get="302 404 404  405 405 405  403 403", post="302 404 404  302 302 302  403 403", event="view.save"
    ),
    "saved-view-delete": Row(
        get="302 404 404  403 405 405  403 403", post="302 404 404  403 302 302  403 403", event="view.delete"
    ),
    # The only url where GET and POST need different rights: past batches, and the start of one.
    "batches": Row(get=MEMBERS_READ.get, post="302 404 404  403 422 422  403 403", event="run.cancel_many"),
    "batch": MEMBERS_READ,
    "batch-confirm": Row(get=LEADS, post="302 404 404  403 422 422  403 403", event="run.cancel_many"),
    "batch-remove": Row(get=LEADS, post="302 404 404  403 200 200  403 403", event="run.cancel_many"),
    "batch-abort": Row(get=OPERATOR_GET, post="302 404 404  403 302 302  403 403", event="run.cancel_many"),
    "batch-retry": Row(get=OPERATOR_GET, post="302 404 404  403 302 302  403 403", event="run.cancel_many"),
    "credentials": LOG_READ,
    "credential-new": Row(get=MANAGER_GET, post=MANAGER_POST.format(422), event="credential.add"),
    "credential-replace": Row(get=MANAGER_GET, post=MANAGER_POST.format(422), event="credential.replace"),
    "credential-test": Row(get=MANAGER_POST.format(405), post=MANAGER_POST.format(302), event="credential.test"),
    "credential-revoke": Row(get=MANAGER_GET, post=MANAGER_POST.format(302), event="credential.revoke"),
    "channels": MEMBERS_READ,
    "channel": MEMBERS_READ,
    "channel-new": Row(get=MANAGER_GET, post=MANAGER_POST.format(422), event="channel.add"),
    "channel-change": Row(get=MANAGER_GET, post=MANAGER_POST.format(422), event="channel.change"),
    "channel-test": Row(get=MANAGER_POST.format(405), post=MANAGER_POST.format(302), event="channel.test"),
    "channel-mute": Row(get=OPERATOR_GET, post="302 404 404  403 302 302  403 403", event="channel.mute"),
    "channel-remove": Row(get=MANAGER_GET, post=MANAGER_POST.format(302), event="channel.remove"),
    "channel-rule-new": Row(get=MANAGER_GET, post=MANAGER_POST.format(422), event="channel.change"),
    "channel-rule": Row(get=MANAGER_GET, post=MANAGER_POST.format(422), event="channel.change"),
    "channel-rule-remove": Row(get=MANAGER_POST.format(405), post=MANAGER_POST.format(302), event="channel.change"),
    "arize-hook": Row(get=MANAGER_GET, post=MANAGER_POST.format(200), event="channel.add"),
    "arize-hook-secret": Row(get=MANAGER_GET, post=MANAGER_POST.format(422), event="channel.change"),
    "arize-hook-remove": Row(get=MANAGER_POST.format(405), post=MANAGER_POST.format(302), event="channel.remove"),
    "tokens": Row(get=MANAGER_GET, post=MANAGER_POST.format(405)),
    "token-new": Row(get=MANAGER_GET, post=MANAGER_POST.format(422), event="token.create"),
    "token-replace": Row(get=MANAGER_GET, post=MANAGER_POST.format(422), event="token.create"),
    "token-revoke": Row(get=MANAGER_GET, post=MANAGER_POST.format(302), event="token.revoke"),
    "members": Row(get="302 404 404  403 403 200  403 200", post=PEOPLE_POST.format(405)),
    "member-add": Row(get=NO_GET, post=PEOPLE_POST.format(422), event="member.add"),
    "member-role": Row(get=NO_GET, post=PEOPLE_POST.format(422), event="member.change_role"),
    "member-remove": Row(get=NO_GET, post=PEOPLE_POST.format(302), event="member.remove"),
    "invitation-revoke": Row(get=NO_GET, post=PEOPLE_POST.format(302), event="invitation.revoke"),
    "team-settings": Row(get=MANAGER_GET, post=MANAGER_POST.format(422), event="team.change"),
    # The POST asks whether to.
    "team-archive": Row(get=SITE_ADMIN_GET, post="302 404 404  403 403 403  403 200", event="team.archive"),
    # Everyone's own pages. This deployment has neither single sign-on nor mail.
    "rights": Row(get=EVERYBODY, post=EVERYBODY.replace("200", "405"), is_teams=False),
    "profile": Row(get=EVERYBODY, post=EVERYBODY.replace("200", "422"), is_teams=False),
    "sessions": Row(get=EVERYBODY, post=EVERYBODY.replace("200", "405"), is_teams=False),
    "sessions-end-others": Row(
        get=EVERYBODY.replace("200", "405"), post=EVERYBODY.replace("200", "302"), is_teams=False
    ),
    "factors": Row(get=EVERYBODY, post=EVERYBODY.replace("200", "405"), is_teams=False),
    "factor-totp": Row(
        get="302 200 200  200 200 302  200 200", post="302 422 422  422 422 302  422 422", is_teams=False
    ),
    "factor-passkey": Row(get=EVERYBODY, post=EVERYBODY.replace("200", "422"), is_teams=False),
    # This authenticator app is mona's.
    "factor-recovery-codes": Row(
        get="302 302 302  302 302 200  302 302", post="302 302 302  302 302 200  302 302", is_teams=False
    ),
    "confirm": Row(get=EVERYBODY.replace("200", "302"), post=EVERYBODY.replace("200", "405"), is_teams=False),
    # Nothing waits for a confirmation: home.
    "confirm-finish": Row(get=EVERYBODY.replace("200", "302"), post=EVERYBODY.replace("200", "405"), is_teams=False),
    "people": PEOPLE_READ,
    "person": PEOPLE_READ,
    # Without an email: 422 for the site admin.
    "person-change": replace(PEOPLE_CHANGE, post="302 403 403  403 403 403  403 422", event="person.change"),
    "person-role": replace(
        PEOPLE_CHANGE, post=PEOPLE_CHANGE.post.replace("302", "422").replace("422", "302", 1), event="person.grant"
    ),
    # The POST asks whether to.
    "person-disable": Row(
        get="302 403 403  403 403 403  403 200",
        post="302 403 403  403 403 403  403 200",
        event="person.disable",
        is_teams=False,
    ),
    "person-enable": replace(PEOPLE_CHANGE, event="person.enable"),
    "person-sessions-end": replace(PEOPLE_CHANGE, event="auth.session_end"),
    "audit": replace(LOG_READ, get_event="audit.read"),
    "audit-export": replace(LOG_READ, get_event="audit.export"),
    "site-audit": replace(SITE_LOG_READ, get_event="audit.read"),
    "audit-verification": replace(SITE_LOG_READ, get_event="audit.read"),
    "encryption": replace(SITE_LOG_READ, get_event="audit.read"),
    "audit-verify": Row(get=SITE_LOG_READ.post, post=SITE_LOG_POST, event="audit.verify", is_teams=False),
    "site-audit-export": replace(SITE_LOG_READ, get_event="audit.export"),
}
# allauth's own views answer an invalid form with 200.
ACCOUNT: dict[str, Row] = {
    "account_login": Row(get="200 302 302  302 302 302  302 302", post="200 302 302  302 302 302  302 302"),
    "account_logout": Row(get="302 200 200  200 200 200  200 200", post="302 302 302  302 302 302  302 302"),
    "account_inactive": Row(get="200 200 200  200 200 200  200 200", post="405 405 405  405 405 405  405 405"),
    # No sign-in is in progress, and only mona has second factors.
    "mfa_authenticate": Row(get="302 302 302  302 302 302  302 302", post="302 302 302  302 302 302  302 302"),
    "mfa_login_webauthn": Row(get="302 302 302  302 302 302  302 302", post="302 302 302  302 302 302  302 302"),
    "account_reauthenticate": Row(get="302 200 200  200 200 302  200 200", post="302 200 200  200 200 302  200 200"),
    "mfa_reauthenticate": Row(get="302 302 302  302 302 200  302 302", post="302 302 302  302 302 200  302 302"),
    "mfa_reauthenticate_webauthn": Row(
        get="302 302 302  302 302 302  302 302", post="302 302 302  302 302 302  302 302"
    ),
    # This session is oli's.
    "session-end": Row(get=EVERYBODY.replace("200", "405"), post="302 404 404  404 302 404  404 404", is_teams=False),
    # This authenticator app is mona's.
    "factor-remove": Row(
        get="302 404 404  404 404 200  404 404", post="302 404 404  404 404 302  404 404", is_teams=False
    ),
    # Open to everyone, but 404 without mail or single sign-on.
    **dict.fromkeys(
        (
            "account_reset_password",
            "account_reset_password_done",
            "account_reset_password_from_key",
            "account_reset_password_from_key_done",
        ),
        Row(get="404 404 404  404 404 404  404 404", post="404 404 404  404 404 404  404 404"),
    ),
    # For programs, which prove that they are Arize. This address does not exist.
    "hook": Row(get=EVERYBODY.replace("200", "405").replace("302", "405"), post="404 404 404  404 404 404  404 404"),
    # For scripts, which have a token. A session opens nothing here.
    "gateway": Row(get="401 401 401  401 401 401  401 401", post="401 401 401  401 401 401  401 401", is_teams=False),
    "help": Row(get=EVERYBODY, post=EVERYBODY.replace("200", "405"), is_teams=False),
    # With DEBUG only.
    "style-guide": replace(ABSENT, post=EVERYBODY.replace("200", "405")),
    "sso-again": ABSENT,
    "sso-connect": replace(ABSENT, get=EVERYBODY.replace("200", "405")),
    "sso-disconnect": replace(ABSENT, get=EVERYBODY.replace("200", "405")),
    "sso-login": Row(get="405 405 405  405 405 405  405 405", post="404 404 404  404 404 404  404 404"),
    "sso-callback": Row(get="404 404 404  404 404 404  404 404", post="405 405 405  405 405 405  405 405"),
    "account_change_password": Row(get="302 200 200  200 200 200  200 200", post="302 200 200  200 200 200  200 200"),
}


def statuses(line: str) -> dict[str, int]:
    return dict(zip(PEOPLE, map(int, line.split()), strict=True))


@pytest.fixture(scope="module")
def everybody(scene: Scene) -> dict[str, User | None]:
    return scene.people | {"nora": person("nora@example.com")}


@pytest.fixture(scope="module")
def urls(scene: Scene, everybody: dict[str, Any]) -> dict[str, str]:
    """The path of each url name, with existing ids."""
    team, run, credential = scene.team, scene.run, scene.run.task.credential
    mona, oli, vera = everybody["mona"], everybody["oli"], everybody["vera"]
    by = actor(mona, "manager")
    link = link_of(invitations.invite(team, email="stranger@example.com", role=TeamRole.VIEWER, by=by))
    invitation = team.invitations.get()
    EmergencyStop.objects.create(team=team, person=oli, person_label=oli.email, reason="why")
    view = SavedView.objects.create(team=team, owner=oli, name="Failed ones", query="status=failed", is_shared=True)
    channel = make_channel(team)
    rule = channel.rules.get()
    ArizeHook.objects.create(team=team, digest="0" * 64, created_by_label=mona.email)
    sign_in(Client(), oli.email)
    factors.add_totp(mona, secret=generate_totp_secret(), by=by)
    batches = batches_of(team, run, actor(oli))
    args: dict[str, list[object]] = {
        **{name: [team.slug, batch.pk] for name, batch in batches.items()},
        "batch": [team.slug, batches["batch-confirm"].pk],
        "batch-remove": [team.slug, batches["batch-confirm"].pk],
        "invitation": [link.rstrip("/").rsplit("/", 1)[1]],
        "run": [team.slug, run.pk],
        "run-cancel": [team.slug, run.pk],
        "run-note": [team.slug, run.pk],
        "run-notice": [team.slug, run.pk],
        **{name: [team.slug, channel.pk] for name in TABLE if name.startswith("channel") and name != "channels"},
        "channel-new": [team.slug],
        "channel-rule": [team.slug, channel.pk, rule.pk],
        "channel-rule-remove": [team.slug, channel.pk, rule.pk],
        "run-by-arize-id": [team.slug, run.arize_id],
        "task": [team.slug, run.task_id],
        "task-strip": [team.slug, run.task_id],
        "task-trigger": [team.slug, run.task.pk],
        "saved-view": [team.slug, view.pk],
        "saved-view-default": [team.slug, view.pk],
        "saved-view-delete": [team.slug, view.pk],
        "credential-replace": [team.slug, credential.pk],
        "credential-test": [team.slug, credential.pk],
        "credential-revoke": [team.slug, credential.pk],
        "token-replace": [team.slug, (script := make_token(team, maker=mona)[0]).pk],
        "token-revoke": [team.slug, script.pk],
        "member-role": [team.slug, vera.pk],
        "member-remove": [team.slug, vera.pk],
        "invitation-revoke": [team.slug, invitation.pk],
        "audit-export": [team.slug, "jsonl"],
        "hook": ["no-such-token"],
        "site-audit-export": ["jsonl"],
        "session-end": [PersonSession.objects.get().pk],
        "factor-remove": [Authenticator.objects.get(type="totp").pk],
        "account_reset_password_from_key": ["abc", "def"],
        **{name: [vera.pk] for name in TABLE if name.startswith("person")},
    }
    teams = {name: [team.slug] for name, row in TABLE.items() if row.is_teams}
    return {name: reverse(name, args=(teams | args).get(name, [])) for name in TABLE | ACCOUNT}


@pytest.fixture(scope="module")
def all_browsers(everybody: dict[str, User | None], urls: dict[str, str]) -> Browsers:
    return Browsers(everybody, signed_in)


@pytest.fixture
def browsers(all_browsers: Browsers, scene: Scene, db: None, arize: responses.RequestsMock) -> Browsers:
    """With an Arize that answers. The changes of a test are rolled back after it."""
    arize.post(run_url(scene.run, "/cancel"), json=wire_run(scene.run, "CANCELLED"))
    arize.get(f"{ENDPOINT}/v2/spaces", json={"spaces": [], "pagination": {"has_more": False}})
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": [], "pagination": {"has_more": False}})
    return all_browsers


def assert_recorded(
    denials: list[AuditEvent], name: str, row: Row, method: str, who: str, status: int, path: str, team: Team
) -> None:
    """A 403 is recorded in the team's chain. A 404, an anonymous POST and urls outside teams go to the site's chain.

    Allowed requests and anonymous GETs leave no denial.
    """
    if name == "gateway":  # whoever is signed in, the request has no token
        assert [(it.chain, it.event, it.actor_type) for it in denials] == [("site", "token.refused", "anonymous")]
        return
    denied_as = row.get_event if method == "GET" else row.event
    if who == "anonymous" and method == "POST" and name != "invitation":
        (denial,) = denials
        assert (denial.chain, denial.event, denial.actor_type) == ("site", denied_as, "anonymous")
        return
    if who == "anonymous" or status not in {403, 404}:
        attempts = [denial for denial in denials if denial.event != "invitation.accept"]  # another person's: a 422
        assert not attempts, f"{who} {method}"
        return
    (denial,) = denials
    assert denial.actor_label == f"{who}@example.com"
    assert denial.details == {"page": name, "path": path, "method": method}
    aimed_at = next((kind for kind in AIMED_AT if f"{kind}_id" in wanted(name)), "page")
    assert denial.target_type == ("page" if status == 404 else aimed_at)
    if status == 404:
        assert (denial.chain, denial.event) == ("site", "access.denied")
    else:
        assert denial.event == denied_as
        assert denial.chain == (f"team:{team.pk}" if row.is_teams else "site")


def test_every_url_is_in_the_table():
    assert url_names() == sorted(TABLE | ACCOUNT)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "row"), [*TABLE.items(), *ACCOUNT.items()], ids=[*TABLE, *ACCOUNT])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_panel_follows_the_table(
    name: str, row: Row, method: str, urls: dict[str, str], browsers: Browsers, scene: Scene
):
    """Each denial is also a row in the right chain."""
    found, denials = {}, {}
    for who in PEOPLE:
        with undone():
            found[who] = browsers[who].generic(method, urls[name]).status_code
            denials[who] = list(AuditEvent.objects.filter(outcome="denied"))
    assert found == statuses(row.get if method == "GET" else row.post)
    if name in TABLE:  # allauth's own denials are tested elsewhere
        for who in PEOPLE:
            assert_recorded(denials[who], name, row, method, who, found[who], urls[name], scene.team)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLE)
def test_other_methods_do_not_bypass_the_gate(name: str, urls: dict[str, str], browsers: Browsers):
    rights = statuses(TABLE[name].post)
    is_gated = name != "invitation"
    for number, who in enumerate(PEOPLE):
        refused = rights[who] if is_gated and (who == "anonymous" or rights[who] in {401, 403, 404}) else 405
        # Two methods for each person, so that each method is tried by at least three people.
        for method in (OTHER_METHODS[number % 5], OTHER_METHODS[(number + 2) % 5]):
            with undone():
                found = browsers[who].generic(method, urls[name]).status_code
            assert (who, method, found) == (who, method, refused)


@pytest.mark.parametrize(("name", "row"), TABLE.items(), ids=TABLE)
def test_each_url_lets_someone_in(name: str, row: Row):
    """The control of the 404s. A 422 counts too: only the empty form was invalid."""
    let_in = {statuses(line)[who] for line in (row.get, row.post) for who in PEOPLE[1:]}
    assert let_in & {200, 302, 422}


@pytest.mark.slow
def test_head_does_not_bypass_the_gate(urls: dict[str, str], browsers: Browsers):
    for name, row in TABLE.items():
        for who, status in statuses(row.get).items():
            with undone():
                found = browsers[who].head(urls[name]).status_code
            is_refused = (who, status) == ("anonymous", 302) or status in {403, 404}
            assert found in ({status} if is_refused else {status, 405}), f"{who} {name}"
