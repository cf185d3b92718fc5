"""Auditors get their frequent questions as links, and do not see their own visits unless they ask."""

import re
import uuid
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import time_machine

from taskruns.audit import Actor, EventType, Target, record
from taskruns.forms import AuditFilter
from taskruns.models import AuditEvent, Run, Team, User
from taskruns.pages.audit import page as pages
from taskruns.services.audit.matching import event_groups, events_of
from tests.clients import ClientOf
from tests.factories import actor
from tests.markup import without_bdi

pytestmark = pytest.mark.usefixtures("any_details")

URL, SITE = "/teams/ops-north/audit/", "/audit/"


def events_on(answer: Any) -> list[str]:
    return re.findall(r'<tr id="event-\d+"[^>]* data-event="([^"]*)"', answer.content.decode())


def questions_on(answer: Any) -> dict[str, str]:
    return {link.text: link.url for link in answer.context["page"].questions}


# --- Questions


def test_a_group_of_events_is_one_filter(team: Team, run: Run, mona: User, client_of: ClientOf):
    record(EventType.CREDENTIAL_ADD, "done", by=actor(mona), team=team)
    record(EventType.RUN_CANCEL, "requested", by=actor(mona), team=team, run=run, operation_id=uuid.uuid4())
    record(EventType.CREDENTIAL_FAILING, "done", by=Actor.job("mirror"), team=team)
    answer = client_of(mona).get(URL, {"event": "credential.*"})
    assert events_on(answer) == ["credential.failing", "credential.add"]
    assert '<option value="credential.*" selected>' in answer.content.decode()


def test_groups_hold_every_event_of_their_name():
    assert "credential.*" in event_groups()
    assert "encryption.*" not in event_groups(), "one event needs no group"
    assert set(events_of("stop.*")) == {"stop.pull", "stop.lift", "stop.expire"}
    assert events_of("run.cancel") == ("run.cancel",), "not run.cancel_many"


def test_a_group_is_read_by_the_index_of_its_events(
    team: Team, other_team: Team, mona: User, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pages, "SCAN_LIMIT", 4)
    monkeypatch.setattr(pages, "PAGE", 3)
    kinds = [EventType.STOP_PULL, EventType.TEAM_CHANGE, EventType.STOP_LIFT, EventType.TEAM_CHANGE]
    for number in range(24):
        record(kinds[number % 4], "done", by=actor(mona), team=team if number % 3 else other_team)
    for scope in (team, None):
        wanted: AuditFilter | None = AuditFilter(event="stop.*")
        seen: list[int] = []
        while wanted is not None:
            page = pages.page(scope, wanted)
            seen += [group.first.id for group in page.groups]
            found = re.search(r"before=(\d+)", page.next_url)
            wanted = AuditFilter(event="stop.*", before=int(found[1])) if found else None
        rows = AuditEvent.objects.filter(event__startswith="stop.").order_by("-pk")
        rows = rows if scope is None else rows.filter(team_id=team.pk)
        assert seen == list(rows.values_list("pk", flat=True))


@time_machine.travel("2026-11-30T20:15:00Z", tick=False)
def test_each_question_is_a_filter_that_works(team: Team, run: Run, mona: User, ada: User, client_of: ClientOf):
    for someone, url, number in ((mona, URL, 9), (ada, SITE, 14)):
        client = client_of(someone)
        asked = questions_on(client.get(url))
        assert len(asked) == number
        for text, link in asked.items():
            answer = client.get(link)
            assert answer.status_code == 200
            current = [one.text for one in answer.context["page"].questions if one.current]
            assert current == [text]
    query = parse_qs(urlsplit(asked["Cancels of the last 7 days"]).query)
    assert query == {"since": ["2026-11-23T00:00:00"], "event": ["run.cancel"]}
    assert asked["Failed sign-ins"] == f"{SITE}?event=auth.sign_in&outcome=failed"


def test_an_unknown_group_is_a_400(team: Team, mona: User, client_of: ClientOf):
    answer = client_of(mona).get(URL, {"event": "keys.*"})
    assert (answer.status_code, "There is no event “keys.*”." in answer.content.decode()) == (400, True)


def test_a_group_filters_an_export_too(team: Team, mona: User, client_of: ClientOf):
    record(EventType.STOP_PULL, "done", by=actor(mona), team=team)
    record(EventType.TEAM_CHANGE, "done", by=actor(mona), team=team)
    lines = b"".join(client_of(mona).get(f"{URL}export.csv", {"event": "stop.*"}).streaming_content).decode()
    assert ("stop.pull" in lines, "team.change" in lines) == (True, False)


# --- Own visits


def test_ones_own_visits_are_recorded_but_not_listed(team: Team, mona: User, ada: User, client_of: ClientOf):
    record(EventType.TEAM_CHANGE, "done", by=actor(mona), team=team)
    mine = client_of(mona)
    for _ in range(2):
        assert events_on(mine.get(URL)) == ["team.change"]
    assert AuditEvent.objects.filter(event="audit.read", actor_id=mona.pk).count() == 1
    assert events_on(client_of(ada).get(URL)) == ["audit.read", "team.change"], "others see it"
    assert events_on(mine.get(URL)) == ["audit.read", "team.change"], "and the visit of another person is listed"


def test_own_visits_are_listed_on_request(team: Team, mona: User, client_of: ClientOf):
    client = client_of(mona)
    page = client.get(URL)
    link = page.context["page"].own_readings_url
    assert f'<a href="{link.replace("&", "&amp;")}">Show my visits</a>' in page.content.decode()
    listed = client.get(link)
    assert events_on(listed) == ["audit.read"]
    assert "Show my visits" not in listed.content.decode()
    assert events_on(client.get(URL, {"event": "audit.*"})) == ["audit.read"]


def test_an_export_holds_ones_own_visits(team: Team, mona: User, client_of: ClientOf):
    client = client_of(mona)
    client.get(URL)
    assert b"audit.read" in b"".join(client.get(f"{URL}export.csv").streaming_content)


# --- Columns


def test_a_row_answers_an_auditors_questions(team: Team, run: Run, oli: User, mona: User, client_of: ClientOf):
    agent = "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:130.0) Gecko/20100101 Firefox/130.0"
    by = Actor(
        type="user", id=str(oli.pk), label=oli.email, role="operator", ip="192.0.2.7", user_agent=agent, person=oli
    )
    operation = uuid.uuid4()
    with time_machine.travel("2026-11-23T03:02:01Z", tick=False):
        for outcome in ("requested", "confirmed"):
            record(
                EventType.RUN_CANCEL, outcome, by=by, team=team, run=run, operation_id=operation, reason="wrong data"
            )
    text = without_bdi(client_of(mona).get(URL).content.decode())
    assert re.findall(r'<th role="columnheader"[^>]*>(\w+)</th>', text) == [
        *("When", "Who", "From", "What", "Why", "Outcome")
    ]
    (row,) = re.findall(r'<tr id="event-.*?</tr>', text, re.DOTALL)
    assert ">2026-11-23 03:02:01 UTC</time>" in row
    assert "data-relative" not in row
    assert re.search(r'data-label="From">\s*<span>\s*192\.0\.2\.7', row)
    assert f'title="{agent}">Firefox on Windows</span>' in row
    assert row.count("“wrong data”") == 1, "one reason for the whole operation"
    assert re.search(r'class="tone-success">confirmed</span>', row)


# --- Links to the log


def test_the_page_of_a_run_leads_to_its_entries(team: Team, run: Run, mona: User, oli: User, client_of: ClientOf):
    url = f"/teams/ops-north/runs/{run.pk}/"
    assert f'href="{URL}?run={run.arize_id}"' in client_of(mona).get(url).content.decode()
    assert "All audit entries" not in client_of(oli).get(url).content.decode(), "operators cannot read the log"


def test_the_page_of_a_person_leads_to_their_entries(team: Team, vera: User, ada: User, client_of: ClientOf):
    client = client_of(ada)
    client_of(vera).get(URL)  # refused
    links = {link.text: link.url for link in client.get(f"/people/{vera.pk}/").context["page"].audit_links}
    assert links["All entries by this person"] == f"{SITE}?actor={vera.pk}"
    assert events_on(client.get(links["Refused attempts of this person"])) == ["audit.read"]
    record(EventType.PERSON_GRANT, "done", by=actor(ada), target=Target("person", str(vera.pk), vera.email))
    assert "person.grant" in events_on(client.get(links["All entries that name this person"]))
