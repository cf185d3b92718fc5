"""Passkeys in software: as a second factor, alone, and to confirm. e2e/test_passkeys.py uses a real browser."""

import json
from typing import Any

import pytest
from django.test import Client

from taskruns.models import AuditEvent, User
from tests.clients import ClientOf, sign_in
from tests.stored import events

from .soft_passkey import SoftPasskey

ADD = "/accounts/factors/passkey/"
STEP = "/accounts/login/second-factor/"
ALONE = "/accounts/login/passkey/"
AGAIN = "/accounts/confirm/passkey/"


def add(client: Client, passkey: SoftPasskey) -> Any:
    return client.post(ADD, {"name": "Blue key", "credential": passkey.create(client.get(ADD).context["options"])})


@pytest.fixture
def passkey(mona: User, client_of: ClientOf) -> SoftPasskey:
    passkey = SoftPasskey()
    assert add(client_of(mona), passkey).status_code == 200
    return passkey


def is_in(client: Client) -> bool:
    return client.get("/runs/").status_code == 200


def options_alone(client: Client) -> Any:
    return client.get(ALONE, headers={"Accept": "application/json"}).json()["request_options"]


def test_adding_a_passkey_gives_recovery_codes(vera: User, client_of: ClientOf):
    client = client_of(vera)
    page = add(client, SoftPasskey())
    assert len(page.context["codes"]) == 10
    row = AuditEvent.objects.get()
    assert (row.event, row.details["factor"], row.details["name"]) == ("auth.mfa_add", "passkey", "Blue key")
    assert "Blue key" in client.get("/accounts/factors/").content.decode()


def test_passkey_works_as_a_second_factor(mona: User, passkey: SoftPasskey):
    client = Client()
    assert sign_in(client, mona.email)["Location"] == STEP
    answer = passkey.get(client.get(STEP).context["options"])
    assert client.post(STEP, {"credential": answer})["Location"] == "/"
    assert is_in(client)
    assert AuditEvent.objects.latest("pk").auth_method == "password+passkey"


def test_passkey_signs_in_alone(mona: User, passkey: SoftPasskey):
    client = Client()
    assert client.post(ALONE, {"credential": passkey.get(options_alone(client))})["Location"] == "/"
    assert is_in(client)
    row = AuditEvent.objects.latest("pk")
    assert (row.actor_label, row.auth_method) == (mona.email, "passkey")


def test_passkey_confirms_the_identity(mona: User, passkey: SoftPasskey, client_of: ClientOf):
    client = client_of(mona)
    assert client.get("/accounts/confirm/?next=/runs/")["Location"] == f"{AGAIN}?next=%2Fruns%2F"
    answer = passkey.get(client.get(AGAIN).context["options"])
    assert client.post(AGAIN, {"credential": answer, "next": "/runs/"})["Location"] == "/runs/"
    assert AuditEvent.objects.latest("pk").details == {"again": True}


def test_passkey_answer_works_once(mona: User, passkey: SoftPasskey):
    client = Client()
    answer = passkey.get(options_alone(client))
    assert client.post(ALONE, {"credential": answer})["Location"] == "/"
    client.post("/accounts/logout/")
    for again in (client, Client()):
        again.post(ALONE, {"credential": answer})
        assert not is_in(again)
    assert ("auth.sign_in", "failed") in events()


@pytest.mark.parametrize("wrong", ["another origin", "another host", "another key", "another person's"])
def test_wrong_passkey_answer_is_refused(wrong: str, mona: User, vera: User, passkey: SoftPasskey, client_of: ClientOf):
    if wrong == "another origin":
        passkey.origin = "https://evil.example"
    elif wrong == "another host":
        passkey.rp_id = "evil.example"
    elif wrong == "another key":
        passkey.key = SoftPasskey().key
    else:
        handle = passkey.user_handle
        passkey = SoftPasskey()
        add(client_of(vera), passkey)
        passkey.user_handle = handle
    alone, second = Client(), Client()
    alone.post(ALONE, {"credential": passkey.get(options_alone(alone))})
    sign_in(second, mona.email)
    second.post(STEP, {"credential": passkey.get(second.get(STEP).context["options"])})
    assert not is_in(alone)
    assert not is_in(second)
    assert [outcome for event, outcome in events(event="auth.sign_in")] == ["failed"], "one row per minute and address"


def alone(passkey: SoftPasskey) -> bool:
    client = Client()
    client.post(ALONE, {"credential": passkey.get(options_alone(client))})
    return is_in(client)


def test_copied_passkey_is_detected_by_its_count(mona: User, client_of: ClientOf):
    passkey = SoftPasskey()
    passkey.count = 7
    assert add(client_of(mona), passkey).status_code == 200
    for count, is_let_in in ((7, False), (8, True), (8, False), (3, False), (0, False), (1000, True), (999, False)):
        passkey.count = count
        assert alone(passkey) is is_let_in, count
    row = AuditEvent.objects.filter(event="auth.sign_in", outcome="failed").earliest("pk")
    assert row.details["why"] == "passkey used by a copy"


def test_copied_passkey_is_refused_everywhere(mona: User, client_of: ClientOf):
    passkey = SoftPasskey()
    add(client_of(mona), passkey)
    passkey.count = 5
    assert alone(passkey)
    passkey.count = 4
    second = Client()
    sign_in(second, mona.email)
    page = second.post(STEP, {"credential": passkey.get(second.get(STEP).context["options"])})
    assert "Someone may have a copy of it" in page.content.decode()
    assert not is_in(second)
    again = client_of(mona)
    page = again.post(AGAIN, {"credential": passkey.get(again.get(AGAIN).context["options"]), "next": "/runs/"})
    assert page.status_code == 200
    assert "Someone may have a copy of it" in page.content.decode()


def test_passkey_without_a_count_works_each_time(mona: User, passkey: SoftPasskey):
    assert alone(passkey)
    assert alone(passkey)


def test_disabled_person_cannot_use_a_passkey(mona: User, passkey: SoftPasskey):
    User.objects.filter(pk=mona.pk).update(is_active=False)
    client = Client()
    client.post(ALONE, {"credential": passkey.get(options_alone(client))})
    assert not is_in(client)
    row = AuditEvent.objects.latest("pk")
    assert (row.event, row.outcome, row.target_label) == ("auth.sign_in", "failed", mona.email)
    assert row.details == {"why": "account disabled"}


def test_passkey_belongs_to_the_sites_host(vera: User, client_of: ClientOf):
    options = json.loads(client_of(vera).get(ADD).context["options"])["publicKey"]
    assert options["rp"]["id"] == "localhost"
    assert client_of(vera).get(ADD, headers={"host": "127.0.0.1:8000"}).status_code == 200
