"""The emergency stop: its preview, pulling it, who may lift it, how it ends."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns import jobs
from taskruns.models import (
    AuditEvent,
    BatchSource,
    CancelBatch,
    Credential,
    EmergencyStop,
    Membership,
    Outcome,
    Run,
    Status,
    StopEnd,
    Task,
    Team,
    TeamRole,
    User,
)
from taskruns.services import stops
from tests.clients import ClientOf
from tests.factories import actor, make_credential, make_run
from tests.markup import without_bdi
from tests.stored import events

PAGE = "/teams/ops-north/stop/"
LIFT = "/teams/ops-north/stop/lift/"
WHY = "Evaluations eat the budget"


@pytest.fixture
def second(team: Team) -> Task:
    """A task of another key and space."""
    key = make_credential(team, name="Second key")
    return Task.objects.create(
        team=team, endpoint=key.endpoint, arize_id="T2", credential=key, name="Toxicity check", space_name="chat"
    )


def pull(client: Client, reason: str = WHY, **data: Any) -> Any:
    return client.post(PAGE, {"reason": reason, **data})


def text_of(answer: Any) -> str:
    return " ".join(without_bdi(answer.content.decode()).split())


def the_stop() -> EmergencyStop:
    return EmergencyStop.objects.get()


def items() -> set[Any]:
    return set(CancelBatch.objects.get().items.values_list("run_id", flat=True))


# The preview


def test_the_preview_lists_tasks_with_keys_and_counts(client: Client, run: Run, second: Task) -> None:
    make_run(run.task)
    make_run(second, status=Status.PENDING)
    make_run(second, status=Status.COMPLETED)
    page = text_of(client.get(PAGE))
    assert "<strong>3 runs in 2 tasks</strong>" in page
    assert "(API keys Production, Second key)" in page
    assert page.index("Answer relevance evaluation") < page.index("Toxicity check")
    assert "2 running" in page
    assert "1 pending" in page
    assert page.count('name="left_out"') == 2
    assert not EmergencyStop.objects.exists()
    assert not AuditEvent.objects.exists()


def test_reason_and_button_come_before_the_explanation(client: Client, run: Run, second: Task) -> None:
    """At 3 a.m. nobody should have to scroll to the button."""
    make_run(second)
    Task.objects.filter(pk=second.pk).update(credential=None)
    page = text_of(client.get(PAGE)).split("<h1>")[1]
    parts = ('name="reason"', "Pull the emergency stop</button>", "cannot be reached", "It cancels", "<table")
    assert [page.index(part) for part in parts] == sorted(page.index(part) for part in parts)


def test_tasks_without_active_runs_are_listed_separately(client: Client, run: Run, second: Task) -> None:
    page = text_of(client.get(PAGE))
    assert "<strong>1 run in 1 task</strong>" in page
    assert page.index("Tasks without active runs") < page.index("Toxicity check")


def test_the_page_lists_tasks_that_no_key_can_stop(client: Client, run: Run, second: Task) -> None:
    make_run(second)
    assert "cannot be reached" not in text_of(client.get(PAGE))
    Task.objects.filter(pk=second.pk).update(credential=None)
    page = text_of(client.get(PAGE))
    assert "1 of these tasks cannot be reached with a working key." in page
    assert "no API key reads it, so it cannot be stopped from here" in page


def test_the_number_of_queries_does_not_grow_with_the_tasks(client: Client, team: Team, run: Run) -> None:
    counts = []
    for number in range(2):
        with CaptureQueriesContext(connection) as captured:
            assert client.get(PAGE).status_code == 200
        counts.append(len(captured))
        for each in range(20):
            task = Task.objects.create(
                team=team, endpoint=run.endpoint, arize_id=f"{number}-{each}", credential=run.task.credential
            )
            make_run(task)
    assert counts[0] == counts[1]


# Pulling


def test_pulling_writes_stop_row_and_frozen_list_together(client: Client, oli: User, run: Run, second: Task) -> None:
    others = {make_run(second).pk, make_run(run.task, status=Status.PENDING).pk}
    make_run(run.task, status=Status.COMPLETED)
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False):
        answer = pull(client)
    assert (answer.status_code, answer["Location"]) == (302, PAGE)
    stop = the_stop()
    assert (stop.person, stop.person_label, stop.person_role) == (oli, "oli@example.com", "operator")
    assert (stop.reason, stop.end, stop.expires_at - stop.pulled_at) == (WHY, "", timedelta(hours=24))
    assert items() == others | {run.pk}
    batch = CancelBatch.objects.get()
    assert (batch.stop, batch.source, batch.person, batch.reason) == (stop, BatchSource.STOP, oli, WHY)
    assert events() == [("run.cancel_many", "requested"), ("stop.pull", "done")]
    many, pulled = AuditEvent.objects.order_by("pk")
    assert (pulled.reason, pulled.operation_id, pulled.target_id) == (WHY, stop.pk, str(stop.pk))
    assert (pulled.actor_label, pulled.actor_role, pulled.ip) == ("oli@example.com", "operator", "127.0.0.1")
    assert pulled.details == {
        "stop": str(stop.pk),
        "expires_at": "2026-11-24T03:00:00+00:00",
        "active_runs": 3,
        "left_out": [],
        "batch_id": str(batch.pk),
    }
    assert many.details["stop"] == str(stop.pk)
    assert "3 runs are being cancelled." in text_of(client.get(PAGE))


def test_pulling_wakes_a_worker_for_the_list(client: Client, run: Run, monkeypatch: Any) -> None:
    woken: list[Any] = []
    monkeypatch.setattr(jobs, "wake_batch", woken.append)
    pull(client)
    assert woken == [CancelBatch.objects.get().pk]


def test_pulling_makes_the_keys_of_the_team_due(client: Client, task: Task) -> None:
    """Nobody may have looked for a while, and then the next reading is minutes away."""
    later = timezone.now() + timedelta(minutes=5)
    Credential.objects.update(next_refresh_at=later)
    pull(client)
    assert Credential.objects.get().next_refresh_at < later


def test_a_team_without_active_runs_can_be_stopped(client: Client, task: Task) -> None:
    assert pull(client).status_code == 302
    assert the_stop().end == StopEnd.HOLDING
    assert not CancelBatch.objects.exists()
    assert events() == [("stop.pull", "done")]
    assert "No run was active. New runs are cancelled as soon as they appear." in text_of(client.get(PAGE))


def test_tasks_can_be_excluded(client: Client, run: Run, second: Task) -> None:
    make_run(second)
    assert pull(client, left_out=[str(second.pk)]).status_code == 302
    assert items() == {run.pk}
    assert the_stop().left_out == [str(second.pk)]
    assert AuditEvent.objects.get(event="stop.pull").details["left_out"] == [str(second.pk)]
    page = text_of(client.get(PAGE))
    assert "1 task is excluded" in page
    assert '<td data-label="Held">excluded</td>' in page
    assert '<td data-label="Held">held</td>' in page


@pytest.mark.parametrize("reason", ["", "   ", "\u2028\x1f", "x" * 513])
def test_a_reason_is_required_and_the_selection_is_kept(reason: str, client: Client, run: Run, second: Task) -> None:
    make_run(second)
    answer = pull(client, reason=reason, left_out=[str(second.pk)])
    page = text_of(answer)
    assert answer.status_code == 422
    assert "errorlist" in page
    assert f'value="{second.pk}" checked' in page
    assert f'value="{run.task.pk}">' in page
    assert "<strong>1 run in 1 task</strong>" in page
    assert not EmergencyStop.objects.exists()
    assert not AuditEvent.objects.exists()


def test_a_foreign_task_id_gets_the_404_of_a_missing_one(client: Client, run: Run, other_team: Team) -> None:
    foreign = Task.objects.create(team=other_team, endpoint=run.endpoint, arize_id="T9")
    theirs = pull(client, left_out=[str(foreign.pk)])
    missing = pull(client, left_out=["00000000-0000-4000-8000-000000000000"])
    assert (theirs.status_code, missing.status_code) == (404, 404)
    assert events() == [("access.denied", "denied")]
    assert not EmergencyStop.objects.exists()
    assert pull(client, left_out=[str(run.task.pk)]).status_code == 302, "the control"


def test_a_malformed_task_id_is_refused_with_an_explanation(client: Client, run: Run) -> None:
    answer = pull(client, left_out=["nonsense"])
    assert answer.status_code == 422
    assert "could not be read, so nothing was stopped" in text_of(answer)
    assert not EmergencyStop.objects.exists()


def test_a_second_pull_says_who_pulled_the_stop(client: Client, mona: User, run: Run, client_of: ClientOf) -> None:
    pull(client)
    answer = pull(client_of(mona), "Me too")
    assert answer.status_code == 409
    assert "oli@example.com has already pulled the emergency stop. Nothing was changed." in text_of(answer)
    assert the_stop().reason == WHY
    assert CancelBatch.objects.count() == 1
    assert events(event="stop.pull") == [("stop.pull", "done")]


def test_pulling_never_needs_a_recent_sign_in(client: Client, run: Run) -> None:
    with time_machine.travel(timezone.now() + timedelta(hours=11)):
        session = client.session
        session["account_authentication_methods"] = [{"method": "password", "at": 0}]
        session.save()
        assert pull(client).status_code == 302


# Lifting and expiry


def test_the_person_who_pulled_a_stop_lifts_it(client: Client, run: Run) -> None:
    pull(client)
    answer = client.post(LIFT)
    assert (answer.status_code, answer["Location"]) == (302, "/teams/ops-north/runs/")
    stop = the_stop()
    assert (stop.end, stop.ended_by_label) == (StopEnd.LIFTED, "oli@example.com")
    assert events(event="stop.lift") == [("stop.lift", "done")]
    row = AuditEvent.objects.get(event="stop.lift")
    assert (row.operation_id, row.details["pulled_by"]) == (stop.pk, "oli@example.com")
    assert pull(client, "Again").status_code == 302, "and it can be pulled again"


def test_a_manager_lifts_any_stop_and_another_operator_does_not(
    client: Client, team: Team, mona: User, run: Run, client_of: ClientOf
) -> None:
    pull(client)
    person = User.objects.create(email="olga@example.com")
    Membership.objects.create(team=team, user=person, role=TeamRole.OPERATOR)
    refused = client_of(person).post(LIFT)
    assert refused.status_code == 403
    assert the_stop().end == StopEnd.HOLDING
    assert events(outcome="denied") == [("stop.lift", "denied")]
    assert AuditEvent.objects.get(outcome="denied").actor_label == "olga@example.com"
    assert client_of(mona).post(LIFT).status_code == 302
    assert (the_stop().end, the_stop().ended_by_label) == (StopEnd.LIFTED, "mona@example.com")


def test_a_person_who_may_no_longer_pull_cannot_lift(client: Client, oli: User, run: Run) -> None:
    pull(client)
    Membership.objects.filter(user=oli).update(role=TeamRole.VIEWER)
    assert client.post(LIFT).status_code == 403
    with pytest.raises(stops.MayNotLift):
        stops.lift(run.team, by=actor(oli))
    assert the_stop().end == StopEnd.HOLDING


def test_lifting_without_an_active_stop_says_so(client: Client, run: Run) -> None:
    client.post(LIFT)
    assert "The emergency stop had already ended." in text_of(client.get(PAGE))
    assert not AuditEvent.objects.exists()


def test_a_stop_ends_after_24_hours_and_the_worker_records_it(client: Client, team: Team, run: Run) -> None:
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False):
        pull(client)
    with time_machine.travel("2026-11-24T02:59:59Z", tick=False):
        assert stops.expire() == 0
        assert stops.active_stop(team) is not None
    with time_machine.travel("2026-11-24T03:00:00Z", tick=False):
        assert stops.active_stop(team) is None, "also before the worker has recorded the end"
        jobs.look_after_stops()
        assert stops.expire() == 0
    assert (the_stop().end, the_stop().ended_by_label) == (StopEnd.EXPIRED, "stops")
    row = AuditEvent.objects.get(event="stop.expire")
    assert (row.outcome, row.actor_type, row.actor_label) == ("done", "job", "stops")


def test_a_new_stop_can_be_pulled_after_an_expired_unrecorded_one(client: Client, run: Run) -> None:
    with time_machine.travel("2026-11-23T03:00:00Z", tick=False):
        pull(client)
    with time_machine.travel("2026-11-24T04:00:00Z", tick=False):
        session = client.session
        session.save()
        client.force_login(User.objects.get(email="oli@example.com"))
        assert pull(client, "The next night").status_code == 302
    assert list(EmergencyStop.objects.order_by("pulled_at").values_list("end", flat=True)) == ["expired", ""]
    assert ("stop.expire", "done") in events()


# The banner on every page


def banner(page: str) -> str:
    return (
        page.split('aria-label="Emergency stop">')[1].split("</section>", maxsplit=1)[0]
        if 'class="stop-banner' in page
        else ""
    )


@pytest.mark.slow
def test_every_page_of_the_team_says_who_pulled_the_stop_and_why(
    client: Client, run: Run, vera: User, mona: User, ada: User, client_of: ClientOf
) -> None:
    paths = {
        vera: ["runs/", f"runs/{run.pk}/"],
        mona: ["runs/", "stop/", "credentials/", "members/", "settings/", "audit/", f"tasks/{run.task.pk}/trigger/"],
        ada: ["runs/", "credentials/", "audit/"],
    }
    for person, parts in paths.items():
        for part in parts:
            assert not banner(text_of(client_of(person).get(f"/teams/ops-north/{part}"))), "the control"
    with time_machine.travel("2026-11-23T03:00:00Z"):
        pull(client)
    with time_machine.travel("2026-11-23T04:00:00Z"):
        for person, parts in paths.items():
            signed_in = client_of(person)
            for part in parts:
                shown = banner(text_of(signed_in.get(f"/teams/ops-north/{part}")))
                assert "pulled by oli@example.com" in shown
                assert f"“{WHY}”" in shown
                assert "2026-11-23 03:00:00 UTC" in shown
                assert "2026-11-24 03:00:00 UTC" in shown
                assert "including tasks created later" in shown
                assert PAGE in shown
                assert (f"{PAGE}?lift#lift" in shown) == (person == mona)


def test_every_page_links_the_person_who_pulled_it_to_the_lift(client: Client, run: Run) -> None:
    pull(client)
    shown = banner(text_of(client.get("/teams/ops-north/runs/")))
    assert f'href="{PAGE}?lift#lift"' in shown
    assert "<form" not in shown, "a click on another page does not lift the stop"


def test_the_confirmation_page_of_a_lift_says_what_resumes(
    client: Client, run: Run, vera: User, client_of: ClientOf
) -> None:
    make_run(run.task)
    pull(client)
    page = text_of(client.get(PAGE))
    assert "New runs are no longer cancelled, and runs can be started from here." in page
    assert "2 queued cancels will be dropped; those runs keep running." in page
    assert page.index("Cancel results") < page.index('id="lift"') < page.index(f'action="{LIFT}"')
    CancelBatch.objects.get().items.update(state=Outcome.CONFIRMED)
    assert "No cancel is waiting to be sent." in text_of(client.get(PAGE))
    assert LIFT not in text_of(client_of(vera).get(PAGE))


def test_another_team_has_no_stop(client: Client, run: Run, otto: User, client_of: ClientOf) -> None:
    pull(client)
    assert not banner(text_of(client_of(otto).get("/teams/ops-south/runs/")))


def test_open_boards_poll_the_banner_for_one_query_while_the_stop_holds(client: Client, run: Run) -> None:
    table = "/teams/ops-north/runs/table/"

    def poll() -> tuple[str, int]:
        with CaptureQueriesContext(connection) as asked:
            page = text_of(client.get(table))
        assert page.index("<section") < page.index('<div id="stop-banner"'), "the table comes first in the response"
        return banner(page), len(asked)

    poll()
    before, asked = poll()
    pull(client)
    during, asked_during = poll()
    client.post(LIFT)
    after, asked_after = poll()
    assert WHY in during
    assert not before
    assert not after
    assert (asked_during, asked_after) == (asked + 1, asked)


def demote(person: User) -> None:
    Membership.objects.filter(user=person).update(role=TeamRole.VIEWER)


def remove(person: User) -> None:
    Membership.objects.filter(user=person).delete()


def disable(person: User) -> None:
    User.objects.filter(pk=person.pk).update(is_active=False)


@pytest.mark.parametrize("lose", [demote, remove, disable])
def test_a_banner_in_red_says_that_the_stop_is_paused_without_the_right(
    lose: Callable[[User], None], client: Client, run: Run, oli: User, vera: User, client_of: ClientOf
) -> None:
    def seen() -> str:
        return text_of(client_of(vera).get("/teams/ops-north/runs/"))

    pull(client)
    assert 'class="stop-banner"' in seen()
    lose(oli)
    assert 'class="stop-banner stop-paused"' in seen()
    assert "The stop is paused: oli@example.com may no longer stop runs in this team" in banner(seen())
    User.objects.filter(pk=oli.pk).update(is_active=True)
    Membership.objects.update_or_create(user=oli, team=run.team, defaults={"role": TeamRole.OPERATOR})
    assert 'class="stop-banner"' in seen()


def test_the_board_has_the_button_for_people_who_may_pull(
    client: Client, run: Run, vera: User, client_of: ClientOf
) -> None:
    assert f'href="{PAGE}"' in text_of(client.get("/teams/ops-north/runs/"))
    assert f'href="{PAGE}"' not in text_of(client_of(vera).get("/teams/ops-north/runs/"))
    assert f'href="{PAGE}"' not in text_of(client.get("/runs/"))


def test_text_of_people_is_escaped(client: Client, run: Run) -> None:
    pull(client, "<img src=x onerror=alert(1)> {{ 7|add:7 }}")
    page = text_of(client.get(PAGE))
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(1)&gt; {{ 7|add:7 }}" in page


def test_people_who_may_not_pull_see_the_preview_without_a_form(run: Run, vera: User, client_of: ClientOf) -> None:
    page = text_of(client_of(vera).get(PAGE))
    assert "<strong>1 run in 1 task</strong>" in page
    assert "Operators and managers of the team can pull it." in page
    assert "left_out" not in page
    assert "Pull the emergency stop" not in page


def test_the_page_of_a_stop_shows_its_cancels_and_links_to_their_lists(client: Client, run: Run) -> None:
    pull(client)
    batch = CancelBatch.objects.get()
    assert "<strong>1</strong> queued" in text_of(client.get(PAGE))
    batch.items.update(state="confirmed")
    page = text_of(client.get(PAGE))
    assert "<strong>1</strong> cancelled, Arize confirmed it" in page
    assert f'<a href="/teams/ops-north/batches/{batch.pk}/">1 run</a>' in page
