"""A site admin changes a person's name and email."""

import pytest
from allauth.account.models import EmailAddress
from django.test import Client

from taskruns.models import AuditEvent, EmailStatus, User
from tests.clients import ClientOf, sign_in
from tests.markup import without_bdi
from tests.stored import events

NEW = {"name": "Vera Vale", "email": "Vera.Vale@Example.com"}


def changed(client: Client, person: User, **data: str) -> int:
    return int(client.post(f"/people/{person.pk}/change/", NEW | data).status_code)


def test_admin_changes_name_and_email(adam: User, vera: User, client_of: ClientOf):
    client = client_of(adam)
    assert changed(client, vera) == 302
    page = without_bdi(client.get(f"/people/{vera.pk}/").content.decode())
    assert "<h1>Vera Vale" in page
    assert "not verified, changed by adam@example.com" in page
    vera.refresh_from_db()
    assert (vera.name, vera.email) == ("Vera Vale", "vera.vale@example.com")
    row = AuditEvent.objects.get()
    assert (row.event, row.chain, row.actor_label, row.target_label) == (
        "person.change",
        "site",
        "adam@example.com",
        "vera@example.com",
    )
    assert row.details["before"] == {"email": "vera@example.com", "name": ""}
    assert row.details["after"] == {"email": "vera.vale@example.com", "name": "Vera Vale"}
    assert changed(client, vera) == 302
    assert AuditEvent.objects.count() == 1, "saving the same values is not a change"


def test_new_email_is_the_new_login(adam: User, vera: User, client_of: ClientOf):
    EmailAddress.objects.create(user=vera, email=vera.email, primary=True, verified=True)
    changed(client_of(adam), vera)
    assert sign_in(Client(), "vera@example.com").status_code == 200
    client = Client()
    assert sign_in(client, "vera.vale@example.com")["Location"] == "/"
    assert client.post("/accounts/confirm/password/", {"password": "correct horse battery"}).status_code == 302
    assert AuditEvent.objects.filter(event="auth.sign_in", outcome="done").latest("pk").actor_label == (
        "vera.vale@example.com (not verified, changed by adam@example.com)"
    )


def test_changing_only_the_name_keeps_the_email_verified(adam: User, vera: User, client_of: ClientOf):
    assert changed(client_of(adam), vera, email=vera.email) == 302
    vera.refresh_from_db()
    assert (vera.name, vera.email_status) == ("Vera Vale", EmailStatus.VERIFIED)


def test_email_of_another_account_is_explained(adam: User, vera: User, oli: User, client_of: ClientOf):
    answer = client_of(adam).post(f"/people/{vera.pk}/change/", {"name": "Vera", "email": oli.email.upper()})
    assert (answer.status_code, "An account with this email address already exists" in answer.content.decode()) == (
        422,
        True,
    )
    vera.refresh_from_db()
    assert (vera.name, vera.email) == ("", "vera@example.com")
    assert events() == []


def test_admin_may_change_their_own_name(adam: User, client_of: ClientOf):
    assert changed(client_of(adam), adam, name="Adam", email=adam.email) == 302
    adam.refresh_from_db()
    assert adam.name == "Adam"


def test_change_needs_a_recent_sign_in(adam: User, vera: User):
    client = Client()
    sign_in(client, adam.email)
    session = client.session
    session["account_authentication_methods"] = []
    session["began_at"] = 1
    session.save()
    assert changed(client, vera) in {302, 403}
    vera.refresh_from_db()
    assert vera.name == ""


@pytest.mark.parametrize("name", ["ada", "mona", "vera"])
def test_only_site_admins_change_people(cast: dict[str, User], client_of: ClientOf, name: str):
    assert changed(client_of(cast[name]), cast["oli"]) == 403
    assert events() == [("person.change", "denied")]


def test_lists_show_the_name_and_the_address_below(adam: User, mona: User, vera: User, client_of: ClientOf):
    changed(client_of(adam), vera)
    for client, page in ((client_of(adam), "/people/"), (client_of(mona), "/teams/ops-north/members/")):
        text = without_bdi(client.get(page).content.decode())
        assert '<span class="under">vera.vale@example.com</span>' in text
        assert "Vera Vale" in text
        assert "mona@example.com" in text, "without a name the address stands alone"
