"""The plan of a chaos run: a seed decides it, and each kind of disturbance is in it."""

import pytest

from tests.chaos.plan import CLAIM_LASTS, HUNG, Kind, Plan, run_plan

WITH_ALL = {"has_postgres": True, "has_redis": True, "workers": 3, "webs": 2}


def test_a_seed_repeats_the_plan():
    assert Plan(7, 60, **WITH_ALL).events() == Plan(7, 60, **WITH_ALL).events()
    assert Plan(7, 60, **WITH_ALL).events() != Plan(8, 60, **WITH_ALL).events()
    assert run_plan(7, "R1") == run_plan(7, "R1")
    assert run_plan(7, "R1") != run_plan(8, "R1")


@pytest.mark.parametrize("seconds", [12, 600])
def test_each_kind_occurs_within_the_time(seconds: float):
    events = Plan(1, seconds, **WITH_ALL).events()
    assert {event.kind for event in events} == set(Kind)
    assert all(0 <= event.at <= seconds for event in events)
    assert events == sorted(events)


def test_sqlite_has_no_connections_to_end_and_no_redis():
    assert set(Kind) - {event.kind for event in Plan(1, 60).events()} == {Kind.TERMINATE, Kind.KILL_REDIS}


def test_a_kind_that_is_left_out_changes_no_other():
    everything, less = Plan(3, 60).events(), Plan(3, 60, without=frozenset({Kind.JUMP, Kind.HANG})).events()
    assert [event for event in everything if event.kind not in {Kind.JUMP, Kind.HANG}] == less


def test_no_worker_is_killed_while_keys_hang_in_a_long_run():
    events = Plan(5, 600).events()
    hung = [event for event in events if event.kind is Kind.HANG]
    kills = [event.at for event in events if event.kind is Kind.KILL_WORKER]
    assert {event.whom for event in hung} == set(HUNG)
    assert kills
    assert not [at for at in kills for it in hung if it.at - CLAIM_LASTS <= at <= it.at + it.lasts]


def test_processes_are_killed_that_exist():
    events = Plan(2, 3000, workers=3, webs=2).events()
    killed = {event.whom for event in events if event.kind in {Kind.KILL_WORKER, Kind.KILL_WEB}}
    assert killed == {"worker-1", "worker-2", "worker-3", "web-1", "web-2"}
