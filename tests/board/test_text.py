"""Text and times from Arize on pages: shown as plain text and as valid times, whatever they contain."""

from datetime import datetime
from html.parser import HTMLParser
from typing import Any

import pytest
from django.test import Client

from taskruns.models import Run, Status, Task, User
from tests.factories import make_run

BOARD = "/teams/ops-north/runs/"


NASTY = [
    "<img src=x onerror=alert(1)>",
    '");alert(1)//',
    "{{ 7|add:7 }}{% now 'Y' %}",
    "</script><script>alert(1)</script>",
    "' onmouseover='x",
    '"><img src=x onerror=alert(1)>' + " and on" * 12,  # long enough for a title
]


class Markup(HTMLParser):
    """Parses a page like a browser: its elements, their attributes, and inline scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts.append(data)


@pytest.mark.parametrize("text", NASTY)
def test_text_from_arize_is_never_markup(text: str, client: Client, task: Task) -> None:
    Task.objects.update(name=text, arize_id=text, space_name=text)
    make_run(
        task,
        arize_id=text,
        status=Status.CANCELLED,
        failure_reason=text,
        experiment_id=text,
        created_by_user_id=text,
        as_read='{"id": "</pre><img src=x onerror=alert(1)>"}',
    )
    unknown = make_run(task, arize_id="x", status=Status.UNKNOWN, raw_status=text)
    for url in (BOARD, f"{BOARD}table/", f"{BOARD}{unknown.pk}/", f"{BOARD}{Run.objects.get(arize_id=text).pk}/"):
        markup = Markup()
        html = client.get(url).content.decode()
        markup.feed(html)
        assert "img" not in markup.tags
        assert not [name for name in markup.attributes if name.startswith("on")]
        assert "".join(markup.scripts).strip() == ""
        assert "{{" not in text or "{{ 7|add:7 }}" in html
        escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
        assert escaped.replace("'", "&#x27;") in html


def test_the_markup_reader_detects_forbidden_markup() -> None:
    markup = Markup()
    markup.feed("<p>" + NASTY[0] + NASTY[3] + "</p>")
    assert "img" in markup.tags
    assert "onerror" in markup.attributes
    assert markup.scripts == ["alert(1)"]


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Tokyo"])
@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59+00:00"])
def test_extreme_times_are_shown_in_every_time_zone(
    moment: str, zone: str, client: Client, vera: User, task: Task
) -> None:
    """Servers written in Go send 0001-01-01 for "not yet"."""
    User.objects.update(time_zone=zone)
    run = make_run(task, run_started_at=datetime.fromisoformat(moment), run_finished_at=datetime.fromisoformat(moment))
    for url in (BOARD, f"{BOARD}{run.pk}/"):
        page = client.get(url)
        assert page.status_code == 200
        assert moment[:19] in page.content.decode()
