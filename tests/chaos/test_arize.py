"""The fake Arize keeps its own truth, whatever it tells the panel."""

import http.client
import math
import time
from collections.abc import Iterator

import pytest

from tests.chaos.arize import Arize, World, serving
from tests.chaos.plan import Event, Kind, RunPlan
from tests.chaos.record import ITSELF, OUTSIDE, Answer
from tests.processes import wait_for
from tests.sandbox.caller import Caller


class Looks:
    """A panel that recorded one operation."""

    def open_operation(self, run: str) -> str:
        return f"open of {run}"

    def requested(self, run: str) -> tuple[str, ...]:
        return (f"open of {run}",)


@pytest.fixture
def arize() -> Iterator[Arize]:
    with serving(World(1, Looks())) as found:
        yield found


@pytest.fixture
def north(arize: Arize) -> Caller:
    return Caller(arize.url, "ak-chaos-north", timeout=5)


def settled(arize: Arize) -> World:
    """The world after it has noted all answers it sent: a client may read an answer before that."""
    wait_for(lambda: arize.world.in_flight == 0, "the notes of all answers")
    return arize.world


def run_that(arize: Arize, takes: str, *, stops_after: float = 0.2) -> str:
    """A run of north that takes cancels this way and does not end by itself."""
    id_ = arize.world.give_birth("north/0")
    run = arize.world.runs[id_]
    run.plan, run.ends_at = RunPlan(0, 0, "completed", takes, stops_after), math.inf
    return id_


def test_lists_are_whole_newest_first_and_seen_by_their_key_only(arize: Arize, north: Caller):
    made = [arize.world.give_birth("north/0") for _ in range(5)]
    listed = north.runs("north/0", limit=2)
    assert [run["id"] for run in listed][:5] == made[::-1]
    assert [run["id"] for run in listed] == arize.world.runs_of["north/0"]
    assert {task["id"] for task in north.tasks()} == {f"north/{number}" for number in range(6)}
    assert Caller(arize.url, "ak-chaos-held").get("/v2/tasks/north%2F0/runs").status == 404


def test_the_truth_names_the_cancel_that_stopped_a_run(arize: Arize, north: Caller):
    first, second = run_that(arize, "at_once"), run_that(arize, "slowly")
    assert north.cancel(first).json["status"] == "CANCELLED"
    assert north.cancel(first).status in {200, 400, 409}
    assert north.cancel(second).json["status"] == "RUNNING"
    wait_for(lambda: arize.world.truths()[second].status == "cancelled", "the slow cancel")
    truths = arize.world.truths()
    assert (truths[first].ended_by, truths[second].ended_by) == ("1", "3")
    known = [(it.answer, it.is_delivered, it.operation) for it in settled(arize).arrivals]
    assert known == [
        (Answer.CANCELLED, True, f"open of {first}"),
        (Answer.ENDED, True, f"open of {first}"),
        (Answer.STOPPING, True, f"open of {second}"),
    ]


def test_runs_end_by_themselves_and_by_strangers(arize: Arize, north: Caller):
    mine = run_that(arize, "at_once")
    arize.world.runs[mine].ends_at = time.time()
    assert north.run(mine)["status"] == "COMPLETED"
    assert arize.world.truths()[mine].ended_by == ITSELF
    arize.world.cancel_from_outside("north", 0.0)
    assert [run.ended_by for run in arize.world.truths().values()].count(OUTSIDE) == 1


def test_readings_are_kept_with_the_status_they_showed(arize: Arize, north: Caller):
    id_ = run_that(arize, "at_once")
    for act in (lambda: north.run(id_), lambda: north.cancel(id_), lambda: north.get("/v2/tasks/north%2F0/runs")):
        act()
        settled(arize)  # or the note of the next answer may come first
    readings = arize.world.truths()[id_].readings
    assert [reading.status for reading in readings] == ["running", "cancelled", "cancelled"]


@pytest.mark.parametrize(("kind", "status"), [(Kind.BLIP, 401), (Kind.HANG, 0)])
def test_a_disturbance_hits_its_key_while_it_lasts(arize: Arize, north: Caller, kind: Kind, status: int):
    arize.world.disturb(Event(0, kind, "north", lasts=0.5))
    held = Caller(arize.url, "ak-chaos-held")
    assert held.get("/v2/spaces").status == 200
    assert answered(north) == status
    wait_for(lambda: answered(north) == 200, "its end")


def answered(caller: Caller) -> int:
    try:
        return caller.get("/v2/spaces").status
    except (OSError, http.client.HTTPException):
        return 0


def test_a_storm_and_cuts_lose_answers_of_cancels_that_worked(arize: Arize, north: Caller):
    for kind in (Kind.STORM, Kind.CUT):
        arize.world.disturb(Event(0, kind, "north", lasts=60))
    ids = [run_that(arize, "at_once") for _ in range(40)]
    for id_ in ids:
        try:
            north.cancel(id_)
        except (OSError, http.client.HTTPException):
            continue
    truths = settled(arize).truths()
    lost = [it for it in arize.world.arrivals if not it.is_known]
    assert {truths[it.run].ended_by == str(it.number) for it in lost} == {True, False}
    assert {it.answer for it in arize.world.arrivals} >= {Answer.CANCELLED, Answer.LIMITED, Answer.LOST}


def test_a_list_that_repeats_gives_the_same_page_again(arize: Arize, north: Caller):
    arize.world.disturb(Event(0, Kind.REPEAT, "north", lasts=60))
    first = north.get("/v2/tasks").json
    assert north.get("/v2/tasks", cursor=first["pagination"]["next_cursor"]).json == first


def test_arize_goes_away_and_comes_back_at_the_same_address(arize: Arize, north: Caller):
    arize.stop_listening()
    with pytest.raises(ConnectionRefusedError):
        north.get("/v2/spaces")
    arize.listen()
    assert north.get("/v2/spaces").status == 200


def test_afterwards_nothing_is_disturbed_and_runs_stay_as_they_are(arize: Arize, north: Caller):
    arize.world.disturb(Event(0, Kind.BLIP, "north", lasts=600))
    soon, late = arize.world.give_birth("north/1"), arize.world.give_birth("north/1")
    arize.world.runs[soon].ends_at, arize.world.runs[late].ends_at = time.time() + 30, time.time() + 90
    arize.world.calm_down()
    assert north.get("/v2/spaces").status == 200
    wait_for(lambda: not arize.world.truths()[soon].is_active, "the run that would end soon")
    assert arize.world.runs[late].ends_at == math.inf
