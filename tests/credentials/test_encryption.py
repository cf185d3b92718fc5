"""Stored keys: decrypted with the key ring that encrypted them, bound to their row, and explained if that fails."""

from typing import Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from taskruns.audit import Actor
from taskruns.encryption import Ciphertext, DecryptionFailed, Ring
from taskruns.models import Credential, Run, Team, User
from taskruns.pages.cancellations import sentence_of
from taskruns.services import cancellations, credentials, mirror
from taskruns.services.credentials.client import CannotConnect, connected
from tests.clients import ClientOf
from tests.factories import CANARY, make_credential
from tests.stored import events

OLD, NEW = Fernet.generate_key().decode(), Fernet.generate_key().decode()
SENTENCE = DecryptionFailed.sentence


def test_a_key_is_decrypted_only_for_its_own_row():
    ring = Ring({1: OLD})
    encrypted = ring.encrypt(CANARY, owner="row 1")
    assert ring.decrypt(encrypted, owner="row 1") == CANARY
    with pytest.raises(DecryptionFailed):
        ring.decrypt(encrypted, owner="row 2")


@given(st.text(st.characters(codec=None)))
@settings(max_examples=50)
def test_every_text_is_decrypted_unchanged(text: str):
    ring = Ring({1: OLD})
    assert ring.decrypt(ring.encrypt(text, owner="row"), owner="row") == text


def test_the_key_ring_rotates_in_three_steps():
    before = Ring({1: OLD}).encrypt(CANARY, owner="row")
    both = Ring({2: NEW, 1: OLD})
    assert both.decrypt(before, owner="row") == CANARY
    after = both.encrypt(CANARY, owner="row")
    assert after.ring_number == 2
    with pytest.raises(DecryptionFailed):
        Ring({1: OLD}).decrypt(after, owner="row")
    assert Ring({2: NEW}).decrypt(after, owner="row") == CANARY
    with pytest.raises(DecryptionFailed):
        Ring({2: NEW}).decrypt(before, owner="row")


@pytest.mark.parametrize(
    "broken",
    [
        lambda encrypted: Ciphertext(encrypted.ring_number, encrypted.token[:-2] + "AA"),
        lambda encrypted: Ciphertext(encrypted.ring_number, ""),
        lambda encrypted: Ciphertext(encrypted.ring_number, "\N{ROCKET}"),
        lambda encrypted: Ciphertext(encrypted.ring_number + 1, encrypted.token),
        lambda encrypted: Ciphertext(1, Fernet(OLD).encrypt(b"not json").decode()),
        lambda encrypted: Ciphertext(1, Fernet(OLD).encrypt(b"[]").decode()),
        lambda encrypted: Ciphertext(1, Fernet(OLD).encrypt(b'{"owner": "row"}').decode()),
        lambda encrypted: Ciphertext(1, Fernet(NEW).encrypt(b'{"owner": "row", "secret": "x"}').decode()),
    ],
)
def test_any_damage_raises_one_error_with_an_explanation(broken: Any):
    ring = Ring({1: OLD})
    encrypted = ring.encrypt(CANARY, owner="row")
    assert ring.decrypt(encrypted, owner="row") == CANARY
    with pytest.raises(DecryptionFailed) as refused:
        ring.decrypt(broken(encrypted), owner="row")
    assert str(refused.value) == SENTENCE
    assert refused.value.__cause__ is None


def test_ciphertext_copied_into_another_row_cannot_be_decrypted(team: Team):
    mine, other = make_credential(team), make_credential(team, name="Other", key="ak-other-0123456789abcdef")
    assert other.decrypt_secret() == "ak-other-0123456789abcdef"
    Credential.objects.filter(pk=other.pk).update(ciphertext=mine.ciphertext, ring_number=mine.ring_number)
    other.refresh_from_db()
    with pytest.raises(DecryptionFailed):
        other.decrypt_secret()
    with pytest.raises(CannotConnect, match="cannot be decrypted"), connected(other):
        pass


@pytest.fixture
def lost_ring(settings: Any, credential: Credential) -> None:
    """The deployment was restored from a backup with another key ring."""
    settings.ENCRYPTION_KEYS = {3: NEW}


def test_a_lost_ring_key_is_explained_on_the_keys_page(
    lost_ring: None, credential: Credential, mona: User, client_of: ClientOf
):
    client = client_of(mona)
    url = f"/teams/ops-north/credentials/{credential.pk}/test/"
    page = client.post(url, follow=True)
    assert page.status_code == 200
    assert "cannot be decrypted with this deployment&#x27;s ENCRYPTION_KEYS" in page.content.decode()
    assert ("credential.test", "failed") in events()


def test_a_lost_ring_key_sends_no_cancel_and_says_so(lost_ring: None, run: Run, oli: User, arize: Any):
    result = cancellations.cancel(run, by=Actor(type="user", id=str(oli.pk), label=oli.email, person=oli))
    assert result.outcome == "not_sent"
    assert SENTENCE in sentence_of(result)
    assert not arize.calls
    assert events() == [("run.cancel", "requested"), ("run.cancel", "not_sent")]


def test_a_lost_ring_key_is_reported_by_the_mirror_and_does_not_stop_it(lost_ring: None, credential: Credential):
    report = mirror.refresh(credential.pk)
    assert report is not None
    assert report.problem.startswith("ENCRYPTION_KEYS has no key")
    credential.refresh_from_db()
    assert credential.failing_since is None


def test_a_lost_key_can_be_replaced(lost_ring: None, credential: Credential, mona: User):
    by = Actor(type="user", id=str(mona.pk), label=mona.email, person=mona)
    assert credentials.replace(credential, key=CANARY, expires_on=None, by=by)
    assert (credential.ring_number, credential.decrypt_secret()) == (3, CANARY)


def test_the_ciphertext_of_a_revoked_key_is_deleted(credential: Credential, mona: User):
    assert Credential.objects.get(pk=credential.pk).ciphertext
    by = Actor(type="user", id=str(mona.pk), label=mona.email, person=mona)
    assert credentials.revoke(credential, by=by)
    row = Credential.objects.get(pk=credential.pk)
    assert row.ciphertext == ""
    with pytest.raises(DecryptionFailed):
        row.decrypt_secret()
    with pytest.raises(CannotConnect, match="revoked"), connected(row):
        pass


def test_replacing_a_key_keeps_nothing_of_the_old_one(credential: Credential, mona: User):
    before = credential.ciphertext
    by = Actor(type="user", id=str(mona.pk), label=mona.email, person=mona)
    credentials.replace(credential, key="ak-another-key-0123456789", expires_on=None, by=by)
    row = Credential.objects.get(pk=credential.pk)
    assert (row.decrypt_secret(), row.last4) == ("ak-another-key-0123456789", "6789")
    assert row.ciphertext != before


def test_a_short_key_has_no_hint(team: Team):
    assert make_credential(team, key="ak-0123456789abcd").last4 == "abcd"
    assert make_credential(team, name="Short", key="ak-01234567").last4 == ""


@pytest.mark.parametrize(
    "endpoint", ["http://169.254.169.254", "https://evil.example", "https://api.arize.com@evil.example"]
)
def test_a_stored_endpoint_that_is_no_longer_allowed_gets_no_key(credential: Credential, endpoint: str, arize: Any):
    with connected(credential) as client:
        assert client.endpoint == credential.endpoint
    Credential.objects.update(endpoint=endpoint)
    credential.refresh_from_db()
    with pytest.raises(CannotConnect, match="ARIZE_ENDPOINTS"), connected(credential):
        pass
