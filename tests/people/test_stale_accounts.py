"""A person sets a password while a site admin changes the account: what the admin did stays."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.test import Client

from taskruns.audit import Actor
from taskruns.models import EmailStatus, SiteRole, User
from taskruns.services.people import accounts
from taskruns.services.people.password_reset import link_for
from taskruns.views.people.sign_in import AccountAdapter
from tests.clients import sign_in
from tests.factories import PASSWORD, person
from tests.stored import events

NEW = "another battery staple"
SHELL = Actor.command()


def disable(bea: User) -> None:
    accounts.disable_person(bea, by=SHELL)


def demote(bea: User) -> None:
    accounts.grant_site_role(bea, role=SiteRole.NONE, by=SHELL)


def readdress(bea: User) -> None:
    accounts.change_person(bea, name="Bea", email="bea.new@example.com", by=SHELL)


def give_password(bea: User) -> None:
    accounts.reset_sign_in(bea, password="a password from the admin", by=SHELL)


CHANGES: dict[str, tuple[Callable[[User], None], bool]] = {
    "disabled": (disable, False),
    "demoted": (demote, True),
    "another address": (readdress, False),
    "another password": (give_password, False),
}
Submit = Callable[[str], Any]


@pytest.fixture(autouse=True)
def _settings(settings: Any) -> None:
    settings.REQUIRE_MFA, settings.MAILS = False, True


@pytest.fixture
def bea(db: None) -> User:
    return person("bea@example.com", site_role="admin", email_status=EmailStatus.INVITED)


def change_of(client: Client, bea: User) -> Submit:
    sign_in(client, bea.email)
    fields = {"oldpassword": PASSWORD}
    return lambda new: client.post("/accounts/password/change/", fields | {"password1": new, "password2": new})


def reset_of(client: Client, bea: User) -> Submit:
    link = link_for(bea.email)
    assert link is not None
    form = client.get(f"/accounts/password/reset/key/{link.uid}-{link.key}/")["Location"]
    return lambda new: client.post(form, {"password1": new, "password2": new})


FORMS = {"change": change_of, "reset": reset_of}


@contextmanager
def before_it_is_stored(act: Callable[[], None]) -> Iterator[None]:
    """The request has checked everything, with the account as it was when the request began."""
    real = AccountAdapter.set_password

    def late(adapter: AccountAdapter, user: User, password: str) -> None:
        act()
        real(adapter, user, password)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AccountAdapter, "set_password", late)
        yield


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("change", "is_stored"), CHANGES.values(), ids=CHANGES)
def test_a_new_password_keeps_what_an_admin_changed(
    form: Callable[[Client, User], Submit], change: Callable[[User], None], *, is_stored: bool, bea: User
):
    client = Client()
    submit = form(client, bea)
    with before_it_is_stored(lambda: change(bea)):
        assert submit(NEW).status_code == 302
    after = User.objects.get(pk=bea.pk)
    assert (after.is_active, after.site_role, after.email) == {
        disable: (False, "admin", "bea@example.com"),
        demote: (True, "", "bea@example.com"),
        readdress: (True, "admin", "bea.new@example.com"),
        give_password: (True, "admin", "bea@example.com"),
    }[change]
    assert after.check_password(NEW) == is_stored
    assert (("auth.password_change", "denied") in events()) != is_stored
    if change is readdress:
        assert after.email_status == EmailStatus.CHANGED, "the link was mailed to the old address"


def test_a_refused_password_is_explained(bea: User):
    for form, sentence in ((reset_of, "no longer valid"), (change_of, "Sign in")):
        client = Client()
        submit = form(client, User.objects.get(pk=bea.pk))
        with before_it_is_stored(lambda: give_password(User.objects.get(pk=bea.pk))):
            answer = submit(NEW)
        page = client.get(answer["Location"], follow=True).content.decode()
        assert "Your account was changed at the same time." in page
        assert sentence in page
        bea.set_password(PASSWORD)
        bea.save()


def test_a_newer_hash_of_the_old_password_replaces_no_new_one(bea: User, settings: Any):
    """Django stores a newer hash after a sign-in, if its settings became stricter."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher", *settings.PASSWORD_HASHERS]
    stale, before = User.objects.get(pk=bea.pk), bea.password
    User.objects.get(pk=bea.pk).check_password(PASSWORD)
    assert User.objects.get(pk=bea.pk).password != before, "the control"
    accounts.reset_sign_in(bea, password="a password from the admin", by=SHELL)
    assert stale.check_password(PASSWORD), "it was right when the sign-in began"
    assert User.objects.get(pk=bea.pk).check_password("a password from the admin")


def test_only_the_address_that_was_proved_is_verified(bea: User):
    stale = User.objects.get(pk=bea.pk)
    readdress(bea)
    assert not accounts.verify_email(stale, by=SHELL)
    assert User.objects.get(pk=bea.pk).email_status == EmailStatus.CHANGED
