"""The rows of one operation are one group on one page, even while rows are added."""

import re
import uuid
from typing import Any

import pytest
import time_machine
from django.db import transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskruns.audit import Actor, EventType, record
from taskruns.forms import AuditFilter
from taskruns.models import AuditEvent, Run, Task, Team, User
from taskruns.pages.audit import page as pages
from tests.clients import ClientOf
from tests.factories import actor, make_run
from tests.markup import without_bdi

URL = "/teams/ops-north/audit/"


def request_cancel(run: Run, by: Actor) -> uuid.UUID:
    operation = uuid.uuid4()
    record(
        EventType.RUN_CANCEL, "requested", by=by, team=run.team, run=run, operation_id=operation, reason="wrong data"
    )
    return operation


def end(run: Run, operation: uuid.UUID, outcome: str, by: Actor) -> None:
    record(EventType.RUN_CANCEL, outcome, by=by, team=run.team, run=run, operation_id=operation)


def rows(text: str) -> list[str]:
    return re.findall(r"<tr id=\"event-.*?</tr>", text, re.DOTALL)


def test_request_and_outcome_of_an_operation_are_one_group(run: Run, oli: User, mona: User, client_of: ClientOf):
    first = request_cancel(run, actor(oli))
    record(EventType.TEAM_CHANGE, "done", by=actor(mona), team=run.team)
    end(run, first, "unknown", actor(oli))
    end(run, first, "finished_first", Actor.job("sweep"))
    listed = rows(client_of(mona).get(URL).content.decode())
    assert len(listed) == 2  # the change, the cancel
    cancel = listed[-1]
    said = ["asked to cancel run", "its outcome is unknown", "had already finished"]
    assert [cancel.index(words) for words in said] == sorted(cancel.index(words) for words in said)
    assert 'data-outcome="finished_first"' in cancel
    assert "· sweep" in without_bdi(cancel)


def test_denied_and_unknown_stand_out(run: Run, oli: User, vera: User, mona: User, client_of: ClientOf):
    end(run, request_cancel(run, actor(oli)), "unknown", actor(oli))
    client_of(vera).post(f"/teams/ops-north/runs/{run.pk}/cancel/")
    text = without_bdi(client_of(mona).get(URL).content.decode())
    assert re.search(r'class="event tone-warning">[^<]*its outcome is unknown', text)
    assert re.search(r'class="event tone-error">vera@example.com tried to cancel a run without permission: ', text)
    assert re.search(r'class="event">oli@example.com asked to cancel', text)


def test_links_lead_to_the_history_of_a_run_and_a_person(run: Run, oli: User, mona: User, client_of: ClientOf):
    other = make_run(run.task, arize_id="other+run/=")
    request_cancel(run, actor(oli))
    request_cancel(other, actor(mona))
    text = client_of(mona).get(URL).content.decode()
    assert f'href="{URL}?run={run.arize_id}"' in text
    assert f'href="{URL}?run=other%2Brun%2F%3D"' in text
    assert f'href="{URL}?actor={oli.pk}"' in text
    of_run = client_of(mona).get(URL, {"run": other.arize_id}).content.decode()
    assert len(rows(of_run)) == 1
    assert f"to cancel run {other.arize_id}" in of_run
    of_person = client_of(mona).get(URL, {"actor": oli.pk}).content.decode()
    assert len(rows(of_person)) == 1
    assert f"to cancel run {run.arize_id}" in of_person


def test_every_field_of_every_row_in_a_group_is_shown(run: Run, oli: User, mona: User, client_of: ClientOf):
    operation = request_cancel(run, actor(oli))
    end(run, operation, "confirmed", actor(oli))
    text = client_of(mona).get(URL, {"run": run.arize_id}).content.decode()
    for event in AuditEvent.objects.filter(operation_id=operation):
        assert f"All fields of entry {event.seq}<" in text
        assert event.hash in text
        assert event.prev_hash in text


def all_pages(team: Team | None, query: dict[str, Any], between: Any = lambda: None) -> list[tuple[int, ...]]:
    """The row numbers of each group on all pages, newest first."""
    seen: list[tuple[int, ...]] = []
    wanted: AuditFilter | None = AuditFilter(**query)
    while wanted is not None:
        page = pages.page(team, wanted)
        seen += [tuple(row.id for row in group.rows) for group in page.groups]
        between()
        found = re.search(r"before=(\d+)", page.next_url)
        wanted = AuditFilter(**query, before=int(found[1])) if found else None
    return seen


STEPS = st.lists(st.tuples(st.sampled_from(["ask", "end", "alone", "other"]), st.integers(0, 5)), max_size=30)
QUERIES = st.sampled_from(
    [{}, {"outcome": "requested"}, {"outcome": "unknown"}, {"event": "run.cancel"}, {"q": "wrong"}, {"person": "oli"}]
)


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS, QUERIES, st.sampled_from(["team", "all"]), st.integers(1, 4), st.integers(3, 9))
def test_pages_never_skip_or_repeat_an_operation(
    run: Run, other_team: Team, oli: User, steps: Any, query: Any, log: str, length: int, reach: int
):
    """Compare with a simple model: each operation with a matching row at the start, once, newest first."""
    point = transaction.savepoint()
    open_operations: list[uuid.UUID] = []

    def step(kind: str, number: int) -> None:
        if kind == "ask":
            open_operations.append(request_cancel(run, actor(oli)))
        elif kind == "end" and open_operations:
            end(run, open_operations[number % len(open_operations)], "unknown", Actor.job("sweep"))
        else:
            record(EventType.TEAM_CHANGE, "done", by=actor(oli), team=other_team if kind == "other" else run.team)

    for kind, number in steps:
        step(kind, number)
    scope = AuditEvent.objects.filter(team_id=run.team_id) if log == "team" else AuditEvent.objects.all()
    first: dict[object, int] = {}
    for row in pages.matching(scope, AuditFilter(**query)).order_by("pk"):
        first.setdefault(row.operation_id or row.pk, row.pk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "PAGE", length)
        patch.setattr(pages, "SCAN_LIMIT", reach)
        team = run.team if log == "team" else None
        seen = all_pages(team, query, lambda: [step("end", 0), step("alone", 0)])
    expected = sorted(first.values(), reverse=True)
    found = [next(number for number in group if number in first.values()) for group in seen]
    transaction.savepoint_rollback(point)
    assert found == expected


def test_a_date_filter_seeks_to_its_place(team: Team, mona: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "SCAN_LIMIT", 5)
    monkeypatch.setattr(pages, "SLACK", 1)
    for hour in range(20):
        with time_machine.travel(f"2026-11-{hour + 1:02}T12:00:00Z", tick=False):
            record(EventType.TEAM_CHANGE, "done", by=actor(mona), team=team)
    day = {"since": "2026-11-04", "until": "2026-11-06"}
    for scope in (team, None):
        page = pages.page(scope, AuditFilter(**{name: moment(value) for name, value in day.items()}))
        assert len(page.groups) == 2
        assert (page.scanned, page.next_url) == (0, "")
        late = pages.page(scope, AuditFilter(until=moment("2026-11-11")))
        assert (len(late.groups), late.scanned) == (4, 5)
        assert not pages.page(scope, AuditFilter(since=moment("2027-01-01"))).next_url


def moment(day: str) -> Any:
    return timezone.datetime.fromisoformat(f"{day}T00:00:00+00:00")


def test_a_partial_search_says_so_and_can_be_continued(team: Team, mona: User, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pages, "SCAN_LIMIT", 5)
    for number in range(12):
        record(EventType.TEAM_CHANGE, "done", by=actor(mona), team=team, reason=f"reason {number}")
    page = pages.page(team, AuditFilter(q="reason 0"))
    assert (page.groups, page.scanned) == ((), 5)
    assert all_pages(team, {"q": "reason 0"}) == [(AuditEvent.objects.get(reason="reason 0").pk,)]
    assert pages.page(team, AuditFilter(q="reason 11")).groups


def test_a_task_without_name_and_a_run_without_task_are_shown(run: Run, mona: User, client_of: ClientOf):
    Task.objects.update(name="")
    request_cancel(Run.objects.get(pk=run.pk), actor(mona))
    assert f"of task {run.task.arize_id}" in client_of(mona).get(URL).content.decode()
