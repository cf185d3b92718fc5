"""New recovery codes can be copied, downloaded and printed. They are shown once and leave no trace."""

import re
from datetime import timedelta
from html import unescape
from typing import Any
from urllib.parse import unquote

import time_machine
from django.test import Client
from django.utils import timezone

from taskruns.models import User
from tests.clients import ClientOf, show_factor, with_app
from tests.stored import dump

URL = "/accounts/factors/recovery-codes/"


def with_factor(person: User, client_of: ClientOf) -> Client:
    with_app(person)
    client = client_of(person)
    show_factor(client, person)
    return client


def codes_on(answer: Any) -> list[str]:
    return re.findall(r"<li><code>(\w+)</code></li>", answer.content.decode())


def test_new_codes_can_be_taken_along(vera: User, client_of: ClientOf):
    answer = with_factor(vera, client_of).post(URL)
    text = answer.content.decode()
    codes = codes_on(answer)
    assert len(codes) == 10
    (data,) = re.findall(r'href="data:text/plain;charset=utf-8,([^"]*)" download="taskruns-recovery-codes.txt"', text)
    (copied,) = re.findall(r'class="button needs-script" data-copy="([^"]*)"', text)
    assert unquote(unescape(data)) == unescape(copied)
    assert unquote(data).splitlines()[-10:] == codes
    assert unquote(data).startswith("Taskruns recovery codes of vera@example.com\nhttp")
    assert re.search(r'<button type="button" class="button needs-script" data-print>', text)


def test_codes_are_shown_once_and_never_cached(vera: User, client_of: ClientOf):
    client = with_factor(vera, client_of)
    answer = client.post(URL)
    assert {"no-store", "private"} <= set(answer["Cache-Control"].replace(" ", "").split(","))
    codes = codes_on(answer)
    assert not [code for code in codes if code in client.get(URL).content.decode()]
    assert not [code for code in codes if code in client.get("/accounts/factors/").content.decode()]
    stored = repr(dump())
    assert not [code for code in codes if code in stored]


def test_old_sign_ins_get_no_codes(vera: User, client_of: ClientOf):
    client = with_factor(vera, client_of)
    with time_machine.travel(timezone.now() + timedelta(minutes=11)):
        assert codes_on(client.post(URL)) == []
        assert client.get(URL)["Location"].startswith("/accounts/confirm/")
