"""The pages of runs to start again: the list, its form, progress and results, and who may do what."""

import re
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client

from taskruns.models import CancelBatch, EmergencyStop, Membership, Run, Status, Task, Team, Trigger, User
from tests.batches.starting_again import accept, ended_run, start_again, states
from tests.clients import ClientOf
from tests.factories import make_run
from tests.queue_worker import work
from tests.stored import events
from tests.wire import trigger_url

pytestmark = pytest.mark.usefixtures("empty_queue")

URL = "/teams/ops-north/batches/"
START = {"kind": "trigger"}


@pytest.fixture
def client(oli: User, client_of: ClientOf) -> Client:
    return client_of(oli)


@pytest.fixture
def runs(task: Task) -> list[Run]:
    return [ended_run(task) for _ in range(3)]


def drafted(client: Client, runs: list[Run]) -> CancelBatch:
    answer = client.post(URL, START | {"run": [str(run.pk) for run in runs]})
    assert answer.status_code == 302, answer.content.decode()
    batch = CancelBatch.objects.latest("created_at")
    assert (answer["Location"], batch.kind) == (f"{URL}{batch.pk}/", "trigger")
    return batch


def confirm(client: Client, batch: CancelBatch, **fields: str) -> Any:
    return client.post(f"{URL}{batch.pk}/confirm/", START | {"reason": "bad data"} | fields)


def page(client: Client, batch: CancelBatch, query: str = "") -> str:
    answer = client.get(f"{URL}{batch.pk}/{query}")
    assert answer.status_code == 200
    return answer.content.decode()


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_selected_runs_become_a_list_and_nothing_is_started(client: Client, runs: list[Run], arize: Any) -> None:
    batch = drafted(client, runs)
    html = page(client, batch)
    text = words(html)
    assert "Start 3 runs again?" in text
    assert "Answer relevance evaluation 3 0" in text
    assert "data from 2026-11-20 03:00:00 UTC to 2026-11-20 04:00:00 UTC" in text
    assert html.index('id="batch-confirm"') < html.index('id="batch-tasks"'), "the form is above the list"
    assert "autofocus" in html.split('name="reason"')[1].split(">")[0]
    assert 'name="experiment_name"' not in html
    work()
    assert (arize.calls.__len__(), events()) == (0, [])


def test_runs_are_started_from_selection_to_summary(client: Client, task: Task, runs: list[Run], arize: Any) -> None:
    accept(arize, task)
    batch = drafted(client, runs)
    answer = confirm(client, batch, override_evaluations="on")
    assert answer.status_code == 302
    html = page(client, batch)
    assert "Starting 3 runs again" in words(html)
    assert 'hx-trigger="every 2s' in html
    assert "Stop starting runs" in html
    work()
    html = page(client, batch)
    assert "3 of 3 started, 0 unknown, 0 not started." in words(html)
    assert "spans that already have results are re-evaluated" in words(html)
    assert "New runs: 3" in words(html)
    for new in Run.objects.filter(status="pending"):
        assert f'href="/teams/ops-north/runs/{new.pk}/"' in html
    assert 'hx-trigger="every' not in html
    assert "Start 3 runs again" in words(client.get(URL).content.decode())


def test_all_failed_and_cancelled_runs_that_match_are_listed(client: Client, task: Task, runs: list[Run]) -> None:
    ended_run(task, status=Status.COMPLETED)
    make_run(task)
    fields = START | {"match": "all", "task": task.arize_id, "status": ["failed", "running"], "sort": "-errors"}
    assert client.post(URL, fields).status_code == 302
    batch = CancelBatch.objects.get()
    assert set(batch.items.values_list("run", flat=True)) == {run.pk for run in runs}
    text = words(page(client, batch))
    assert "all failed and cancelled runs that matched a filter" in text
    assert "status: FAILED status: RUNNING task: Answer relevance evaluation See them on the board" in text


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({}, 422, "No run was selected. Go back and select the runs to start again."),
        ({"run": "nonsense"}, 422, "One of the run IDs is not valid"),
        ({"match": "all"}, 422, "that never means all runs"),
        ({"match": "all", "status": "running"}, 422, "No failed or cancelled run matches this filter"),
        ({"match": "all", "status": "nonsense"}, 400, "There is no status"),
        ({"batch": "nonsense"}, 422, "could not read what to start again"),
    ],
)
def test_an_invalid_selection_is_refused_with_an_explanation(
    fields: dict[str, str], status: int, sentence: str, client: Client, runs: list[Run]
) -> None:
    answer = client.post(URL, START | fields)
    assert (answer.status_code, sentence in words(answer.content.decode())) == (status, True)
    assert not CancelBatch.objects.exists()


def test_active_runs_cannot_be_started_again(client: Client, task: Task) -> None:
    answer = client.post(URL, START | {"run": str(make_run(task).pk)})
    assert answer.status_code == 422
    assert "None of these runs has failed or was cancelled" in words(answer.content.decode())


def test_an_unknown_kind_is_refused(client: Client, runs: list[Run]) -> None:
    answer = client.post(URL, {"kind": "nonsense", "run": str(runs[0].pk)})
    assert answer.status_code == 422
    assert not CancelBatch.objects.exists()


def test_a_foreign_run_or_batch_is_a_404(
    client: Client, runs: list[Run], other_team: Team, otto: User, client_of: ClientOf
) -> None:
    theirs = ended_run(Task.objects.create(team=other_team, endpoint=runs[0].endpoint, arize_id="x"))
    absent = "00000000-0000-4000-8000-000000000000"
    for pk in (theirs.pk, absent):
        assert client.post(URL, START | {"run": [str(runs[0].pk), str(pk)]}).status_code == 404
    assert not CancelBatch.objects.exists()
    batch = drafted(client, runs)
    for url in ("confirm/", "remove/", "abort/", "retry/"):
        answer = client_of(otto).post(f"/teams/ops-south/batches/{batch.pk}/{url}", START | {"reason": "x"})
        assert answer.status_code == 404, url
    answer = client_of(otto).post("/teams/ops-south/batches/", START | {"batch": str(batch.pk)})
    assert answer.status_code == 404
    batch.refresh_from_db()
    assert batch.state == "draft"


# --- The form


def test_what_is_wrong_is_said_first_with_links_and_focus(client: Client, task: Task) -> None:
    Task.objects.update(type="run_experiment")
    batch = drafted(client, [ended_run(task) for _ in range(21)])
    answer = confirm(client, batch, count="20", experiment_name="{nme}", reason=" ")
    html = answer.content.decode()
    assert answer.status_code == 422
    summary = html.split('id="batch-confirm"')[1].split('class="field"')[0]
    assert re.findall(r'href="#(batch-[\w-]+)"', summary) == ["batch-reason", "batch-experiment_name", "batch-count"]
    for sentence in ("Enter a reason.", "“{nme}” is not known here.", "Type the number of runs, 21,"):
        assert sentence in words(summary)
    assert 'value="{nme}"' in html, "what was typed is kept"
    assert "autofocus" in html.split('name="reason"')[1].split(">")[0]
    assert html.count("autofocus") == 1
    assert events() == []


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("", "Enter a name pattern"),
        ("{name}", "Use {n} in the pattern"),
        ("{name} {N}", "“{N}” is not known here"),
        ('{name} "{n}"', "Arize accepts no quotation marks"),
        ("{n}" + "x" * 260, "A name has at most 255 characters"),
    ],
)
def test_a_bad_name_pattern_is_refused(pattern: str, sentence: str, client: Client, task: Task) -> None:
    Task.objects.update(type="run_experiment")
    batch = drafted(client, [ended_run(task) for _ in range(2)])
    answer = confirm(client, batch, experiment_name=pattern)
    assert (answer.status_code, sentence in words(answer.content.decode())) == (422, True)
    assert not Trigger.objects.exists()


def test_a_single_run_is_removed_and_what_was_typed_is_kept(client: Client, task: Task) -> None:
    runs = [ended_run(task) for _ in range(22)]
    batch = drafted(client, runs)
    assert f'name="remove" value="{runs[0].pk}"' in page(client, batch)
    answer = client.post(
        f"{URL}{batch.pk}/remove/", START | {"remove": str(runs[0].pk), "reason": "typed", "count": "22"}
    )
    html = answer.content.decode()
    assert answer.status_code == 200
    assert "Start 21 runs again?" in words(html)
    assert 'value="typed"' in html
    assert 'value="22"' not in html, "the number must be typed again"
    assert '<details id="batch-runs" open>' in html
    assert str(runs[0].pk) not in set(map(str, batch.items.values_list("run", flat=True)))
    assert confirm(client, batch, count="22").status_code == 422
    assert confirm(client, batch, count="21").status_code == 302
    late = client.post(f"{URL}{batch.pk}/remove/", START | {"remove": str(runs[1].pk)}, follow=True)
    assert "so no run can be removed from it" in words(late.content.decode())


def test_a_list_from_which_all_was_removed_cannot_be_confirmed(client: Client, runs: list[Run]) -> None:
    batch = drafted(client, runs)
    answer = client.post(f"{URL}{batch.pk}/remove/", START | {"remove": [str(run.pk) for run in runs]})
    assert "No run is left in this list." in words(answer.content.decode())
    assert 'id="batch-confirm"' not in answer.content.decode()
    assert confirm(client, batch).status_code == 422
    assert client.post(f"{URL}{batch.pk}/remove/", START | {"remove": "nonsense"}).status_code == 422


def test_a_long_list_has_pages(client: Client, task: Task) -> None:
    batch = drafted(client, [ended_run(task) for _ in range(101)])
    first, second = page(client, batch), page(client, batch, "?list=2")
    assert (first.count('name="remove"'), second.count('name="remove"')) == (100, 1)
    assert f'formaction="{URL}{batch.pk}/remove/?list=2#batch-runs"' in first
    assert '<details id="batch-runs" open>' in second
    removed = client.post(f"{URL}{batch.pk}/remove/?list=2", START | {"remove": str(uuid4())}).content.decode()
    assert f'formaction="{URL}{batch.pk}/remove/?list=1#batch-runs"' in removed
    turned = client.post(
        f"{URL}{batch.pk}/remove/?list=2", START | {"reason": "half typed", "count": "10"}
    ).content.decode()
    assert 'value="half typed"' in turned, "what was typed is kept"
    assert batch.items.count() == 101
    assert f'formaction="{URL}{batch.pk}/remove/?list=2"' in second
    for odd in ("0", "99", "9" * 5_000, "-1", "x", "٣"):
        assert "Page " in words(page(client, batch, f"?list={odd}"))


def test_runs_that_cannot_be_started_are_listed_by_reason(client: Client, task: Task, runs: list[Run]) -> None:
    odd = ended_run(task, data_start_time=None)
    batch = drafted(client, [*runs, odd])
    html = page(client, batch)
    excluded = html.split('id="batch-excluded"')[1].split("</section>")[0]
    assert "1 run: not started: the time range of its data is unknown" in words(excluded)
    assert odd.arize_id in excluded
    assert "Start 3 runs again?" in words(html)


def test_a_stop_is_named_and_keeps_the_list_from_starting(client: Client, task: Task, runs: list[Run]) -> None:
    batch = drafted(client, runs)
    EmergencyStop.objects.create(team=task.team, person_label="mona@example.com", reason="a bad <b>model</b>")
    html = page(client, batch)
    assert "mona@example.com pulled the emergency stop: a bad &lt;b&gt;model&lt;/b&gt;" in html
    answer = confirm(client, batch)
    assert answer.status_code == 422
    assert "Nothing was started: mona@example.com pulled the emergency stop" in words(answer.content.decode())
    assert events() == []


def test_hostile_names_are_only_text(client: Client, task: Task, arize: Any) -> None:
    name = '<script>alert(1)</script>"\u202e{n}'
    Task.objects.update(name=name, space_name="<img src=x>")
    run = ended_run(task, arize_id='<svg onload="x">')
    arize.post(trigger_url(task), status=403, json={"title": "<b>No</b>", "status": 403})
    batch = drafted(client, [run])
    htmls = [page(client, batch)]
    confirm(client, batch, reason="<i>why</i>")
    work()
    htmls += [page(client, batch), client.get(URL).content.decode()]
    for html in htmls:
        assert not re.search(r"<script>alert|<img src=x|<svg onload|<i>why|<b>No", html)
        assert "\u202e" not in html


# --- Results


def test_failures_are_grouped_by_reason_and_retried(client: Client, task: Task, runs: list[Run], arize: Any) -> None:
    arize.post(trigger_url(task), status=403, json={"title": "No rights", "status": 403})
    batch = drafted(client, runs)
    confirm(client, batch)
    work()
    html = page(client, batch)
    assert "Not started: 3" in words(html)
    assert html.count('class="batch-group"') == 1
    assert "refused by Arize:" in words(html)
    assert "Arize says: No rights" in words(html)
    answer = client.post(f"{URL}{batch.pk}/retry/", START)
    again = CancelBatch.objects.latest("created_at")
    assert answer["Location"] == f"{URL}{again.pk}/"
    assert (again.kind, again.source, states(again)) == ("trigger", "retry", ["queued"] * 3)
    retry_page = page(client, again)
    assert 'value="bad data"' in retry_page
    assert "autofocus" not in retry_page, "Enter must not confirm by accident"


def test_a_list_in_progress_cannot_be_retried(client: Client, runs: list[Run], oli: User) -> None:
    batch = start_again(runs, oli)
    answer = client.post(f"{URL}{batch.pk}/retry/", START)
    assert (answer.status_code, "This list is still in progress" in words(answer.content.decode())) == (409, True)
    answer = client.post(URL, START | {"batch": str(batch.pk)})
    assert answer.status_code == 422


def test_a_finished_bulk_cancel_offers_to_start_its_runs(client: Client, task: Task) -> None:
    run = ended_run(task, status=Status.RUNNING, rank=1)
    client.post(URL, {"run": str(run.pk)})
    batch = CancelBatch.objects.get()
    CancelBatch.objects.update(state="finished", finished_at=batch.created_at, person_label="oli")
    batch.items.update(state="confirmed")
    assert 'id="batch-again"' not in page(client, batch), "the run is still active"
    Run.objects.update(status="cancelled", rank=0)
    html = page(client, batch)
    form = html.split('id="batch-again"')[1].split("</form>")[0]
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form))
    answer = client.post(URL, {name: fields[name] for name in ("kind", "batch")})
    again = CancelBatch.objects.latest("created_at")
    assert answer["Location"] == f"{URL}{again.pk}/"
    assert (again.kind, again.source, again.previous) == ("trigger", "batch", batch)


def test_aborting_over_http_stops_the_starts(client: Client, runs: list[Run], arize: Any) -> None:
    batch = drafted(client, runs)
    confirm(client, batch)
    answer = client.post(f"{URL}{batch.pk}/abort/", START, follow=True)
    assert "Stopped. No more runs are started." in words(answer.content.decode())
    work()
    assert not arize.calls
    assert "Start 3 runs again, stopped early" in words(page(client, batch))
    assert "oli@example.com stopped it. The remaining runs were not started." in words(page(client, batch))


def test_the_page_of_a_task_leads_to_a_list_of_its_failed_runs(
    client: Client, task: Task, vera: User, client_of: ClientOf, other_team: Team
) -> None:
    url = f"/teams/ops-north/tasks/{task.pk}/"
    make_run(task)
    assert 'id="task-again"' not in client.get(url).content.decode(), "nothing has failed"
    wanted = [ended_run(task), ended_run(task)]
    ended_run(task, status=Status.CANCELLED)
    ended_run(Task.objects.create(team=task.team, endpoint=task.endpoint, arize_id="another"))
    assert 'id="task-again"' not in client_of(vera).get(url).content.decode()
    form = client.get(url).content.decode().split('id="task-again"')[1].split("</form>")[0]
    pairs = [pair for pair in re.findall(r'name="(\w+)" value="([^"]*)"', form) if pair[0] != "csrfmiddlewaretoken"]
    fields: dict[str, list[str]] = {}
    for name, value in pairs:
        fields.setdefault(name, []).append(value)
    assert client.post(URL, fields).status_code == 302
    assert set(CancelBatch.objects.get().items.values_list("run", flat=True)) == {run.pk for run in wanted}


def test_a_board_of_failed_runs_offers_to_start_all_again(
    client: Client, task: Task, vera: User, client_of: ClientOf
) -> None:
    board = "/teams/ops-north/runs/?status=failed"
    assert "Start all that match again" not in client.get(board).content.decode(), "nothing has failed"
    failed = [ended_run(task), ended_run(task)]
    ended_run(task, status=Status.CANCELLED)
    make_run(task)
    assert "Start all that match again" not in client_of(vera).get(board).content.decode()
    for other in ("?all=1", "?status=failed&status=running", "?status=completed"):
        assert "Start all that match again" not in client.get(f"/teams/ops-north/runs/{other}").content.decode()
    html = client.get(board).content.decode()
    assert "Start all that match again" in words(html)
    form = html.split('id="match-all"')[1].split("</form>")[0]
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)"', form)) | {"kind": "trigger"}
    assert client.post(URL, fields).status_code == 302
    assert set(CancelBatch.objects.get().items.values_list("run", flat=True)) == {run.pk for run in failed}


def test_the_buttons_for_all_that_match_count_properly(client: Client, task: Task) -> None:
    def button(query: str) -> str:
        html = client.get(f"/teams/ops-north/runs/?{query}").content.decode()
        return words(html.split('id="board-match"')[1].split("</p>")[0]).split(". ")[1]

    ended_run(task)
    make_run(task)
    assert button("status=failed") == "Start the run that matches again…"
    assert button("status=running") == "Cancel the run that matches…"
    ended_run(task)
    make_run(task)
    assert button("status=failed") == "Start all that match again…"
    assert button("status=running") == "Cancel all 2 that match…"


# --- Who may do what


@pytest.mark.parametrize("what", ["draft", "confirm", "remove", "abort", "retry"])
def test_a_viewer_may_start_nothing_and_the_attempt_is_recorded(
    what: str, client: Client, vera: User, client_of: ClientOf, runs: list[Run]
) -> None:
    batch = drafted(client, runs)
    url = URL if what == "draft" else f"{URL}{batch.pk}/{what}/"
    fields = START | {"run": str(runs[0].pk), "remove": str(runs[0].pk), "reason": "x"}
    assert client_of(vera).post(url, fields).status_code == 403
    assert events() == [("run.trigger_many", "denied")]
    assert (CancelBatch.objects.count(), batch.items.count()) == (1, 3)
    html = page(client_of(vera), batch).split('<main id="main"')[1].split("</main>")[0]
    assert "<button" not in html


@pytest.mark.parametrize("what", ["confirm", "remove", "abort", "retry"])
def test_a_form_without_its_kind_gets_no_weaker_gate(
    what: str, client: Client, runs: list[Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No role may cancel in bulk but not start runs. If one could, the kind of the batch would count."""
    batch = drafted(client, runs)
    monkeypatch.setattr(
        "taskruns.services.batches.kind.KindFacts.may", lambda facts, _: facts.event != "run.trigger_many"
    )
    answer = client.post(f"{URL}{batch.pk}/{what}/", {"reason": "x", "remove": str(runs[0].pk)})
    assert answer.status_code == 403
    assert events() == [("run.trigger_many", "denied")]
    assert batch.items.count() == 3


def test_a_removed_member_gets_a_404(client: Client, runs: list[Run], oli: User) -> None:
    batch = drafted(client, runs)
    Membership.objects.filter(user=oli).delete()
    assert confirm(client, batch).status_code == 404
