"""Texts from Arize and from people on every page: no hidden character, and each isolated from the text beside it."""

import json
import re
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from taskruns.audit import EventType, record
from taskruns.models import (
    ArizeUser,
    CancelBatch,
    CancelItem,
    Cancellation,
    Credential,
    PersonSession,
    Run,
    SavedView,
    Status,
    Task,
    Team,
    Token,
    User,
)
from taskruns.pages.values import shortened, told_apart
from taskruns.templatetags.parts import visible
from tests.factories import actor, make_run, make_token
from tests.stage import Stage, a_stop
from tests.urlconf import url_names, wanted

pytestmark = pytest.mark.once

# Reverses the direction of the text after it, and has letters of a right-to-left script.
HOSTILE = "\u202e\u2066אבג evil\x07\x85\u2069"
WORD = "evil"
HIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Elements whose text is isolated or cannot hold elements.
PLAIN = {"title", "option", "textarea"}
VOID = {"meta", "link", "input", "br", "hr", "img"}


class Isolation(HTMLParser):
    """Finds hidden characters, and hostile texts outside of `<bdi>`. The value of a form field is data."""

    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.met = 0
        self._open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self._open.append(tag)
        for name, value in attrs:
            if name != "value" and HIDDEN.search(value or ""):
                self.faults.append(f"{tag} {name}={value!r}")

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        isolated = {"bdi", *PLAIN} & set(self._open)
        if HIDDEN.search(data) or (WORD in data and not isolated):
            self.faults.append(f"{'/'.join(self._open[-4:])}: {data.strip()!r}")
        self.met += WORD in data


def faults_of(html: str) -> list[str]:
    reader = Isolation()
    reader.feed(html)
    return reader.faults


def make_hostile(stage: Stage) -> None:
    Team.objects.update(name=HOSTILE)
    User.objects.update(name=HOSTILE)
    Credential.objects.update(
        name=HOSTILE,
        spaces=[{"id": "S", "name": HOSTILE, "organization_id": ""}],
        failing_reason=HOSTILE,
        backoff_reason=HOSTILE,
        list_problem=HOSTILE,
    )
    Task.objects.update(name=HOSTILE, space_name=HOSTILE, space_id=HOSTILE, as_read=json.dumps({"type": HOSTILE}))
    states: dict[Status, dict[str, Any]] = {
        Status.FAILED: {"failure_reason": HOSTILE},
        Status.CANCELLED: {"failure_reason": HOSTILE},
        Status.UNKNOWN: {"raw_status": HOSTILE},
    }
    for status, fields in states.items():
        make_run(stage.run.task, status=status, arize_id=f"{HOSTILE}{status}", **fields)
    known = {"team": stage.team, "endpoint": stage.run.endpoint, "known": True}
    ArizeUser.objects.create(**known, arize_id="U", name=HOSTILE)
    Run.objects.update(created_by_user_id=HOSTILE, as_read=json.dumps({"id": HOSTILE}, ensure_ascii=False))
    Run.objects.filter(pk=stage.run.pk).update(created_by_user_id="U")
    asked = {"person_label": HOSTILE, "reason": HOSTILE, "run": stage.run}
    pressed = Cancellation.objects.create(**asked, outcome="refused", explanation=HOSTILE)
    CancelItem.objects.update(cancellation=pressed, state="refused")
    CancelBatch.objects.update(person_label=HOSTILE, reason=HOSTILE, why_aborted=HOSTILE)
    SavedView.objects.update(name=HOSTILE)
    used = {"last_used_at": timezone.now(), "last_used_ip": "192.0.2.7", "last_used_client": HOSTILE}
    Token.objects.update(name=HOSTILE, maker_label=HOSTILE, networks=[HOSTILE], expiry_told=7, **used)
    mona = stage.people["mona"]
    make_token(stage.team, name=f"{HOSTILE} 2", maker=mona, revoked_at=timezone.now(), **used)
    make_token(
        stage.team, name=f"{HOSTILE} 3", maker_label=HOSTILE, made_by_command=False, maker_told_at=timezone.now()
    )
    query = urlencode({"q": HOSTILE, "all": 1})
    SavedView.objects.create(team=stage.team, owner=stage.people["mona"], name="q", query=query)
    PersonSession.objects.update(user_agent=HOSTILE)
    by = actor(stage.people["oli"])
    record(EventType.RUN_CANCEL, "requested", by=by, team=stage.team, run=stage.run, reason="אבג evil")


def pages_of(stage: Stage, client: Client, who: str) -> dict[str, str]:
    """Every page that the person may open, and the fragments that poll."""
    paths = {reverse(name, kwargs={part: stage.ids_for(name)[part] for part in wanted(name)}) for name in url_names()}
    board, q = reverse("board", args=[stage.team.slug]), "\u2067evil"
    paths |= {reverse("run", args=[stage.team.slug, run.pk]) for run in Run.objects.all()}
    paths |= {reverse("batch", args=[stage.team.slug, batch.pk]) for batch in CancelBatch.objects.all()}
    found = {}
    for path in (*sorted(paths), f"{board}?q={q}", f"{board}?sort={q}", f"{board}?task={q}"):
        for headers in ({}, {"HX-Request": "true"}):
            answer = client.get(path, headers=headers)
            if answer.status_code < 500 and answer.get("Content-Type", "").startswith("text/html"):
                found[f"{who} {path} {headers}"] = answer.getvalue().decode()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("who", ["oli", "mona", "ada", "adam"])
@pytest.mark.parametrize("stopped", [False, True])
def test_no_text_on_any_page_hides_or_turns_another(who: str, stopped: bool, stage: Stage) -> None:  # noqa: FBT001
    make_hostile(stage)
    if stopped:
        a_stop(stage)
    html = pages_of(stage, stage.client(who), who)
    faults = {page: found for page, text in html.items() if (found := faults_of(text))}
    assert faults == {}
    seen = [text for text in html.values() if WORD in text]
    assert len(seen) > 20, "the control: the texts are on the pages"


def test_the_reader_finds_hidden_characters_and_bare_texts() -> None:
    assert faults_of("<p>evil</p>") == ["p: 'evil'"]
    assert faults_of("<p title='\u202e'><bdi>a\u202e</bdi></p>") == ["p title='\\u202e'", "p/bdi: 'a\\u202e'"]
    assert faults_of("<p><bdi dir='ltr'>evil</bdi><option>evil</option><input value='\u202e'></p>") == []
    assert faults_of("<p><bdi>good</bdi> evil</p>") == ["p: 'evil'"]


def test_hidden_characters_become_visible() -> None:
    assert visible("exe\u202etxt\x00\x7f\x9f\u2066") == "exe\\u202etxt␀␡\\u009f\\u2066"
    assert visible("a\tb\nc אבג e\u0301 \N{FAMILY}\u200d") == "a\tb\nc אבג e\u0301 \N{FAMILY}\u200d"


def test_equal_names_are_told_apart_by_space_and_id() -> None:
    rows = [("VGFzazox-aaaaaaaa", "Judge", "one"), ("VGFzazox-bbbbbbbb", "Judge", ""), ("VGFzazo-c", "Other", "one")]
    assert list(told_apart(rows).values()) == ["Judge · one · …aaaaaaaa", "Judge · …bbbbbbbb", "Other"]
    alike = [("1-aaaaaaaa", "J", ""), ("2-aaaaaaaa", "J", "")]
    assert list(told_apart(alike).values()) == ["J · 1-aaaaaaaa", "J · 2-aaaaaaaa"]
    long = [("1", "x" * 3_000, ""), ("2", "x" * 2_999, "")]
    assert list(told_apart(long).values()) == [f"{shortened('x' * 3_000)} · …1", f"{shortened('x' * 3_000)} · …2"]
    assert told_apart([("1", "J", "a"), ("1", "J", "a")]) == {"1": "J"}, "one task of two teams"
