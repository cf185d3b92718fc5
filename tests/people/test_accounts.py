"""Accounts, site roles, disabling and resetting."""

import pytest

from taskruns.audit import Actor
from taskruns.models import AuditEvent, SiteRole, User
from taskruns.services.people import accounts
from taskruns.services.user_errors import UserError
from tests.factories import PASSWORD
from tests.stored import events

SHELL = Actor(type="command", label="tests")


# --- People


def test_email_is_case_insensitive(db):
    made = accounts.create_person(" Neo@Example.COM ", password=PASSWORD, name="Neo", by=SHELL)
    assert made.email == "neo@example.com"
    assert accounts.find_person("NEO@example.com") == made
    with pytest.raises(UserError) as refused:
        accounts.create_person("neo@EXAMPLE.com", password=PASSWORD, by=SHELL)
    assert refused.value.field == "email"
    assert events() == [("person.create", "done")]


@pytest.mark.parametrize("email", ["", "neo", "neo@", "a b@example.com", "x@" + "a" * 260 + ".com", "x\0@example.com"])
def test_invalid_email_is_refused(db, email):
    with pytest.raises(UserError) as refused:
        accounts.create_person(email, password=PASSWORD, by=SHELL)
    assert refused.value.field == "email"


@pytest.mark.parametrize(
    ("password", "why"),
    [
        ("short", "12 characters"),
        ("123456789012345", "numeric"),
        ("password1234", "common"),
        ("neo@example.com", "similar"),
    ],
)
def test_weak_password_is_explained(db, password, why):
    with pytest.raises(UserError, match=why):
        accounts.create_person("neo@example.com", password=password, by=SHELL)
    assert not User.objects.exists()


def test_granting_a_site_role_twice_changes_nothing(oli):
    assert accounts.grant_site_role(oli, role=SiteRole.AUDITOR, by=SHELL)
    assert not accounts.grant_site_role(oli, role=SiteRole.AUDITOR, by=SHELL)
    row = AuditEvent.objects.get()
    assert (row.chain, row.details) == ("site", {"before": "", "after": "auditor"})


def test_reset_ends_only_that_persons_sessions(oli, vera, client_of):
    theirs, mine = client_of(oli), client_of(vera)
    assert theirs.session.exists(theirs.session.session_key)
    assert accounts.reset_sign_in(oli, password="another horse battery", by=SHELL)
    assert not theirs.session.exists(theirs.session.session_key)
    assert mine.session.exists(mine.session.session_key)
    oli.refresh_from_db()
    assert oli.check_password("another horse battery")
    row = AuditEvent.objects.get()
    assert (row.event, row.details) == ("person.reset", {"sessions_ended": 1})
    assert "another horse" not in str(AuditEvent.objects.values().get())


def test_a_reset_to_the_same_password_changes_nothing(oli, client_of):
    client = client_of(oli)
    assert not accounts.reset_sign_in(oli, password=PASSWORD, by=SHELL)
    assert client.session.exists(client.session.session_key)
    assert events() == []


def test_disabling_ends_the_session_immediately(oli, client_of):
    client = client_of(oli)
    assert client.get("/runs/").status_code == 200
    assert accounts.disable_person(oli, by=SHELL)
    assert not accounts.disable_person(oli, by=SHELL)
    assert client.get("/runs/")["Location"].startswith("/accounts/login/")
    assert events() == [("person.disable", "done")]
