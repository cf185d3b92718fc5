"""A team's keys: stored encrypted, never shown again, tested, replaced, revoked."""

import threading
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from taskruns.audit import Actor
from taskruns.models import AuditEvent, Credential, Task, Team
from taskruns.services import credentials, teams
from taskruns.services.credentials.client import CannotConnect, connected
from taskruns.services.user_errors import UserError
from tests.factories import CANARY, actor, make_credential
from tests.stored import events
from tests.wire import ENDPOINT

SHELL = Actor(type="command", label="tests")
OTHER_KEY = "ak-other-9WmQ2sVb7TzX4cNd1Fg"


def add(team, **change):
    wanted = {"name": "Europe", "endpoint": ENDPOINT, "key": CANARY, "expires_on": None, "by": SHELL} | change
    return credentials.add(team, **wanted)


def pieces(key):
    return {key[i : i + 8] for i in range(len(key) - 7)}


def everything_stored():
    """Every column of every table as text, like a dump of the database."""
    with connection.cursor() as cursor:
        tables = connection.introspection.table_names(cursor)
        rows = []
        for table in tables:
            cursor.execute(f'SELECT * FROM "{table}"')
            rows += cursor.fetchall()
    return str(rows)


# --- Adding


def test_a_key_is_stored_encrypted_and_can_be_used(team, mona):
    day = timezone.localdate() + timedelta(days=30)
    added = add(team, key=f"  {CANARY}\n", expires_on=day, by=actor(mona))
    assert added.decrypt_secret() == CANARY
    assert (added.last4, added.created_by, added.failing_since) == (CANARY[-4:], mona, None)
    row = AuditEvent.objects.get()
    assert (row.chain, row.event, row.credential_id) == (f"team:{team.pk}", "credential.add", added.pk)
    assert (row.target_label, row.endpoint) == ("Europe", ENDPOINT)
    assert row.details == {"last4": CANARY[-4:], "expires_on": day.isoformat()}
    team.refresh_from_db()
    assert team.board_version == 1


def test_the_database_holds_no_piece_of_the_key(team):
    added = add(team)
    stored = everything_stored()
    assert added.ciphertext in stored
    assert not any(piece in stored for piece in pieces(CANARY))
    Team.objects.update(name=f"has {CANARY[6:14]} inside")
    assert any(piece in everything_stored() for piece in pieces(CANARY))


@pytest.mark.parametrize(
    "key",
    [
        "",
        "   ",
        "has a blank in it",
        "tab\tinside-key",
        "line\nbreak-key",
        "nul\0inside-key",
        "schlüssel-key",
        "x" * 4097,
    ],
)
def test_a_malformed_key_is_refused_and_not_repeated(team, key):
    with pytest.raises(UserError) as refused:
        add(team, key=key)
    assert refused.value.field == "key"
    assert not key.strip() or key not in refused.value.sentence
    assert not Credential.objects.exists()
    assert add(team, key="x" * 4096).decrypt_secret() == "x" * 4096


@pytest.mark.parametrize(
    "endpoint",
    [
        "",
        "https://api.arize.com.evil.example",
        "http://api.arize.com",
        "https://api.arize.com@evil.example",
        "http://169.254.169.254",
        "http://arize.test:9998",
        "file:///etc/passwd",
        "a\0b",
    ],
)
def test_an_address_that_is_not_allowed_is_refused(team, endpoint):
    with pytest.raises(UserError) as refused:
        add(team, endpoint=endpoint)
    assert refused.value.field == "endpoint"
    assert add(team, endpoint="HTTPS://API.arize.com/").endpoint == "https://api.arize.com"


def test_a_name_is_taken_in_any_case_until_its_key_is_revoked(team, other_team):
    first = add(team, name="Europe")
    with pytest.raises(UserError) as refused:
        add(team, name="EUROPE ")
    assert refused.value.field == "name"
    add(other_team, name="Europe")
    credentials.revoke(first, by=SHELL)
    add(team, name="europe")
    assert Credential.objects.filter(team=team).count() == 2


def test_concurrent_keys_with_one_name_become_one(committed):
    team = Team.objects.create(slug="t", name="T")
    start, refused = threading.Barrier(2), []

    def insert(number):
        start.wait()
        try:
            add(team, key=f"{CANARY}{number}")
        except UserError as error:
            refused.append(error.field)
        finally:
            connection.close()

    threads = [threading.Thread(target=insert, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["name"]
    assert events() == [("credential.add", "done")]


@pytest.mark.parametrize(
    ("change", "field"),
    [({"name": " "}, "name"), ({"name": "x" * 101}, "name"), ({"expires_on": "past"}, "expires_on")],
)
def test_other_invalid_values_are_refused(team, change, field):
    if "expires_on" in change:
        change = {"expires_on": timezone.localdate() - timedelta(days=1)}
    with pytest.raises(UserError) as refused:
        add(team, **change)
    assert refused.value.field == field
    assert events() == []


def test_an_archived_team_accepts_no_key(team):
    teams.archive(team, by=SHELL)
    with pytest.raises(UserError, match="archived"):
        add(team)
    assert not Credential.objects.exists()


# --- Replacing


def test_a_replaced_key_starts_with_a_clean_record(team, credential, mona):
    Credential.objects.update(
        failing_since=timezone.now(), failing_reason="x", failures=3, backoff_until=timezone.now()
    )
    assert credentials.replace(credential, key=OTHER_KEY, expires_on=None, by=actor(mona))
    assert credential.decrypt_secret() == OTHER_KEY
    assert (credential.failing_since, credential.failing_reason, credential.failures) == (None, "", 0)
    assert credential.backoff_until is None
    assert credential.next_refresh_at <= timezone.now()
    row = AuditEvent.objects.get()
    assert (row.event, row.details["changed"], row.details["last4"]) == ("credential.replace", ["key"], OTHER_KEY[-4:])


def test_the_same_key_again_changes_nothing(credential):
    before = credential.ciphertext
    assert not credentials.replace(credential, key=f" {CANARY} ", expires_on=None, by=SHELL)
    credential.refresh_from_db()
    assert credential.ciphertext == before
    assert events() == []


def test_a_new_expiry_date_alone_is_a_change(credential):
    day = timezone.localdate()
    assert credentials.replace(credential, key=CANARY, expires_on=day, by=SHELL)
    assert (credential.expires_on, credential.decrypt_secret()) == (day, CANARY)
    assert AuditEvent.objects.get().details["changed"] == ["expires_on"]


def test_another_endpoint_releases_the_tasks(credential, task):
    assert credentials.replace(credential, key=CANARY, expires_on=None, endpoint="https://api.arize.com", by=SHELL)
    assert (credential.endpoint, Task.objects.get().credential) == ("https://api.arize.com", None)


def test_a_key_that_cannot_be_decrypted_can_be_replaced(credential):
    Credential.objects.update(ring_number=99)
    credential.refresh_from_db()
    with pytest.raises(CannotConnect), connected(credential):
        pass
    assert credentials.replace(credential, key=CANARY, expires_on=None, by=SHELL)
    assert credential.decrypt_secret() == CANARY


def test_a_revoked_key_is_not_replaced(credential):
    credentials.revoke(credential, by=SHELL)
    with pytest.raises(UserError, match="revoked"):
        credentials.replace(credential, key=OTHER_KEY, expires_on=None, by=SHELL)
    assert credential.ciphertext == ""


# --- Revoking


def test_revoking_deletes_the_key_and_releases_its_tasks(team, credential, task, mona):
    later = timezone.now() + timedelta(hours=1)
    second = make_credential(team, name="Second", next_refresh_at=later, tasks_read_at=timezone.now())
    assert credentials.revoke(credential, by=actor(mona))
    second.refresh_from_db()
    task.refresh_from_db()
    assert (credential.ciphertext, credential.revoked_at is None, task.credential) == ("", False, None)
    assert (second.tasks_read_at, second.next_refresh_at < later) == (None, True)
    with pytest.raises(CannotConnect, match="revoked"), connected(credential):
        pass
    assert AuditEvent.objects.get().details == {"tasks_set_free": 1}


def test_revoking_twice_acts_once(credential):
    assert credentials.revoke(credential, by=SHELL)
    assert not credentials.revoke(credential, by=SHELL)
    assert events() == [("credential.revoke", "done")]
