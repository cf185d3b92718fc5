"""The pages of a bulk cancel: the draft, its confirmation, progress and results, and who sees what."""

import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from taskruns.models import (
    AuditEvent,
    CancelBatch,
    CancelItem,
    Credential,
    ItemState,
    Membership,
    Outcome,
    Run,
    Status,
    Task,
    Team,
    TeamRole,
    User,
)
from taskruns.services import batches
from tests.clients import ClientOf
from tests.factories import make_run
from tests.queue_worker import work
from tests.stored import events
from tests.wire import run_url, wire_run

pytestmark = pytest.mark.usefixtures("empty_queue")

URL = "/teams/ops-north/batches/"


@pytest.fixture
def runs(task: Task) -> list[Run]:
    return [make_run(task) for _ in range(3)]


@pytest.fixture
def client(oli: User, client_of: ClientOf) -> Client:
    return client_of(oli)


def drafted(client: Client, runs: list[Run]) -> CancelBatch:
    answer = client.post(URL, {"run": [str(run.pk) for run in runs]})
    assert answer.status_code == 302, answer.content.decode()
    batch = CancelBatch.objects.latest("created_at")
    assert answer["Location"] == f"{URL}{batch.pk}/"
    return batch


def page(client: Client, batch: CancelBatch, **headers: str) -> str:
    answer = client.get(f"{URL}{batch.pk}/", headers=headers)
    assert answer.status_code == 200
    return answer.content.decode()


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_selected_runs_become_a_draft_and_nothing_is_sent(client: Client, runs: list[Run], arize: Any) -> None:
    batch = drafted(client, runs)
    text = words(page(client, batch))
    assert "Cancel 3 runs?" in text
    assert "Answer relevance evaluation 0 3 0" in text
    assert "Nothing has been sent" in text
    work()
    assert not arize.calls
    assert events() == []


def test_the_draft_says_how_many_ended_runs_it_excludes(client: Client, task: Task, runs: list[Run]) -> None:
    batch = drafted(client, [*runs, make_run(task, status=Status.COMPLETED)])
    Run.objects.filter(pk=runs[0].pk).update(status=Status.FAILED, rank=0)
    text = words(page(client, batch))
    assert "1 more run was chosen but is not pending or running" in text
    assert "Answer relevance evaluation 0 2 1" in text


def test_all_matching_runs_are_the_active_ones_of_every_page(client: Client, task: Task, other_team: Team) -> None:
    wanted = [make_run(task) for _ in range(70)]
    make_run(task, status=Status.PENDING)
    make_run(task, status=Status.COMPLETED)
    other = Task.objects.create(team=other_team, endpoint=task.endpoint, arize_id=task.arize_id)
    make_run(other)
    client.post(URL, {"match": "all", "status": ["running", "completed"], "task": task.arize_id, "sort": "-errors"})
    batch = CancelBatch.objects.get()
    assert set(batch.items.values_list("run_id", flat=True)) == {run.pk for run in wanted}
    assert batch.filters == f"?status=completed&status=running&task={task.arize_id}"


@pytest.mark.parametrize("fields", [{}, {"q": "  "}, {"status": ""}, {"sort": "created"}])
def test_an_empty_filter_never_selects_everything(fields: dict[str, str], client: Client, runs: list[Run]) -> None:
    answer = client.post(URL, {"match": "all"} | fields)
    assert answer.status_code == 422
    assert "that never means all runs" in words(answer.content.decode())
    assert not CancelBatch.objects.exists()


def test_a_mistyped_filter_is_refused(client: Client, runs: list[Run]) -> None:
    answer = client.post(URL, {"match": "all", "status": "running", "unknown": "x"})
    assert answer.status_code == 400
    assert "unknown" in words(answer.content.decode())
    assert not CancelBatch.objects.exists()


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({}, 422, "No run was selected"),
        ({"run": "nonsense"}, 422, "One of the run IDs is not valid"),
        ({"run": "\x00"}, 422, "One of the run IDs is not valid"),
        ({"match": "page"}, 422, "could not read what to cancel"),
        ({"match": "all", "status": "failed"}, 422, "No pending or running run matches"),
        ({"match": "all", "status": "nonsense"}, 400, "There is no status"),
        ({"match": "all", "min_duration": "many"}, 400, "must be a whole number"),
    ],
)
def test_an_invalid_selection_is_refused_with_an_explanation(
    fields: dict[str, str], status: int, sentence: str, client: Client, runs: list[Run]
) -> None:
    answer = client.post(URL, fields)
    assert (answer.status_code, sentence in words(answer.content.decode())) == (status, True)
    assert not CancelBatch.objects.exists()


def test_selected_runs_and_all_matching_runs_are_never_mixed(client: Client, runs: list[Run]) -> None:
    answer = client.post(URL, {"match": "all", "status": "running", "run": str(runs[0].pk)})
    assert answer.status_code == 422
    assert not CancelBatch.objects.exists()


def test_a_foreign_run_gets_the_404_of_a_missing_one_and_is_recorded(
    client: Client, runs: list[Run], other_team: Team
) -> None:
    theirs = make_run(Task.objects.create(team=other_team, endpoint=runs[0].endpoint, arize_id="x"))
    answers = [
        client.post(URL, {"run": [str(runs[0].pk), str(pk)]})
        for pk in (theirs.pk, "00000000-0000-4000-8000-000000000000")
    ]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert not CancelBatch.objects.exists()
    assert events(outcome="denied", chain="site") == [("access.denied", "denied")]


def test_a_selection_over_two_own_teams_asks_for_one_and_keeps_it(
    client: Client, oli: User, runs: list[Run], other_team: Team
) -> None:
    """Without a script, nothing on the board of all teams prevents it."""
    Membership.objects.create(user=oli, team=other_team, role=TeamRole.OPERATOR)
    theirs = make_run(Task.objects.create(team=other_team, endpoint=runs[0].endpoint, arize_id="x"))
    answer = client.post(URL, {"run": [str(it.pk) for it in (*runs[:2], theirs)]})
    html = answer.content.decode()
    assert answer.status_code == 422
    assert "You selected runs of 2 teams." in words(html)
    assert not CancelBatch.objects.exists()
    assert events(outcome="denied", chain="site") == []
    forms = dict(re.findall(r'<form method="post" action="([^"]+/batches/)">(.*?)</form>', html, re.DOTALL))
    kept = {url: re.findall(r'name="run" value="([^"]+)"', form) for url, form in forms.items()}
    assert {url: set(ids) for url, ids in kept.items()} == {
        URL: {str(it.pk) for it in runs[:2]},
        "/teams/ops-south/batches/": {str(theirs.pk)},
    }
    for url, ids in kept.items():
        assert client.post(url, {"run": ids, "kind": "cancel"}).status_code == 302
    assert {batch.team_id: batch.items.count() for batch in CancelBatch.objects.all()} == {
        runs[0].team_id: 2,
        other_team.pk: 1,
    }


def test_runs_of_the_other_own_team_alone_are_not_lost(client: Client, oli: User, task: Task, other_team: Team) -> None:
    member = Membership.objects.create(user=oli, team=other_team, role=TeamRole.OPERATOR)
    theirs = make_run(Task.objects.create(team=other_team, endpoint=task.endpoint, arize_id="x"))
    answer = client.post(URL, {"run": str(theirs.pk)})
    assert answer.status_code == 422
    assert "belong to another team than the button" in words(answer.content.decode())
    member.role = TeamRole.VIEWER
    member.save()
    assert client.post(URL, {"run": str(theirs.pk)}).status_code == 404, "nothing to go on with"


def test_a_batch_of_another_team_is_a_404(client: Client, otto: User, client_of: ClientOf, runs: list[Run]) -> None:
    batch = drafted(client, runs)
    assert client_of(otto).get(f"/teams/ops-south/batches/{batch.pk}/").status_code == 404
    assert client_of(otto).post(f"/teams/ops-south/batches/{batch.pk}/confirm/", {"reason": "x"}).status_code == 404
    batch.refresh_from_db()
    assert batch.state == "draft"


# --- Confirming


def test_a_reason_is_required(client: Client, runs: list[Run]) -> None:
    batch = drafted(client, runs)
    for reason in ("", "  ", "\u2028", "x" * 513):
        answer = client.post(f"{URL}{batch.pk}/confirm/", {"reason": reason})
        assert answer.status_code == 422
        assert 'class="errorlist"' in answer.content.decode()
    batch.refresh_from_db()
    assert batch.state == "draft"
    assert client.post(f"{URL}{batch.pk}/confirm/", {"reason": "why"}).status_code == 302


@pytest.mark.parametrize("count", ["", "20", "22", "twenty-one", "21.0", "\N{ARABIC-INDIC DIGIT TWO}1"])
def test_above_20_runs_the_number_must_be_typed(count: str, client: Client, task: Task) -> None:
    batch = drafted(client, [make_run(task) for _ in range(21)])
    assert 'name="count"' in page(client, batch)
    answer = client.post(f"{URL}{batch.pk}/confirm/", {"reason": "a bad prompt", "count": count})
    assert answer.status_code == 422
    assert "Type the number of runs, 21" in words(answer.content.decode())
    assert 'value="a bad prompt"' in answer.content.decode(), "what was typed is kept"
    assert events() == []
    assert client.post(f"{URL}{batch.pk}/confirm/", {"reason": "a bad prompt", "count": " 21 "}).status_code == 302
    assert events() == [("run.cancel_many", "requested")]


def test_up_to_20_runs_no_number_is_required(client: Client, task: Task) -> None:
    batch = drafted(client, [make_run(task) for _ in range(20)])
    assert 'name="count"' not in page(client, batch)
    assert client.post(f"{URL}{batch.pk}/confirm/", {"reason": "why"}).status_code == 302


def test_runs_that_start_after_the_draft_are_excluded_and_counted(
    client: Client, task: Task, runs: list[Run], arize: Any
) -> None:
    client.post(URL, {"match": "all", "status": "running"})
    batch = CancelBatch.objects.get()
    late = [make_run(task) for _ in range(2)]
    for run in [*runs, *late]:
        arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    answer = client.post(f"{URL}{batch.pk}/confirm/", {"reason": "why"}, follow=True)
    assert "2 more runs match now; they are not included." in words(answer.content.decode())
    work()
    assert {call.request.url for call in arize.calls} == {run_url(run, "/cancel") for run in runs}
    requested = AuditEvent.objects.get(event="run.cancel_many", outcome="requested")
    assert (requested.details["runs"], requested.details["left_out"]) == (3, 2)
    assert requested.details["filters"] == "?status=running"
    assert requested.details["statuses"] == {"running": 3}


def test_a_draft_confirmed_twice_starts_once(client: Client, runs: list[Run]) -> None:
    batch = drafted(client, runs)
    for _ in range(2):
        assert client.post(f"{URL}{batch.pk}/confirm/", {"reason": "why"}).status_code == 302
    assert events(event="run.cancel_many") == [("run.cancel_many", "requested")]


def test_a_batch_works_from_selection_to_summary(client: Client, runs: list[Run], arize: Any) -> None:
    for run, said in zip(runs, ("CANCELLED", "CANCELLED", "COMPLETED"), strict=True):
        arize.post(run_url(run, "/cancel"), json=wire_run(run, said))
    batch = drafted(client, runs)
    client.post(f"{URL}{batch.pk}/confirm/", {"reason": "a bad prompt"})
    assert "hx-trigger" in page(client, batch)
    work()
    html = page(client, batch)
    assert "2 of 3 cancelled, 1 finished first, 0 still running." in words(html)
    assert 'hx-trigger="every' not in html, "the page does not poll now"
    assert "a bad prompt" in words(client.get(URL).content.decode())
    board = words(client.get("/teams/ops-north/runs/").content.decode())
    assert board.count("cancelled by oli@example.com: a bad prompt") == 2


def test_htmx_gets_the_polling_fragment(client: Client, runs: list[Run]) -> None:
    fragment = page(client, drafted(client, runs), **{"HX-Request": "true"})
    assert fragment.lstrip().startswith('<article id="batch"')


# --- Runs that are still running


def ended(batch: CancelBatch, states: dict[Run, str]) -> None:
    for run, state in states.items():
        CancelItem.objects.filter(batch=batch, run=run).update(state=state)
    CancelBatch.objects.filter(pk=batch.pk).update(state="finished", finished_at=timezone.now(), person_label="oli")


def test_runs_still_running_are_listed_with_a_reason_and_can_be_retried(client: Client, runs: list[Run]) -> None:
    batch = drafted(client, runs)
    refused = runs[0].cancellations.create(
        outcome=Outcome.REFUSED, explanation="The key may not do it (403).", person_label="oli"
    )
    CancelItem.objects.filter(run=runs[0]).update(cancellation=refused)
    ended(batch, {runs[0]: "refused", runs[1]: "confirmed", runs[2]: "unknown"})
    Run.objects.filter(pk=runs[1].pk).update(status=Status.CANCELLED, rank=0)
    text = words(page(client, batch))
    assert "Not stopped: 2" in text
    assert "refused by Arize: The key may not do it (403)." in text
    answer = client.post(f"{URL}{batch.pk}/retry/")
    again = CancelBatch.objects.latest("created_at")
    assert answer["Location"] == f"{URL}{again.pk}/"
    assert set(again.items.values_list("run_id", flat=True)) == {runs[0].pk, runs[2].pk}
    assert again.previous == batch
    assert f'href="{URL}{batch.pk}/"' in page(client, again)


def test_a_retry_needs_a_finished_batch_with_active_runs(client: Client, runs: list[Run]) -> None:
    batch = drafted(client, runs)
    assert client.post(f"{URL}{batch.pk}/retry/").status_code == 409
    ended(batch, dict.fromkeys(runs, "refused"))
    Run.objects.update(status=Status.COMPLETED, rank=0)
    assert client.post(f"{URL}{batch.pk}/retry/").status_code == 422
    assert CancelBatch.objects.count() == 1


@pytest.mark.parametrize("state", ["confirmed", "still_running"])
def test_a_run_that_ignored_its_cancel_is_red_on_board_and_batch(state: str, client: Client, runs: list[Run]) -> None:
    batch = drafted(client, runs[:1])
    ended(batch, {runs[0]: state})
    runs[0].cancellations.create(outcome=state, person_label="oli")
    html = page(client, batch)
    assert 'class="said said-alarm"' in html
    assert "0 of 1 cancelled" in words(html)
    assert "still active" in client.get(URL).content.decode() or state == "still_running"
    for path in ("/teams/ops-north/runs/", f"/teams/ops-north/runs/{runs[0].pk}/"):
        board = client.get(path).content.decode()
        assert re.search(r'said-alarm">|notice-error">', board), path
    Run.objects.update(status=Status.CANCELLED, rank=0)
    assert "said-alarm" not in client.get("/teams/ops-north/runs/").content.decode()
    assert ("said-alarm" in page(client, batch)) is False


def test_the_page_says_why_it_waits(client: Client, credential: Credential, runs: list[Run]) -> None:
    batch = drafted(client, runs)
    client.post(f"{URL}{batch.pk}/confirm/", {"reason": "why"})
    Credential.objects.update(failing_since=timezone.now(), failing_reason="Arize rejects it.")
    assert "Runs of key “Production” are waiting: Arize rejects it." in words(page(client, batch))
    later = timezone.now() + timedelta(minutes=1)
    wait = {"backoff_until": later, "backoff_reason": "Too many calls.", "backoff_is_limit": True}
    Credential.objects.update(failing_since=None, **wait)
    assert "waiting: Too many calls." in words(page(client, batch))


# --- Who sees what


def test_a_viewer_sees_everything_and_no_button(
    client: Client, vera: User, client_of: ClientOf, runs: list[Run]
) -> None:
    batch = drafted(client, runs)
    viewer = client_of(vera)
    assert "<button" not in page(viewer, batch).split('<main id="main"')[1].split("</main>")[0]
    client.post(f"{URL}{batch.pk}/confirm/", {"reason": "why"})
    assert "Stop sending cancels" in page(client, batch)
    assert "Stop sending cancels" not in page(viewer, batch)
    ended(batch, dict.fromkeys(runs, "refused"))
    assert "Retry these" in page(client, batch)
    assert "Retry these" not in page(viewer, batch)
    assert "Cancel of 3 runs" in words(viewer.get(URL).content.decode())


def test_only_runs_that_can_be_cancelled_have_a_checkbox(
    client: Client, vera: User, client_of: ClientOf, task: Task, runs: list[Run]
) -> None:
    make_run(task, status=Status.COMPLETED)
    runs[0].cancellations.create(person_label="mona")
    board = client.get("/teams/ops-north/runs/").content.decode()
    assert sorted(re.findall(r'name="run" value="([^"]+)"', board)) == sorted(str(run.pk) for run in runs[1:])
    assert 'name="run"' not in client_of(vera).get("/teams/ops-north/runs/").content.decode()
    of_all = client.get("/runs/").content.decode()
    assert sorted(re.findall(r'name="run" value="([^"]+)"', of_all)) == sorted(str(run.pk) for run in runs[1:])


def test_the_first_button_of_the_boards_form_cancels_nothing(client: Client, runs: list[Run]) -> None:
    """Enter in a checkbox clicks the first button."""
    form = client.get("/teams/ops-north/runs/").content.decode().split('id="board"')[1]
    first = re.search(r"<button[^>]*>", form)
    assert first is not None
    assert f'formaction="{URL}"' in first[0]


def test_the_board_offers_all_matching_runs_only_with_a_filter(client: Client, task: Task, runs: list[Run]) -> None:
    make_run(task, status=Status.COMPLETED)
    assert "match-all" not in client.get("/teams/ops-north/runs/").content.decode()
    html = client.get("/teams/ops-north/runs/?status=running&status=completed&sort=created").content.decode()
    assert "3 active runs match the filter" in words(html)
    form = html.split('id="match-all"')[1].split("</form>")[0]
    fields = re.findall(r'name="(\w+)" value="([^"]*)"', form)
    assert fields[1:] == [("match", "all"), ("status", "completed"), ("status", "running")]
    one = client.get("/teams/ops-north/runs/?status=pending").content.decode()
    assert "match the filter" not in one


def test_aborting_over_http_stops_the_batch_and_says_so(client: Client, runs: list[Run], arize: Any) -> None:
    batch = drafted(client, runs)
    client.post(f"{URL}{batch.pk}/confirm/", {"reason": "why"})
    answer = client.post(f"{URL}{batch.pk}/abort/", follow=True)
    assert "Stopped. No more cancels are sent." in words(answer.content.decode())
    work()
    assert not arize.calls
    batch.refresh_from_db()
    assert batches.counts_of(batch) == {ItemState.LEFT_OUT: 3}
    again = client.post(f"{URL}{batch.pk}/abort/", follow=True)
    assert "There was nothing left to stop." in words(again.content.decode())
    assert events(event="run.cancel_many")[1:] == [("run.cancel_many", "aborted")]
