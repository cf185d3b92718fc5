"""Limits that hold over all threads and processes: requests of a token, calls of a key, and web threads."""

import threading
import time
from collections import Counter
from contextlib import suppress
from itertools import chain
from typing import Any

import pytest
import responses
import time_machine
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from taskruns.models import Credential, KeyUsage, Run, SignInCount, Task, Team, Token
from taskruns.services import background, cancellations
from taskruns.services.credentials import budget, client
from taskruns.services.credentials.budget import Budget, Kind
from taskruns.services.gateway import acts, passing, places
from taskruns.services.minor_writes import soft_commit
from taskruns.services.tokens import rate
from tests.arize_server import ArizeServer, serving
from tests.factories import make_credential, make_run, make_task, make_token
from tests.gateway.scripts import Script, problem_of
from tests.processes import wait_for
from tests.threads import in_threads
from tests.wire import ENDPOINT, wire_run

NOW = 1_800_000_000


# --- Requests of a token


@pytest.fixture
def _few(settings: Any) -> None:
    settings.TOKEN_REQUESTS_PER_MINUTE = 3


@pytest.mark.usefixtures("_few")
def test_requests_beyond_the_limit_are_refused_for_the_rest_of_the_minute(
    script: Script, arize: responses.RequestsMock
):
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": []})
    with time_machine.travel(NOW, tick=False) as clock:
        found = [script.get("tasks") for _ in range(2)]
        clock.shift(20)
        found += [script.get("nowhere"), script.get("tasks"), script.cancel("R1")]
        clock.shift(40)
        found += [script.get("tasks")]
    assert [one.status_code for one in found] == [200, 200, 403, 429, 429, 200]
    assert [one["RateLimit-Remaining"] for one in found] == ["2", "1", "0", "0", "0", "2"]
    assert [one["RateLimit-Reset"] for one in found] == ["60", "60", "40", "40", "40", "60"]
    assert {(one["RateLimit-Limit"], one["RateLimit-Policy"]) for one in found} == {("3", "3;w=60")}
    assert [one.headers.get("Retry-After") for one in found] == [None, None, None, "40", "40", None]
    assert problem_of(found[3])[0] == 429


@pytest.mark.usefixtures("_few")
def test_each_token_has_its_own_limit(script: Script, team: Team, arize: responses.RequestsMock):
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": []})
    for _ in range(4):
        script.get("tasks")
    other = Script(make_token(team, name="Other")[1])
    assert (script.get("tasks").status_code, other.get("tasks").status_code) == (429, 200)


def test_window_that_ends_in_the_far_future_is_over(token: tuple[Token, str]):
    """A wrong clock made it."""
    rate.spend(token[0])
    SignInCount.objects.update(attempts=1_000, ends_at=timezone.now() + timezone.timedelta(days=3))
    assert rate.spend(token[0]).used == 1


@pytest.mark.usefixtures("committed")
def test_parallel_requests_are_all_counted():
    team = Team.objects.create(slug="ops-north", name="Ops North")
    token, _ = make_token(team)
    used = sorted(spent.used for spent in in_threads(8, lambda _number: rate.spend(token)))
    assert used == list(range(1, 9))


def test_default_is_120_requests(script: Script):
    assert script.get("nowhere")["RateLimit-Limit"] == "120"


# --- The share of a key's calls


def test_scripts_get_a_third_of_the_calls_of_a_minute(credential: Credential):
    granted = Counter[int]()
    with time_machine.travel(NOW, tick=False) as clock:
        for second in range(180):
            while budget.reserve_for_script(credential) == 0:
                granted[second] += 1
            credential.refresh_from_db()
            clock.shift(1)
    assert granted[0] == 50
    for start in range(121):
        assert sum(calls for at, calls in granted.items() if start <= at < start + 60) <= 100
    assert sum(calls for at, calls in granted.items() if at >= 120) >= 45


def test_scripts_leave_the_calls_for_active_runs(credential: Credential):
    """Of 300 calls, scripts that want everything leave those that a watched board needs in each round."""
    with time_machine.travel(NOW, tick=False) as clock:
        got = []
        for _round in range(36):
            while budget.reserve_for_script(credential) == 0:
                pass
            credential.refresh_from_db()
            this = Budget(300, credential.recent_calls)
            got.append(sum(this.take(Kind.ACTIVE) for _ in range(12)))
            Credential.objects.filter(pk=credential.pk).update(recent_calls=this.recent())
            clock.shift(5)
    assert got == [12] * 36


def test_named_wait_is_long_enough(credential: Credential):
    with time_machine.travel(NOW, tick=False) as clock:
        while (wait := budget.reserve_for_script(credential)) == 0:
            pass
        clock.shift(wait)
        assert budget.reserve_for_script(credential) == 0
        Credential.objects.filter(pk=credential.pk).update(recent_calls=[[NOW + 10, Kind.OTHER, 300]])
        wait = budget.reserve_for_script(credential)
        assert 1 < wait <= 60


def test_a_round_counts_the_calls_of_scripts(credential: Credential):
    running = Budget(300, [])
    budget.reserve_for_script(credential)
    credential.refresh_from_db()
    running.learn_outside(credential.recent_calls)
    assert running.left() == 299


def test_read_beyond_the_share_is_a_429(script: Script, credential: Credential, arize: responses.RequestsMock):
    now = timezone.now().timestamp()
    Credential.objects.filter(pk=credential.pk).update(recent_calls=[[now, Kind.SCRIPT, 100]])
    found = script.get("tasks")
    assert problem_of(found)[0] == 429
    assert 1 <= int(found["Retry-After"]) <= 60
    assert not arize.calls


def test_read_respects_a_pause_that_arize_asked_for(
    script: Script, credential: Credential, arize: responses.RequestsMock
):
    pause = {"backoff_until": timezone.now() + timezone.timedelta(seconds=30), "backoff_is_limit": True}
    Credential.objects.filter(pk=credential.pk).update(**pause)
    found = script.get("tasks")
    assert (problem_of(found)[0], int(found["Retry-After"]) in range(25, 32)) == (429, True)
    assert not arize.calls


@pytest.mark.usefixtures("committed")
def test_parallel_reservations_never_exceed_the_share():
    team = Team.objects.create(slug="ops-north", name="Ops North")
    credential = make_credential(team)
    granted = in_threads(8, lambda _number: sum(budget.reserve_for_script(credential) == 0 for _ in range(10)))
    assert 50 <= sum(granted) <= 53  # a second adds less than one


def test_a_reservation_is_one_statement_unless_another_process_was_faster(credential: Credential):
    elsewhere = Credential.objects.get(pk=credential.pk)
    budget.reserve_for_script(credential)  # prepares the query
    credential.refresh_from_db()
    for key, statements in ((credential, 1), (elsewhere, 3)):
        with CaptureQueriesContext(connection) as found:
            assert budget.reserve_for_script(key) == 0
        assert len([one for one in found if "SAVEPOINT" not in one["sql"]]) == statements
    credential.refresh_from_db()
    assert sum(calls for _, _, calls in credential.recent_calls) == 3


@pytest.mark.usefixtures("committed")
@pytest.mark.parametrize("act", ["reserve", "spend", "count"])
def test_single_statements_neither_wait_for_the_disk_nor_change_the_connection(act: str):
    team = Team.objects.create(slug="ops-north", name="Ops North")
    key, (token, _) = make_credential(team), make_token(team)
    acts = {
        "reserve": lambda: budget.reserve_for_script(Credential.objects.get(pk=key.pk)),
        "spend": lambda: rate.spend(token),
        "count": lambda: client.count(key, calls=1, limited=0),
    }
    acts[act]()
    before = durability()
    with CaptureQueriesContext(connection) as found:
        acts[act]()
    writes = [one["sql"] for one in found if "UPDATE" in one["sql"]]
    assert len(writes) == 1
    assert connection.vendor == "sqlite" or "SET LOCAL synchronous_commit = off; UPDATE" in writes[0]
    assert durability() == before


def test_calls_are_counted_for_the_page_of_the_key(
    script: Script, credential: Credential, arize: responses.RequestsMock
):
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": []})
    arize.get(f"{ENDPOINT}/v2/spaces", status=429)
    arize.get(f"{ENDPOINT}/v2/users", body=ConnectionResetError("cut"))
    for path in ("tasks", "spaces", "users", "nowhere"):
        script.get(path)
    usage = KeyUsage.objects.get(credential=credential)
    assert (usage.calls, usage.limited) == (3, 1)


# --- Web threads


def test_reads_leave_a_place_for_a_cancel():
    room = places.Places()
    with room.place(is_read=True) as first, room.place(is_read=True) as second:
        began = time.monotonic()
        with room.place(is_read=True) as third, room.place(is_read=False) as cancel:
            assert (first, second, third, cancel) == (True, True, False, True)
        assert time.monotonic() - began < places.LONGEST_WAIT + 1
    with room.place(is_read=True) as again:
        assert again


def test_request_waits_for_a_place_that_is_soon_free():
    room, entered = places.Places(), threading.Event()

    def hold() -> None:
        with room.place(is_read=False), room.place(is_read=False), room.place(is_read=False):
            entered.set()

    holder = threading.Thread(target=hold)
    holder.start()
    entered.wait(timeout=10)
    with room.place(is_read=False) as is_taken:
        assert is_taken
    holder.join()


def test_nobody_waits_while_arize_is_slow(monkeypatch: pytest.MonkeyPatch):
    room = places.Places()
    with room.place(is_read=True), room.place(is_read=True):
        room._last_took = places.QUICK + 1
        monkeypatch.setattr(room._freed, "wait", lambda _seconds: pytest.fail("it waits"))
        with room.place(is_read=True) as is_taken:
            assert not is_taken


def test_a_place_is_given_back_after_a_failure():
    room = places.Places()
    for _ in range(places.PLACES + 1):
        with suppress(ZeroDivisionError), room.place(is_read=True) as is_taken:
            assert is_taken
            raise ZeroDivisionError


@pytest.mark.usefixtures("committed")
@pytest.mark.slow
def test_parallel_cancels_of_one_run_send_one_request(settings: Any, monkeypatch: pytest.MonkeyPatch):
    """From as many threads as a web process has. All get an answer, though at first nobody knows the outcome."""
    monkeypatch.setattr(acts, "YOUNG", 4.0)  # for a busy machine
    # If the first one finds no place, the worker sends it.
    monkeypatch.setattr("taskruns.jobs.wake_cancels", cancellations.send_unsent)
    settings.TOKEN_REQUESTS_PER_MINUTE = 1_000
    team = Team.objects.create(slug="ops-north", name="Ops North")
    double = ArizeServer(answer=lambda _method, _path: (200, wire_run(run, "CANCELLED")))
    with serving(double):
        settings.ARIZE_ENDPOINTS = (double.url,)
        run = _running(team, double.url)
        secret = make_token(team)[1]

        def cancel(_number: int) -> list[int]:
            return [Script(secret).cancel(run.arize_id).status_code for _ in range(6)]

        found = Counter(chain.from_iterable(in_threads(8, cancel)))
    assert len(double.posts()) == 1
    assert found[200] >= 1
    assert found[200] + found[400] >= 40  # those that came later learn that it has ended
    assert found.keys() <= {200, 400, 504}
    run.refresh_from_db()
    assert run.status == "cancelled"


@pytest.mark.usefixtures("committed")
@pytest.mark.slow
def test_silent_arize_takes_only_the_places_of_scripts(settings: Any):
    """The others are answered at once: try again."""
    settings.TOKEN_REQUESTS_PER_MINUTE = 1_000
    team = Team.objects.create(slug="ops-north", name="Ops North")
    over = threading.Event()
    double = ArizeServer(answer=lambda _method, _path: (200, {}), on_arrival=lambda _path: over.wait(30))
    with serving(double):
        settings.ARIZE_ENDPOINTS = (double.url,)
        _running(team, double.url)
        secret = make_token(team)[1]
        statuses: list[int] = []

        def ask(_number: int) -> None:
            statuses.append(Script(secret).get("tasks").status_code)
            if len(statuses) >= 10:  # all but those that hold a place have been refused
                over.set()

        in_threads(10 + places.READS, ask)
    assert Counter(statuses) == {503: 10, 200: places.READS}
    assert len(double.received) == places.READS


def _running(team: Team, url: str) -> Run:
    credential = make_credential(team)
    Credential.objects.update(endpoint=url)
    credential.refresh_from_db()
    task = make_task(team, credential)
    Task.objects.update(endpoint=url)
    task.refresh_from_db()
    return make_run(task)


# --- What is written beside the answer


@pytest.mark.usefixtures("committed", "in_background")
def test_thread_works_and_ends(monkeypatch: pytest.MonkeyPatch):
    """A job that fails stops nothing. Before the end, the regular work is done once more."""
    monkeypatch.setattr(background, "IDLE", 0.2)
    monkeypatch.setattr(background, "EVERY", 0.1)
    done = list[str]()
    thread = background.Background("passing", regular=lambda: done.append("regular"))
    thread.submit(lambda: 1 / 0)
    thread.submit(lambda: done.append(threading.current_thread().name))
    wait_for(lambda: thread._thread is None, "the thread's end")
    assert done[0] == "passing"
    assert set(done[1:]) == {"regular"}
    thread.submit(lambda: done.append("again"))
    wait_for(lambda: thread._thread is None, "the second thread's end")
    assert "again" in done


@pytest.mark.usefixtures("in_background")
def test_queue_is_short():
    thread = background.Background("passing")
    thread.start = lambda: None  # type: ignore[method-assign]
    taken = [thread.submit(lambda: None) for _ in range(background.MOST_WAITING + 2)]
    assert taken == [True] * background.MOST_WAITING + [False] * 2


def test_same_answer_is_recorded_once(script: Script, arize: responses.RequestsMock, monkeypatch: pytest.MonkeyPatch):
    recorded = []
    monkeypatch.setattr(passing, "record", lambda *_: recorded.append(1))
    arize.get(f"{ENDPOINT}/v2/tasks", json={"tasks": []})
    arize.get(f"{ENDPOINT}/v2/spaces", json={"spaces": []})
    for path in ("tasks", "tasks", "spaces"):
        script.get(path)
    assert recorded == [1]


def durability() -> Any:
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous" if connection.vendor == "sqlite" else "SHOW synchronous_commit")
        return cursor.fetchone()[0]


@pytest.mark.usefixtures("committed")
def test_soft_commit_commits_and_leaves_the_connection_as_it_was():
    before = durability()
    with soft_commit():
        Team.objects.create(slug="soft", name="Soft")
        assert connection.vendor == "sqlite" or durability() == "off"
    with suppress(ZeroDivisionError), soft_commit():
        Team.objects.create(slug="broken", name="Broken")
        raise ZeroDivisionError
    with transaction.atomic(), soft_commit():
        Team.objects.create(slug="inner", name="Inner")
        assert durability() == before
    assert durability() == before
    assert set(Team.objects.values_list("slug", flat=True)) == {"soft", "inner"}
