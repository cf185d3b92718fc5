"""People who use only single sign-on get their name and address from the provider."""

from typing import Any

import pytest
from allauth.socialaccount.models import SocialAccount
from django.test import Client

from taskruns.models import AuditEvent, EmailStatus, Membership, Team, User
from tests.clients import ClientOf, sign_in
from tests.factories import person
from tests.stored import events

from .browser import Idp


@pytest.fixture
def nina(idp: Idp, db: None) -> User:
    idp.sign_in(Client())
    return User.objects.get(email="nina@example.com")


def sign_in_as(idp: Idp, **userinfo: Any) -> Any:
    idp.configure(userinfo=userinfo)
    return idp.sign_in(Client())


def test_name_and_email_follow_the_provider(idp: Idp, nina: User):
    sign_in_as(idp, name="Nina Nova", email="Nina.Nova@Example.com")
    nina.refresh_from_db()
    assert (nina.name, nina.email) == ("Nina Nova", "nina.nova@example.com")
    row = AuditEvent.objects.get(event="person.change")
    assert (row.actor_type, row.actor_label, row.target_id) == ("job", "single sign-on", str(nina.pk))
    assert row.details == {
        "changed": ["email", "name"],
        "before": {"email": "nina@example.com", "name": "Nina"},
        "after": {"email": "nina.nova@example.com", "name": "Nina Nova"},
    }
    assert AuditEvent.objects.latest("pk").actor_label == "nina.nova@example.com", "the sign-in has the new address"
    sign_in_as(idp, name="Nina Nova", email="nina.nova@example.com")
    assert AuditEvent.objects.filter(event="person.change").count() == 1, "the same again is no change"


def test_address_of_another_account_is_not_taken_over(idp: Idp, nina: User, vera: User, caplog: Any):
    client = Client()
    idp.configure(userinfo={"name": "Nina Nova", "email": vera.email})
    answer = idp.sign_in(client)
    assert answer.status_code == 302
    assert "another account here has it" in client.get("/runs/").content.decode()
    nina.refresh_from_db()
    assert (nina.name, nina.email) == ("Nina Nova", "nina@example.com")
    assert "email_of_provider_not_followed" in caplog.text


@pytest.mark.parametrize(
    "userinfo",
    [
        {"email": "new@example.com", "email_verified": False},
        {"email": "new@example.com", "email_verified": "true"},
        {"email": "x" * 300 + "@example.com"},
        {"email": "new\0@example.com"},
        {"email": "no address"},
        {"email": ["new@example.com"]},
        {"email": None, "name": None},
        {"name": {"given": "Nina"}},
        {"name": ""},
    ],
    ids=str,
)
def test_unusable_name_or_email_changes_nothing(idp: Idp, nina: User, userinfo: dict[str, Any]):
    assert sign_in_as(idp, **userinfo).status_code == 302
    nina.refresh_from_db()
    assert (nina.name, nina.email) == ("Nina", "nina@example.com")


def test_overlong_name_is_cut_and_cleaned(idp: Idp, nina: User):
    assert sign_in_as(idp, name="N\0i\nna" + "x" * 500).status_code == 302
    nina.refresh_from_db()
    assert nina.name.startswith("N i na")
    assert len(nina.name) == 100


@pytest.mark.parametrize("userinfo", [{"email": "x" * 300 + "@example.com"}, {"email": "a\0@example.com"}], ids=str)
def test_new_person_with_an_unusable_address_is_refused(idp: Idp, db: None, userinfo: dict[str, Any]):
    answer = sign_in_as(idp, **userinfo)
    assert (answer.status_code, "did not provide a verified email address" in answer.content.decode()) == (403, True)


def test_new_person_with_an_overlong_name_gets_in(idp: Idp, db: None):
    assert sign_in_as(idp, name="x" * 500).status_code == 302
    assert len(User.objects.get().name) == 100


@pytest.mark.parametrize("subject", ["s" * 192, "s" * 5_000, "a\0b"], ids=["192", "5000", "NUL"])
def test_unstorable_subject_is_explained(idp: Idp, db: None, subject: str):
    idp.configure(claims={"sub": subject})
    answer = idp.sign_in(Client())
    assert (answer.status_code, "a user ID that cannot be stored" in answer.content.decode()) == (403, True)
    assert not User.objects.exists()


def test_longest_subject_signs_in(idp: Idp, db: None):
    idp.configure(claims={"sub": "s" * 191})
    assert idp.sign_in(Client()).status_code == 302
    assert SocialAccount.objects.get().uid == "s" * 191


def test_subject_must_be_text(idp: Idp, db: None):
    idp.configure(claims={"sub": 4711})
    assert idp.sign_in(Client()).status_code == 403


def test_person_with_a_password_keeps_their_login(idp: Idp, linked: User):
    assert sign_in_as(idp, email="other@example.com", name="Other").status_code == 302
    linked.refresh_from_db()
    assert linked.email == "vera@example.com"
    assert sign_in(Client(), linked.email)["Location"] == "/"


def test_same_address_from_the_provider_is_verified(idp: Idp, linked: User, team: Team):
    User.objects.filter(pk=linked.pk).update(email_status=EmailStatus.INVITED, email_vouched_by="mona@example.com")
    sign_in_as(idp, email="other@example.com")
    assert AuditEvent.objects.latest("pk").actor_label == "vera@example.com (not verified, invited by mona@example.com)"
    sign_in_as(idp, email="Vera@Example.com")
    assert AuditEvent.objects.latest("pk").actor_label == "vera@example.com"
    assert ("person.change", "done") in events()


def test_owner_of_an_unverified_address_gets_an_explanation(idp: Idp, db: None):
    person("nina@example.com", email_status=EmailStatus.INVITED, email_vouched_by="mona@example.com")
    answer = idp.sign_in(Client())
    assert (answer.status_code, "nobody has verified" in answer.content.decode()) == (403, True)


def test_admin_can_free_the_address_for_its_owner(idp: Idp, adam: User, client_of: ClientOf):
    impostor = person("nina@example.com", email_status=EmailStatus.INVITED, email_vouched_by="mona@example.com")
    client_of(adam).post(f"/people/{impostor.pk}/change/", {"name": "Impostor", "email": "impostor@example.com"})
    assert idp.sign_in(Client()).status_code == 302
    assert User.objects.get(email="nina@example.com").pk != impostor.pk
    assert not Membership.objects.exists()
