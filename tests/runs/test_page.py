"""The page of one run: every field, its history, who ended it, and the link by its Arize id."""

import json
import re
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
import requests
import responses
from django.test import Client
from django.utils import timezone

from taskruns.models import AuditEvent, Cancellation, Credential, Outcome, Run, Status, Task, Team, User
from taskruns.pages import board
from taskruns.permissions import TeamAccess, access_of
from taskruns.services.cancellations import sweep
from taskruns.services.runs.observations import record_observation
from tests.batches.starting_again import ended_run
from tests.clients import ClientOf, click_cancel
from tests.factories import make_credential, make_run
from tests.markup import without_bdi
from tests.runs.readings import reading
from tests.wire import ENDPOINT, run_url, wire_run


def page(client: Client, run: Run, **headers: str) -> str:
    answer = client.get(f"/teams/{run.team.slug}/runs/{run.pk}/", headers=headers)
    assert answer.status_code == 200
    return str(answer.content.decode())


def test_all_members_of_a_run_are_shown(client: Client, run: Run) -> None:
    members = {
        "experiment_id": "RXhwZXJpbWVudDox",
        "run_finished_at": "2026-11-23T03:01:02.500Z",
        "data_start_time": "2026-11-01T00:00:00Z",
        "data_end_time": "2026-11-02T00:00:00Z",
        "num_successes": 4850,
        "num_errors": 12,
        "num_skipped": 138,
        "failure_reason": "nothing to evaluate",
        "shiny_new_member": "kept",
    }
    record_observation(run, reading(run, "FAILED", **members), timezone.now())
    html = page(client, run)
    for name in (*wire_run(run), "experiment_id", "failure_reason"):
        assert f"<code>{name}</code>" in html
    for text in (run.arize_id, run.task.arize_id, "RXhwZXJpbWVudDox", "FAILED", "4,850", "138", "VXNlcjoxOm5OYkM="):
        assert text in html
    for moment in ("2026-11-23T02:55:00.000Z", "2026-11-23T03:01:02.500Z", "2026-11-01T00:00:00.000Z"):
        assert moment in html
    assert "nothing to evaluate" in html
    assert "shiny_new_member" in html
    assert "6 min 2 s" in html


def test_times_are_readable_without_a_script_and_in_the_persons_zone(client: Client, vera: User, run: Run) -> None:
    User.objects.filter(pk=vera.pk).update(time_zone="Asia/Tokyo")
    record_observation(run, reading(run, "FAILED", run_finished_at="2026-11-23T03:01:02.500Z"), timezone.now())
    text = re.sub(r"<pre.*?</pre>|<[^>]*>", "|", page(client, run), flags=re.DOTALL)
    assert "2026-11-23 12:01:02 JST" in text
    assert re.findall(r"\d{4}-\d\d-\d\dT[\d:.]+", text) == []
    beside = set(re.findall(r"<dd>\s*<time [^>]*>[^<]*</time> <span class=\"([^\"]*)\">\(<time", page(client, run)))
    assert beside == {"quiet needs-script"}, "without a script it would only repeat the text before it"


def test_htmx_gets_the_fragment_that_the_page_holds(client: Client, run: Run) -> None:
    whole, fragment = page(client, run), page(client, run, **{"HX-Request": "true"})
    assert fragment.lstrip().startswith('<article id="run-page"')
    assert "<html" in whole
    assert "<html" not in fragment


def test_only_an_ended_run_without_success_can_be_started_again_and_only_by_operators(
    vera: User, oli: User, task: Task, client_of: ClientOf
) -> None:
    failed, done, active = ended_run(task), make_run(task, status=Status.COMPLETED), make_run(task)
    as_oli = client_of(oli)
    assert "Start again" in page(as_oli, failed)
    assert "Start again" not in page(client_of(vera), failed)
    assert "Start again" not in page(as_oli, done)
    assert "Start again" not in page(as_oli, active)
    asked = as_oli.post("/teams/ops-north/batches/", {"kind": "trigger", "run": str(failed.pk)}, follow=True)
    assert "Start 1 run again?" in asked.content.decode()


def test_only_a_run_that_may_change_polls(client: Client, run: Run) -> None:
    assert "every 5s" in page(client, run)
    Run.objects.update(status=Status.COMPLETED, rank=0)
    assert "every 5s" not in page(client, run)


def test_every_member_reads_who_acted_on_this_run(
    client: Client, run: Run, task: Task, oli: User, client_of: ClientOf, arize: responses.RequestsMock
) -> None:
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    click_cancel(client_of(oli), run, reason="wrong model")
    html = page(client, run)
    assert "oli@example.com asked to cancel run" in html
    assert "“wrong model”" in html
    assert "run.cancel / confirmed" in html
    assert "asked to cancel" not in page(client, make_run(task))


def ended(task: Task, **fields: Any) -> Run:
    return make_run(task, status=Status.CANCELLED, **fields)


def test_the_page_names_who_ended_a_cancelled_run(client: Client, task: Task) -> None:
    by_us = ended(task)
    Cancellation.objects.create(run=by_us, person_label="oli", reason="too slow", outcome=Outcome.CONFIRMED)
    assert "cancelled by oli: too slow" in page(client, by_us)
    assert "cancelled by Arize: no data" in page(client, ended(task, failure_reason="no data"))
    begun = timezone.now() - timedelta(minutes=5)
    at_once = {"run_started_at": begun, "run_finished_at": begun + timedelta(seconds=3)}
    assert "cancelled by Arize within seconds" in page(client, ended(task, **at_once))
    assert "outside this team" in page(client, ended(task, **at_once, num_successes=1))
    later = at_once | {"run_finished_at": begun + timedelta(minutes=3)}
    assert "outside this team" in page(client, ended(task, **later))


@pytest.mark.parametrize("outcome", [Outcome.REFUSED, Outcome.NOT_SENT, Outcome.ALREADY_CANCELLED])
def test_a_cancel_that_did_not_end_the_run_gets_no_credit(outcome: Outcome, client: Client, task: Task) -> None:
    run = ended(task)
    Cancellation.objects.create(run=run, person_label="oli", outcome=outcome)
    assert "outside this team" in page(client, run)


def later_on() -> datetime:
    return timezone.now() + timedelta(minutes=1)


CREDITED = [
    (Outcome.STILL_RUNNING, False, "requested by oli, accepted by Arize: too slow"),
    (Outcome.UNKNOWN, True, "requested by oli, outcome not known yet: too slow"),
    (Outcome.UNKNOWN, False, "requested by oli, outcome unknown: too slow"),
]


@pytest.mark.parametrize(("outcome", "followed", "cause"), CREDITED)
@pytest.mark.parametrize("later", [None, Outcome.REFUSED, Outcome.ALREADY_CANCELLED, Outcome.NOT_SENT])
def test_a_cancel_that_may_have_ended_the_run_is_named(
    outcome: Outcome, followed: Any, cause: str, later: Outcome | None, client: Client, task: Task
) -> None:
    run = ended(task)
    Cancellation.objects.create(run=run, person_label="oli", outcome=outcome, followed=followed, reason="too slow")
    if later is not None:
        Cancellation.objects.create(run=run, person_label="mona", outcome=later, requested_at=later_on())
    text = page(client, run)
    assert cause in text
    assert "outside this team" not in text
    assert "cancelled by Arize" not in text


def test_an_active_run_shows_the_outcome_of_the_latest_cancel(client: Client, run: Run) -> None:
    Cancellation.objects.create(run=run, person_label="oli", outcome=Outcome.STILL_RUNNING)
    Cancellation.objects.create(run=run, person_label="mona", outcome=Outcome.REFUSED, requested_at=later_on())
    assert "Arize refused the last cancel." in page(client, run)


def test_the_cancel_that_ended_a_run_keeps_the_credit_over_a_later_one(
    client: Client, run: Run, oli: User, mona: User, client_of: ClientOf, arize: responses.RequestsMock
) -> None:
    """oli's answer was lost. mona cancelled again and Arize said that it was already cancelled: by oli."""
    arize.post(run_url(run, "/cancel"), body=requests.ReadTimeout())
    arize.get(run_url(run), status=500)
    click_cancel(client_of(oli), run, reason="too slow")
    arize.replace(responses.POST, run_url(run, "/cancel"), status=400)
    arize.replace(responses.GET, run_url(run), json=wire_run(run, "CANCELLED"))
    assert "already cancelled" in click_cancel(client_of(mona), run).content.decode()
    assert sweep() == 1
    assert "cancelled by oli@example.com: too slow" in page(client, run)
    row = board.row_of(run.pk, team_access=TeamAccess(run.team, access_of(mona, run.team)))
    assert row.cause == "cancelled by oli@example.com: too slow"


def test_a_run_of_another_team_is_not_found(run: Run, otto: User, client_of: ClientOf) -> None:
    foreign, missing = (f"/teams/ops-south/runs/{pk}/" for pk in (run.pk, run.task_id))
    answers = [client_of(otto).get(url) for url in (foreign, missing)]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert client_of(otto).get(f"/teams/ops-north/runs/{run.pk}/").status_code == 404


def by_id(client: Client, arize_id: str) -> Any:
    return client.get(f"/teams/ops-north/runs/by-arize-id/{quote(arize_id, safe='')}/")


@pytest.mark.parametrize("arize_id", ["VGFza1J1bjo5OTpxUndY", "VGFzaw==", "a/b", "a%2Fb", "/", "ü ?#", "table"])
def test_a_mirrored_run_is_found_by_its_arize_id(arize_id: str, client: Client, task: Task) -> None:
    run = make_run(task, arize_id=arize_id)
    answer = by_id(client, arize_id)
    assert (answer.status_code, answer.get("Location")) == (302, f"/teams/ops-north/runs/{run.pk}/")


def test_an_unknown_run_is_read_with_the_keys_of_the_team_and_mirrored(
    client: Client, team: Team, arize: responses.RequestsMock
) -> None:
    make_credential(team, name="Blind", key="ak-blind-0123456789")
    make_credential(team, name="Revoked", key="ak-revoked-0123456789", revoked_at=timezone.now())
    make_credential(team, name="Failing", key="ak-failing-0123456789", failing_since=timezone.now())
    seeing = make_credential(team, name="Seeing", key="ak-seeing-0123456789")
    keys = []

    def answer(request: Any) -> tuple[int, dict[str, str], str]:
        keys.append(request.headers["Authorization"])
        found = {"id": "VGFzaw==", "task_id": "T9", "status": "running"}
        return (200, {}, json.dumps(found)) if "seeing" in keys[-1] else (404, {}, "")

    arize.add_callback(responses.GET, f"{ENDPOINT}/v2/task-runs/VGFzaw%3D%3D", answer)
    found = by_id(client, "VGFzaw==")
    run = Run.objects.get(arize_id="VGFzaw==")
    assert found.url == f"/teams/ops-north/runs/{run.pk}/"
    assert (run.status, run.task.arize_id, run.task.credential) == ("running", "T9", seeing)
    assert keys == ["Bearer ak-blind-0123456789", "Bearer ak-seeing-0123456789"]
    assert by_id(client, "VGFzaw==").status_code == 302
    assert len(keys) == 2


NOT_THERE: list[dict[str, Any]] = [
    {"status": 404},
    {"status": 403},
    {"json": {"id": "another", "task_id": "T9", "status": "running"}},
    {"json": {"id": "R9", "task_id": "".join(chr(33 + (i * i) % 90) for i in range(5000))}},
]
CANNOT_TELL: list[dict[str, Any]] = [
    {"status": 401},
    {"status": 429},
    {"status": 500},
    {"body": requests.ReadTimeout()},
    {"body": "<html>"},
]


@pytest.mark.parametrize("answer", NOT_THERE)
def test_a_run_that_no_key_can_read_is_not_found(
    answer: dict[str, Any], client: Client, credential: Credential, arize: responses.RequestsMock
) -> None:
    arize.get(f"{ENDPOINT}/v2/task-runs/R9", **answer)
    assert by_id(client, "R9").status_code == 404
    assert not Run.objects.exists()
    assert not Task.objects.exists()


@pytest.mark.parametrize("answer", CANNOT_TELL)
def test_an_unreachable_arize_gets_an_explanation_and_no_404(
    answer: dict[str, Any], client: Client, credential: Credential, arize: responses.RequestsMock
) -> None:
    arize.get(f"{ENDPOINT}/v2/task-runs/R9", **answer)
    answered = by_id(client, "R9")
    assert answered.status_code == 503
    assert "cannot tell right now" in answered.content.decode()
    assert not Run.objects.exists()


def test_a_run_without_a_task_is_shown_under_a_nameless_task(
    client: Client, credential: Credential, arize: responses.RequestsMock
) -> None:
    arize.get(f"{ENDPOINT}/v2/task-runs/R9", json={"id": "R9", "status": "running"})
    assert by_id(client, "R9").status_code == 302
    run = Run.objects.get()
    assert (run.arize_id, run.task.arize_id) == ("R9", "")
    assert client.get(f"/teams/ops-north/runs/{run.pk}/").status_code == 200
    table = client.get("/teams/ops-north/runs/table/").content.decode()
    assert ">R9</a>" in without_bdi(table)
    assert "Only runs of" not in table


def test_messages_and_the_log_name_a_nameless_run_by_its_id(
    oli: User, client_of: ClientOf, credential: Credential, arize: responses.RequestsMock
) -> None:
    arize.get(f"{ENDPOINT}/v2/task-runs/R9", json={"id": "R9", "status": "running"})
    client = client_of(oli)
    by_id(client, "R9")
    run = Run.objects.get()
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    assert "R9: Cancelled" in click_cancel(client, run).content.decode()
    assert set(AuditEvent.objects.filter(event="run.cancel").values_list("target_label", flat=True)) == {"R9"}
    Task.objects.update(name=" ", arize_id="T9")
    assert ">T9</a>" in without_bdi(client.get("/teams/ops-north/runs/table/").content.decode())


def test_look_ups_respect_the_rate_limit_and_the_backoff_of_a_key(
    client: Client, credential: Credential, arize: responses.RequestsMock, settings: Any
) -> None:
    settings.ARIZE_CALLS_PER_MINUTE = 60
    asked = arize.get(re.compile(".*"), status=404)
    answers = [by_id(client, f"R{number}").status_code for number in range(9)]
    assert answers == [404, 404, 404, 503, 503, 503, 503, 503, 503]
    assert asked.call_count == 3
    assert [by_id(client, f"R{number}").status_code for number in range(3)] == [404, 404, 404]  # remembered
    assert asked.call_count == 3
    Credential.objects.update(recent_calls=[], backoff_until=timezone.now() + timedelta(minutes=1))
    assert by_id(client, "R9").status_code == 503
    assert asked.call_count == 3


@pytest.mark.parametrize("arize_id", ["a\0b", "..", "x" * 3000])
def test_a_malformed_id_is_not_found(arize_id: str, client: Client, credential: Credential) -> None:
    assert by_id(client, arize_id).status_code == 404


def test_the_run_of_another_team_is_not_found_by_its_arize_id(client: Client, other_team: Team, team: Team) -> None:
    task = Task.objects.create(team=other_team, endpoint=ENDPOINT, arize_id="T1")
    make_run(task, arize_id="theirs")
    assert by_id(client, "theirs").status_code == 404


def test_a_look_up_without_the_right_sends_nothing(
    run: Run, otto: User, client_of: ClientOf, arize: responses.RequestsMock
) -> None:
    assert by_id(client_of(otto), "unknown").status_code == 404
    assert by_id(client_of(None), "unknown").status_code == 302
    assert len(arize.calls) == 0


@pytest.mark.parametrize(
    ("came_from", "leads_to"),
    [
        (
            "http://testserver/teams/ops-north/runs/?status=failed&q=a%20b",
            "/teams/ops-north/runs/?status=failed&amp;q=a%20b",
        ),
        ("http://testserver/teams/ops-north/runs/", "/teams/ops-north/runs/"),
        ("http://testserver/teams/ops-north/runs/export/?status=failed", "/teams/ops-north/runs/"),
        ("http://testserver/teams/ops-south/runs/?status=failed", "/teams/ops-north/runs/"),
        ("https://evil.example/teams/ops-north/runs/?status=failed", "/teams/ops-north/runs/"),
        ("http://testserver//evil.example/", "/teams/ops-north/runs/"),
        ("", "/teams/ops-north/runs/"),
    ],
)
def test_the_back_link_keeps_the_filters_of_the_board(
    came_from: str, leads_to: str, run: Run, vera: User, client_of: ClientOf
):
    for path in (f"/teams/ops-north/runs/{run.pk}/", f"/teams/ops-north/tasks/{run.task_id}/"):
        html = client_of(vera).get(path, headers={"Referer": came_from}).content.decode()
        assert f'<p class="crumbs"><a href="{leads_to}">Runs</a></p>' in html
