"""The page of a team's log: only its own chain, newest first, filters in the URL, every stored field shown."""

import re
import uuid
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from taskruns.audit import Actor, EventType, Target, record
from taskruns.models import AuditEvent, Run, Team, TeamRole, User
from tests.clients import ClientOf
from tests.factories import actor, member

pytestmark = pytest.mark.usefixtures("any_details")

URL = "/teams/ops-north/audit/"


@pytest.fixture
def page(mona: User, client_of: ClientOf) -> Any:
    """Gets the page as mona, with the given filters."""

    def get(**filters: object) -> Any:
        return client_of(mona).get(f"{URL}?{urlencode(filters, doseq=True)}")

    return get


def shown(answer: Any) -> list[int]:
    """The number of each group's first row in page order, without the row for reading the page."""
    assert answer.status_code == 200
    readings = set(AuditEvent.objects.filter(event="audit.read").values_list("pk", flat=True))
    return numbers_of([pk for pk in rows_of(answer.content.decode()) if pk not in readings])


def rows_of(text: str) -> list[int]:
    return [int(pk) for pk in re.findall(r'<tr id="event-(\d+)"', text)]


def numbers_of(pks: list[int]) -> list[int]:
    """PostgreSQL's key sequence continues after a test's rollback; the number in the chain does not."""
    numbers = dict(AuditEvent.objects.values_list("pk", "seq"))
    return [numbers[pk] for pk in pks]


@pytest.fixture
def history(team: Team, other_team: Team, run: Run, oli: User, mona: User, otto: User) -> None:
    north = Target("team", "1", "Ops North")
    with time_machine.travel("2026-11-23T03:01:00Z", tick=False):
        record(EventType.TEAM_CHANGE, "done", by=actor(mona, "manager"), team=team, target=north)
    with time_machine.travel("2026-11-23T03:02:00Z", tick=False):
        by = replace(actor(oli), request_id="req-1")
        record(EventType.RUN_CANCEL, "requested", by=by, team=team, run=run, reason="wrong data")
    with time_machine.travel("2026-11-23T03:03:00Z", tick=False):
        record(EventType.RUN_CANCEL, "confirmed", by=actor(oli), team=team, run=run, details={"batch_id": "b-1"})
    record(EventType.TEAM_CHANGE, "done", by=actor(otto, "manager"), team=other_team, reason="of the south")
    record(EventType.PERSON_CREATE, "done", by=Actor.command(), reason="of the site")


def test_the_page_shows_only_the_teams_chain_newest_first(history: None, page: Any):
    answer = page()
    assert shown(answer) == [3, 2, 1]
    text = answer.content.decode()
    assert "of the south" not in text
    assert "of the site" not in text
    assert "wrong data" in text


def test_a_sentence_says_who_did_what_and_why(history: None, run: Run, page: Any):
    text = page().content.decode()
    assert f"oli@example.com asked to cancel run {run.arize_id} of task {run.task.name}" in text
    assert "“wrong data”" in text
    assert "<code>run.cancel / requested</code>" in text
    assert reverse("run", args=["ops-north", run.pk]) in text


def test_every_stored_field_of_a_row_is_shown(history: None, page: Any):
    text = page().content.decode()
    for event in AuditEvent.objects.filter(chain__startswith="team", reason="wrong data"):
        for field in event._meta.concrete_fields:
            value = getattr(event, field.attname)
            if field.attname not in {"id", "details", "at"} and value not in ("", None):
                assert f"<code>{field.attname}</code>" in text
                assert str(value) in text


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        ({"event": "run.cancel"}, [3, 2]),
        ({"event": "run.cancel", "outcome": "confirmed"}, [3]),
        ({"event": "team.change", "outcome": "done"}, [1]),
        ({"person": "OLI@"}, [3, 2]),
        ({"person": "nobody"}, []),
        ({"actor": "{oli}"}, [3, 2]),
        ({"actor": "{oli}", "event": "team.change"}, []),
        ({"actor": "x"}, []),
        ({"q": "wrong"}, [2]),
        ({"q": "relevance"}, [3, 2]),
        ({"q": "T25saW5lVGFzazo0NTpxUndY"}, [3, 2]),
        ({"q": "%"}, []),
        ({"q": "_rong"}, []),
        ({"run": "{run}"}, [3, 2]),
        ({"run": "{run}x"}, []),
        ({"task": "T25saW5lVGFzazo0NTpxUndY"}, [3, 2]),
        ({"task": "T25"}, []),
        ({"key": "{key}"}, [3, 2]),
        ({"key": "00000000-0000-4000-8000-000000000000"}, []),
        ({"batch": "b-1"}, [3]),
        ({"batch": "b-2"}, []),
        ({"request": "req-1"}, [2]),
        ({"request": "req"}, []),
        ({"since": "2026-11-23T03:02:00"}, [3, 2]),
        ({"since": "2026-11-23T03:02:00Z", "until": "2026-11-23T05:03:00+02:00"}, [2]),
        ({"until": "2026-11-23T03:02:00"}, [1]),
        ({"until": "2026-11-23T03:00"}, []),
        ({"since": "2030-01-01"}, []),
        ({"run": "{run}", "person": "oli", "event": "run.cancel", "q": "wrong", "since": "2026-11-23"}, [2]),
        ({"before": "{3}"}, [2, 1]),
        ({"before": "{1}"}, []),
        ({"event": "", "outcome": "", "person": " ", "q": "", "unknown": "x"}, [3, 2, 1]),
    ],
)
def test_filters_are_in_the_url(
    history: None, page: Any, run: Run, oli: User, filters: dict[str, object], numbers: list[int]
):
    ids = {"{run}": run.arize_id, "{key}": run.task.credential_id, "{oli}": oli.pk}
    ids |= {
        f"{{{row.seq}}}": row.pk for row in AuditEvent.objects.filter(chain__startswith="team:", team_id=run.team_id)
    }
    chosen = {name: ids.get(str(value), value) for name, value in filters.items()}
    assert shown(page(**chosen)) == numbers


def test_a_run_is_found_by_its_arize_id(history: None, run: Run, page: Any):
    assert shown(page(q=run.arize_id)) == [3, 2]
    assert shown(page(q=run.arize_id[:-1])) == []


def test_chosen_filters_are_in_the_form_and_the_links(history: None, run: Run, page: Any):
    text = page(
        run=run.arize_id, since="2026-11-23T03:00", event="run.cancel", key=run.task.credential_id
    ).content.decode()
    for value in (run.arize_id, "2026-11-23T03:00:00", run.task.credential_id):
        assert f'value="{value}"' in text
    assert '<option value="run.cancel" selected>' in text
    assert re.search(r'href="[^"]*export\.jsonl\?[^"]*run=[^"]*"', text)


@pytest.mark.parametrize(
    ("filters", "sentence"),
    [
        ({"event": "run.cancelled"}, "There is no event “run.cancelled”."),
        ({"outcome": "maybe"}, "There is no outcome “maybe”."),
        ({"since": "yesterday"}, "must be a time"),
        ({"until": "2026-13-01"}, "must be a time"),
        ({"since": "0001-01-01T00:00:00+14:00"}, "must be a time"),
        ({"key": "Production"}, "must be the ID of an API key"),
        ({"run": "x" * 501}, "longer than 500 characters"),
        ({"before": "x"}, "This page link is damaged."),
        ({"before": "-1"}, "This page link is damaged."),
        ({"before": "9" * 30}, "This page link is damaged."),
        ({"before": "\N{ARABIC-INDIC DIGIT ONE}"}, "This page link is damaged."),
        ({"q": "x" * 201}, "longer than 200 characters"),
        ({"person": "a\x00b"}, "cannot be searched for"),
        ({"q": "a\nb"}, "cannot be searched for"),
    ],
)
def test_an_invalid_filter_is_a_400_with_a_message(history: None, page: Any, filters: dict[str, object], sentence: str):
    answer = page(**filters)
    assert answer.status_code == 400
    assert sentence in answer.content.decode()


def test_pages_have_no_gap_while_rows_are_added(team: Team, mona: User, client_of: ClientOf):
    for _ in range(120):
        record(EventType.TEAM_CHANGE, "done", by=actor(mona), team=team)
    client, url, seen = client_of(mona), f"{URL}?event=team.change", []
    while url:
        text = client.get(url).content.decode()
        seen += numbers_of(rows_of(text))
        record(EventType.TEAM_CHANGE, "done", by=actor(mona), team=team)
        found = re.search(r'href="([^"]+)" rel="next"', text)
        url = found.group(1).replace("&amp;", "&") if found else ""
        assert not url or "event=team.change" in url
    assert seen == list(range(120, 0, -1))


def test_the_number_of_queries_does_not_grow_with_the_rows(team: Team, run: Run, mona: User, client_of: ClientOf):
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            shown(client_of(mona).get(URL))
        return len(captured)

    record(EventType.RUN_CANCEL, "requested", by=actor(mona), team=team, run=run, operation_id=uuid.uuid4())
    queries()  # the reading is recorded
    few = queries()
    for number in range(45):
        operation = uuid.UUID(int=number)
        record(EventType.RUN_CANCEL, "requested", by=actor(mona), team=team, run=run, operation_id=operation)
        record(EventType.RUN_CANCEL, "confirmed", by=actor(mona), team=team, run=run, operation_id=operation)
    assert queries() == few


def test_texts_from_people_and_arize_are_escaped(team: Team, run: Run, oli: User, page: Any):
    evil = """<img src=x onerror=alert(1)>"><script>alert(1)</script>{{ 7|add:7 }}{% now "Y" %}"""
    run.task.name = evil
    by = Actor(type="user", label=evil, role="operator", user_agent=evil)
    record(EventType.RUN_CANCEL, "requested", by=by, team=team, run=run, reason=evil, details={"key": evil, evil: 1})
    text = page().content.decode()
    assert "<img src=x" not in text
    assert "<script>alert" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text
    assert "{{ 7|add:7 }}" in text


def test_braces_in_a_name_do_not_break_a_sentence(team: Team, run: Run, oli: User, page: Any):
    run.task.name = "{who} {0} {target.__class__}"
    record(EventType.RUN_CANCEL, "requested", by=actor(oli), team=team, run=run)
    assert "of task {who} {0} {target.__class__}" in page().content.decode()


def test_end_of_log_and_no_match_have_different_texts(team: Team, page: Any):
    assert "No older entries" in page(before=1).content.decode()
    assert "No entries match these filters" in page(q="zzz").content.decode()


def test_the_row_of_a_deleted_run_is_still_readable(history: None, run: Run, page: Any):
    run.delete()
    assert shown(page()) == [3, 2, 1]
    assert f"asked to cancel run {run.arize_id}" in page().content.decode()


def test_a_person_filter_matches_the_exact_person(team: Team, oli: User, mona: User, client_of: ClientOf):
    li = member(team, "li@example.com", TeamRole.OPERATOR)
    for person in (oli, li):
        record(EventType.TEAM_CHANGE, "done", by=actor(person), team=team, reason=f"by {person.email}")
    text = client_of(mona).get(URL, {"actor": li.pk}).content.decode()
    assert "by li@example.com" in text
    assert "by oli@example.com" not in text
    typed = client_of(mona).get(URL, {"person": "li@example.com"}).content.decode()
    assert "by oli@example.com" in typed, "the control: the text matches a part of an address"


@pytest.mark.parametrize("q", ["PRÜFUNG", "prufung", "Pru\u0308fung"])
def test_search_ignores_case_and_accents(q: str, team: Team, mona: User, run: Run, page: Any):
    by = replace(actor(mona), label="Zoë@example.com")
    record(EventType.RUN_CANCEL, "requested", by=by, team=team, run=run, reason="falsche Prüfung")
    record(EventType.RUN_CANCEL, "requested", by=actor(mona), team=team, run=run, reason="wrong data")
    assert shown(page(q=q)) == [1]
    assert shown(page(person="ZOE@")) == [1]
    assert shown(page(person="zoe\u0308@")) == [1]
    assert shown(page(q="\u0308")) == []
