"""The commands for people, teams and API keys: repeating a call changes nothing, and errors are one line."""

import io
import sys
from datetime import timedelta

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from taskruns.models import AuditEvent, Cancellation, Channel, Credential, Membership, Run, Task, Team, User
from taskruns.services import teams
from taskruns.services.channels.addresses import destination_of
from taskruns.services.people import accounts
from tests.factories import CANARY, PASSWORD, make_run
from tests.stored import events
from tests.wire import ENDPOINT

OTHER_KEY = "ak-other-9WmQ2sVb7TzX4cNd1Fg"


@pytest.fixture
def run(monkeypatch, capsys):
    """Calls a command with text on stdin. Returns its output."""

    def call(*args, stdin=""):
        monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        call_command(*args)
        return capsys.readouterr().out

    return call


def role_of(team, email):
    return Membership.objects.filter(team=team, user__email=email).values_list("role", flat=True).first()


# --- create_team


@pytest.mark.parametrize("args", [["Ops North"], ["Ops North", "--slug", "north"]])
def test_a_team_is_created_once(db, run, args):
    assert "created." in run("create_team", *args)
    assert "already exists" in run("create_team", *args)
    assert Team.objects.count() == 1
    row = AuditEvent.objects.get()
    assert (row.event, row.actor_type, bool(row.actor_label)) == ("team.create", "command", True)


def test_a_slug_of_another_team_is_refused(team, run):
    with pytest.raises(CommandError, match="belongs to another team"):
        run("create_team", "Else", "--slug", "ops-north")


# --- add_member


def test_a_new_member_gets_an_account_and_role_once(team, run):
    args = ["add_member", "ops-north", "Neo@Example.com", "--role", "operator", "--create", "--password-stdin"]
    assert run(*args, stdin=f"{PASSWORD}\nsecond line\n") == (
        "Account neo@example.com created.\nneo@example.com is now operator of ops-north.\n"
    )
    assert User.objects.get().check_password(PASSWORD)
    assert run(*args, stdin="quite another password\n") == "neo@example.com is already operator of ops-north.\n"
    assert User.objects.get().check_password(PASSWORD)
    assert events(chain="site") == [("person.create", "done")]
    assert events(chain=f"team:{team.pk}") == [("member.add", "done")]


def test_a_member_gets_the_given_role(team, vera, run):
    assert "is now operator" in run("add_member", "ops-north", vera.email, "--role", "operator")
    assert role_of(team, vera.email) == "operator"
    assert events() == [("member.change_role", "done")]


@pytest.mark.parametrize(
    ("args", "stdin", "why"),
    [
        (["nowhere", "neo@example.com"], "", "no team nowhere"),
        (["ops-north", "neo@example.com"], "", "There is no account neo@example.com"),
        (["ops-north", "neo"], "", "not an email"),
        (["ops-north", "neo@example.com", "--create"], PASSWORD, "--password-stdin"),
        (["ops-north", "neo@example.com", "--create", "--password-stdin"], "", "first line is empty"),
        (["ops-north", "neo@example.com", "--create", "--password-stdin"], "\nsecond line", "first line is empty"),
        (["ops-north", "neo@example.com", "--create", "--password-stdin"], "short", "12 characters"),
        (["ops-north", "mona@example.com"], "", "needs a manager"),
    ],
)
def test_an_invalid_member_is_an_error(team, mona, run, args, stdin, why):
    with pytest.raises(CommandError, match=why):
        run("add_member", *args, "--role", "viewer", stdin=stdin)
    assert User.objects.count() == 1
    assert events() == []


def test_an_archived_team_gets_no_members(team, mona, run):
    teams.archive(team, by=accounts.Actor.command())
    with pytest.raises(CommandError, match="archived"):
        run("add_member", "ops-north", mona.email, "--role", "viewer")


# --- grant_site_role


def test_a_site_role_is_granted_once(db, run):
    args = ["grant_site_role", "adam@example.com", "admin", "--create", "--password-stdin"]
    assert "now site admin" in run(*args, stdin=PASSWORD)
    assert "already site admin" in run(*args, stdin=PASSWORD)
    assert User.objects.get().site_role == "admin"
    assert events() == [("person.create", "done"), ("person.grant", "done")]


def test_a_site_role_needs_an_existing_account(db, run):
    with pytest.raises(CommandError, match="There is no account"):
        run("grant_site_role", "adam@example.com", "auditor")


# --- reset_sign_in, disable_person


def test_a_sign_in_is_reset_once(oli, run, client_of):
    client = client_of(oli)
    args = ["reset_sign_in", "OLI@example.com", "--password-stdin"]
    assert "has a new password" in run(*args, stdin="another horse battery\n")
    assert "already" in run(*args, stdin="another horse battery\n")
    assert client.get("/runs/").status_code == 302
    assert events() == [("person.reset", "done")]


@pytest.mark.parametrize(
    ("args", "stdin", "why"),
    [
        (["oli@example.com"], PASSWORD, "--password-stdin"),
        (["oli@example.com", "--password-stdin"], "123456789012", "numeric"),
        (["nobody@example.com", "--password-stdin"], PASSWORD, "There is no account"),
    ],
)
def test_an_invalid_reset_is_an_error(oli, run, args, stdin, why):
    with pytest.raises(CommandError, match=why):
        run("reset_sign_in", *args, stdin=stdin)
    oli.refresh_from_db()
    assert oli.check_password(PASSWORD)


def test_a_person_is_disabled_once(oli, run):
    assert "now disabled" in run("disable_person", oli.email)
    assert "already disabled" in run("disable_person", oli.email)
    assert "is still disabled" in run("reset_sign_in", oli.email, "--password-stdin", stdin="another horse battery")
    oli.refresh_from_db()
    assert not oli.is_active
    assert events() == [("person.disable", "done"), ("person.reset", "done")]


# --- add_credential

ADD_KEY = ["add_credential", "ops-north", "Europe", "--endpoint", ENDPOINT, "--key-stdin"]


def test_a_key_is_stored_once(team, run):
    output = run(*ADD_KEY, stdin=f"{CANARY}\n") + run(*ADD_KEY, stdin=f" {CANARY} \n")
    assert "stored for" in output
    assert "is already stored" in output
    assert CANARY not in output
    assert Credential.objects.get().decrypt_secret() == CANARY
    assert events() == [("credential.add", "done")]


def test_another_key_needs_the_replace_option(team, run):
    run(*ADD_KEY, stdin=CANARY)
    with pytest.raises(CommandError, match="--replace") as refused:
        run(*ADD_KEY, stdin=OTHER_KEY)
    assert OTHER_KEY not in str(refused.value)
    assert Credential.objects.get().decrypt_secret() == CANARY
    assert "ops-north replaced." in run(*ADD_KEY, "--replace", stdin=OTHER_KEY)
    assert "Nothing changed" in run(*ADD_KEY, "--replace", stdin=OTHER_KEY)
    assert Credential.objects.get().decrypt_secret() == OTHER_KEY
    assert events() == [("credential.add", "done"), ("credential.replace", "done")]


def test_the_same_key_at_another_endpoint_is_another_key(team, run):
    run(*ADD_KEY, stdin=CANARY)
    elsewhere = [*ADD_KEY[:4], "https://api.arize.com", "--key-stdin"]
    with pytest.raises(CommandError, match="--replace"):
        run(*elsewhere, stdin=CANARY)
    run(*elsewhere, "--replace", stdin=CANARY)
    assert Credential.objects.get().endpoint == "https://api.arize.com"


def test_a_byte_order_mark_is_no_part_of_a_secret(team, run):
    args = ["add_member", "ops-north", "neo@example.com", "--role", "operator", "--create", "--password-stdin"]
    run(*args, stdin=f"\ufeff{PASSWORD}\n")
    run(*ADD_KEY, stdin=f"\ufeff{CANARY}\n")
    assert User.objects.get().check_password(PASSWORD)
    assert Credential.objects.get().decrypt_secret() == CANARY


@pytest.mark.parametrize(
    ("args", "stdin", "why"),
    [
        (ADD_KEY[:-1], CANARY, "--key-stdin"),
        (ADD_KEY, "", "first line is empty"),
        (ADD_KEY, "a b", "no spaces"),
        (ADD_KEY, f'"{CANARY}"', "more than an API key"),
        (ADD_KEY, f"'{CANARY}'", "more than an API key"),
        (ADD_KEY, f"ARIZE_API_KEY={CANARY}", "more than an API key"),
        (ADD_KEY, f"api_key:{CANARY}", "more than an API key"),
        ([*ADD_KEY[:4], "https://evil.example", "--key-stdin"], CANARY, "neither an Arize region"),
        (["add_credential", "nowhere", *ADD_KEY[2:]], CANARY, "no team nowhere"),
        (["add_credential", "ops-north", " ", *ADD_KEY[3:]], CANARY, "name"),
    ],
)
def test_an_invalid_key_is_an_error(team, run, args, stdin, why):
    with pytest.raises(CommandError, match=why):
        run(*args, stdin=stdin)
    assert not Credential.objects.exists()


# --- demo_setup


@pytest.fixture
def demo(monkeypatch):
    for name, value in (("ENDPOINT", ENDPOINT), ("KEY_NORTH", CANARY), ("KEY_SOUTH", OTHER_KEY)):
        monkeypatch.setenv(f"DEMO_{name}", value)


def test_the_demo_is_set_up_once(db, demo, run):
    output = run("demo_setup")
    written = AuditEvent.objects.count()
    again = run("demo_setup")
    roles = {user.email: user.memberships.values_list("team__slug", "role").first() for user in User.objects.all()}
    assert roles == {
        "vera@demo.example": ("ops-north", "viewer"),
        "oli@demo.example": ("ops-north", "operator"),
        "mona@demo.example": ("ops-north", "manager"),
        "otto@demo.example": ("ops-south", "manager"),
        "ada@demo.example": None,
        "adam@demo.example": None,
    }
    assert {key.team.slug: key.decrypt_secret() for key in Credential.objects.all()} == {
        "ops-north": CANARY,
        "ops-south": OTHER_KEY,
    }
    password = next(line.split()[1] for line in output.splitlines() if line.startswith("vera@"))
    assert all(user.check_password(password) for user in User.objects.all())
    assert again.count("unchanged") == 6
    assert password not in again
    assert AuditEvent.objects.count() == written


def test_demo_setup_writes_its_rows_as_a_command(db, demo, run):
    run("demo_setup")
    rows = AuditEvent.objects.values_list("event", "actor_type")
    made = {"team.create", "person.create", "person.grant", "member.add", "credential.add"}
    assert {event for event, _ in rows} == made
    assert {kind for _, kind in rows} == {"command"}


def test_the_demo_has_a_channel_where_the_sandbox_may_be_told(db, demo, run, settings):
    settings.NOTIFY_HOSTS = (ENDPOINT.partition("://")[2],)
    run("demo_setup")
    written = AuditEvent.objects.count()
    run("demo_setup")
    channel = Channel.objects.get()
    assert (channel.team.slug, channel.kind) == ("ops-north", "slack")
    assert destination_of(channel).url == f"{ENDPOINT}/sandbox/inbox"
    assert AuditEvent.objects.count() == written


def test_demo_reset_sets_new_passwords(db, demo, run):
    run("demo_setup")
    output = run("demo_setup", "--reset")
    password = next(line.split()[1] for line in output.splitlines() if line.startswith("adam@"))
    assert User.objects.get(email="adam@demo.example").check_password(password)
    assert len(events(event="person.reset")) == 6


def test_the_demo_deletes_runs_of_the_previous_sandbox(db, demo, run):
    run("demo_setup")
    key = Credential.objects.get(team__slug="ops-north")
    task = Task.objects.create(team=key.team, endpoint=key.endpoint, arize_id="T", credential=key)
    followed, old = make_run(task), make_run(task)
    Cancellation.objects.create(run=followed, person_label="oli", outcome="unknown")
    Task.objects.create(team=key.team, endpoint=key.endpoint, arize_id="T2", credential=key)
    later = timezone.now() + timedelta(minutes=5)
    Credential.objects.update(
        tasks_read_at=timezone.now(), first_contact_done_at=timezone.now(), backoff_until=later, next_refresh_at=later
    )
    written = AuditEvent.objects.count()
    run("demo_setup")
    assert Run.objects.count() == 2
    run("demo_setup", "--new-world")
    assert list(Run.objects.all()) == [followed], f"{old} belongs to the previous sandbox; its cancel gets an outcome"
    assert list(Task.objects.all()) == [task]
    key.refresh_from_db()
    assert (key.tasks_read_at, key.first_contact_done_at, key.backoff_until) == (None, None, None)
    assert key.next_refresh_at <= timezone.now()
    assert AuditEvent.objects.count() == written


def test_the_demo_names_the_missing_variable(db, run, monkeypatch):
    monkeypatch.delenv("DEMO_ENDPOINT", raising=False)
    monkeypatch.setenv("DEMO_KEY_NORTH", CANARY)
    with pytest.raises(CommandError, match="DEMO_KEY_SOUTH is not set"):
        run("demo_setup")
    assert not Team.objects.exists()
