"""The judge: a clean record breaks no promise, and each planted fault breaks exactly its own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.judge import LONGEST_SILENCE, judge, table
from tests.chaos.plan import Kind
from tests.chaos.record import OUTSIDE, Answer, Arrival, Call, Click, Message, Poll, Reading, Record, Row, Span, TrueRun

OPERATION, SECOND = "op-1", "op-2"


def record(**changes: Any) -> Record:
    """Oli cancels R1 at once, the hold cancels H1, and R2 completes."""
    facts: dict[str, Any] = {
        "runs": {
            "R1": TrueRun("R1", "north", "north", 0, "cancelled", ended_at=10, ended_by="1"),
            "R2": TrueRun("R2", "north", "north", 0, "completed", ended_at=5, ended_by="itself"),
            "H1": TrueRun("H1", "held", "held", 0, "cancelled", ended_at=20, ended_by="2"),
        },
        "arrivals": [
            Arrival(1, "R1", 10, OPERATION, (OPERATION,), Answer.CANCELLED, is_delivered=True),
            Arrival(2, "H1", 20, "op-h", ("op-h",), Answer.CANCELLED, is_delivered=True),
        ],
        "calls": [Call("calm", at, run="") for at in range(0, 100, 5)],
        "rows": [
            row(1, OPERATION, "R1", "requested"),
            row(2, OPERATION, "R1", "confirmed"),
            row(3, "op-h", "H1", "requested", actor="hans", reason="chaos", batch="b"),
            row(4, "op-h", "H1", "confirmed", actor="hans", batch="b"),
        ],
        "outcomes": {OPERATION: "confirmed", "op-h": "confirmed"},
        "clicks": [Click("oli", "R1", "click 1", 200)],
        "polls": [Poll("north", 30, 25.0)],
        "spans": [Span(Kind.HANG, "hung-1", 30, 60)],
        "boards": {"north": {"R1": "cancelled", "R2": "completed"}, "held": {"H1": "cancelled"}},
        "held_since": {"held": 0.0},
        "healthy_keys": frozenset({"calm"}),
        "calls_per_minute": 50,
        "messages": [Message("R1", is_marked=False), Message("R1", is_marked=True)],
        "to_tell": frozenset({"R1"}),
    }
    return Record(**facts | changes)


def row(seq: int, operation: str, run: str, outcome: str, **more: Any) -> Row:
    """At second 9 + seq."""
    facts: dict[str, Any] = {
        "actor": "oli@chaos.example",
        "actor_type": "user",
        "reason": "click 1" if outcome == "requested" else "",
        "at": 9.0 + seq,
    }
    return Row(seq, operation, run, outcome, **facts | more)


def lost(*, run: TrueRun, rows: list[Row], arrivals: list[Arrival] | None = None, **changes: Any) -> Record:
    """Oli's POST for R1 arrived at second 10, and its answer was lost."""
    clean = record()
    mine = arrivals if arrivals is not None else [Arrival(1, "R1", 10, OPERATION, (OPERATION,))]
    last = {it.operation: it.outcome for it in rows if it.outcome != "requested"}
    facts: dict[str, Any] = {
        "runs": clean.runs | {"R1": run},
        "arrivals": [*mine, clean.arrivals[1]],
        "rows": [*rows, *clean.rows[2:]],
        "outcomes": clean.outcomes | last,
        "boards": clean.boards | {"north": {"R1": run.status, "R2": "completed"}},
        "clicks": [],
    }
    return record(**facts | changes)


def broken(found: Record) -> dict[str, list[str]]:
    return {finding.promise: finding.broken for finding in judge(found) if finding.broken}


def test_a_clean_record_breaks_nothing_and_tries_everything():
    findings = judge(record())
    assert {finding.promise: finding.broken for finding in findings if finding.broken} == {}
    untried = [finding.promise for finding in findings if not finding.tries]
    assert untried == ["an unknown outcome becomes known when the run has ended"]


R1_CANCELLED = TrueRun("R1", "north", "north", 0, "cancelled", ended_at=10, ended_by="1")
R1_OUTSIDE = TrueRun("R1", "north", "north", 0, "cancelled", ended_at=12, ended_by=OUTSIDE)
R1_COMPLETED = TrueRun("R1", "north", "north", 0, "completed", ended_at=12, ended_by="itself")
R1_RUNNING = TrueRun("R1", "north", "north", 0, "running")
REQUESTED = row(1, OPERATION, "R1", "requested")

PLANTED: dict[str, tuple[str, Callable[[], Record]]] = {
    "an end that no message told": ("a channel is told", lambda: record(messages=[])),
    "a message twice without a mark": (
        "a channel is told",
        lambda: record(messages=[Message("R1", is_marked=False), Message("R1", is_marked=False)]),
    ),
    "a message about a run that completed": (
        "a channel is told",
        lambda: record(messages=[*record().messages, Message("R2", is_marked=False)]),
    ),
    "a POST without an operation": (
        "no POST without",
        lambda: record(arrivals=[*record().arrivals, Arrival(3, "R2", 1, "", ())]),
    ),
    "a POST before its row": (
        "no POST without",
        lambda: record(arrivals=[replace(record().arrivals[0], requested=()), record().arrivals[1]]),
    ),
    "two POSTs of one operation": (
        "one POST an operation",
        lambda: record(
            arrivals=[
                *record().arrivals,
                replace(record().arrivals[0], number=3, requested=(OPERATION, SECOND), answer=Answer.ENDED),
            ]
        ),
    ),
    "two open operations of one run": (
        "one POST an operation",
        lambda: record(
            rows=[
                *(row(1, OPERATION, "R1", "requested"), row(2, SECOND, "R1", "requested", reason="click 2")),
                *(row(3, OPERATION, "R1", "confirmed"), row(4, SECOND, "R1", "not_sent"), *record().rows[2:]),
            ],
            outcomes=record().outcomes | {SECOND: "not_sent"},
        ),
    ),
    "a requested row without an outcome": (
        "every requested row",
        lambda: record(rows=[record().rows[0], *record().rows[2:]], outcomes=record().outcomes | {OPERATION: ""}),
    ),
    "an outcome that only the cancellation has": (
        "every requested row",
        lambda: record(outcomes=record().outcomes | {OPERATION: "failed_first"}),
    ),
    "an unknown outcome of a run that has ended": (
        "an unknown outcome",
        lambda: lost(run=R1_COMPLETED, rows=[REQUESTED, row(2, OPERATION, "R1", "unknown")]),
    ),
    "confirmed, but the run completed by itself": (
        "every outcome",
        lambda: lost(run=R1_COMPLETED, rows=[REQUESTED, row(2, OPERATION, "R1", "confirmed")]),
    ),
    "confirmed, but the run is still active": (
        "every outcome",
        lambda: lost(run=R1_RUNNING, rows=[REQUESTED, row(2, OPERATION, "R1", "confirmed")]),
    ),
    "confirmed, but nothing was ever sent": (
        "every outcome",
        lambda: record(
            runs=record().runs | {"R1": R1_OUTSIDE},
            arrivals=record().arrivals[1:],
        ),
    ),
    "not sent, but the POST arrived": (
        "every outcome",
        lambda: lost(run=R1_CANCELLED, rows=[REQUESTED, row(2, OPERATION, "R1", "not_sent")]),
    ),
    "refused, but Arize cancelled it and said so": (
        "every outcome",
        lambda: record(
            rows=[REQUESTED, row(2, OPERATION, "R1", "refused"), *record().rows[2:]],
            outcomes=record().outcomes | {OPERATION: "refused"},
            clicks=[Click("oli", "R1", "click 1", 409)],
        ),
    ),
    "confirmed, although Arize had shown the run active after the cancel": (
        "every outcome",
        lambda: lost(
            run=replace(
                R1_OUTSIDE, ended_at=15, readings=[Reading(13.5, 13.6, "running"), Reading(16, 16.1, "cancelled")]
            ),
            rows=[
                *(REQUESTED, row(2, OPERATION, "R1", "unknown")),
                row(3, OPERATION, "R1", "confirmed", actor_type="job"),
            ],
        ),
    ),
    "marked as sent and confirmed, although Arize had shown the run active long after": (
        "every outcome",
        lambda: lost(
            run=replace(R1_OUTSIDE, readings=[Reading(60, 60.1, "running"), Reading(70, 70.1, "cancelled")]),
            rows=[REQUESTED, row(99, OPERATION, "R1", "confirmed", actor_type="job")],
            arrivals=[],
            marked=frozenset({OPERATION}),
        ),
    ),
    "confirmed, although its own row says that the run was active": (
        "every outcome",
        lambda: lost(
            run=R1_OUTSIDE,
            rows=[
                *(REQUESTED, row(2, OPERATION, "R1", "unknown", reread="running")),
                row(3, OPERATION, "R1", "confirmed", actor_type="job"),
            ],
        ),
    ),
    "two confirmed cancels of one run": (
        "every outcome",
        lambda: lost(
            run=replace(R1_CANCELLED, ended_by="3"),
            rows=[
                *(REQUESTED, row(2, OPERATION, "R1", "unknown"), row(3, SECOND, "R1", "requested", reason="click 2")),
                *(row(4, SECOND, "R1", "confirmed"), row(5, OPERATION, "R1", "confirmed", actor_type="job")),
            ],
            arrivals=[
                Arrival(1, "R1", 10, OPERATION, (OPERATION,)),
                Arrival(3, "R1", 11, SECOND, (OPERATION, SECOND), Answer.CANCELLED, is_delivered=True),
            ],
        ),
    ),
    "a click without a row": (
        "each click",
        lambda: record(clicks=[*record().clicks, Click("ona", "R1", "click 2", 409)]),
    ),
    "a row under another name": (
        "each click",
        lambda: record(clicks=[Click("ona", "R1", "click 1", 200)]),
    ),
    "a refusal that says that it is queued": (
        "each click",
        lambda: record(clicks=[Click("oli", "R1", "click 1", 502, is_queued=True)]),
    ),
    "an answer that contradicts the log": (
        "each click",
        lambda: record(clicks=[Click("oli", "R1", "click 1", 502)]),
    ),
    "a run that the hold let go on": (
        "an emergency stop",
        lambda: record(
            runs=record().runs | {"H2": TrueRun("H2", "held", "held", 0, "running")},
            boards=record().boards | {"held": {"H1": "cancelled", "H2": "running"}},
        ),
    ),
    "too many calls in a minute": (
        "at most 50 calls",
        lambda: record(calls=[*record().calls, *(Call("north", at) for at in range(51))]),
    ),
    "a forged chain": ("the audit log", lambda: record(chains_are_clean=False, chain_report="row 3 was changed")),
    "a board with an old status": (
        "afterwards the boards",
        lambda: record(boards=record().boards | {"north": {"R1": "running", "R2": "completed"}}),
    ),
    "a board without a run": (
        "afterwards the boards",
        lambda: record(boards=record().boards | {"held": {}}),
    ),
    "a search that did not happen": (
        "a board claims",
        lambda: record(polls=[Poll("north", 30, 25.0, ("R2",))]),
    ),
    "a healthy key that waits for hung ones": (
        "healthy keys",
        lambda: record(calls=[Call("calm", at) for at in (25, 32, 32 + LONGEST_SILENCE + 1, 58)]),
    ),
}


@pytest.mark.parametrize(("promise", "plant"), PLANTED.values(), ids=PLANTED)
def test_each_planted_fault_breaks_its_promise_only(promise: str, plant: Callable[[], Record]):
    found = broken(plant())
    assert [name for name in found if name.startswith(promise)] == list(found)
    assert found


def test_every_promise_has_a_planted_fault():
    begun = {promise for promise, _ in PLANTED.values()}
    assert [it.promise for it in judge(record()) if not it.promise.startswith(tuple(begun))] == []


TRUE: dict[str, Record] = {
    "its answer was lost, and it cancelled the run": lost(
        run=R1_CANCELLED, rows=[REQUESTED, row(2, OPERATION, "R1", "confirmed")]
    ),
    "its answer was lost, and somebody outside was faster than the first look": lost(
        run=replace(R1_OUTSIDE, readings=[Reading(13, 13.1, "cancelled")]),
        rows=[REQUESTED, row(2, OPERATION, "R1", "confirmed")],
    ),
    "Arize showed the run active only while it was still in flight": lost(
        run=replace(R1_OUTSIDE, readings=[Reading(10.5, 10.6, "running"), Reading(13, 13.1, "cancelled")]),
        rows=[REQUESTED, row(2, OPERATION, "R1", "confirmed")],
        arrivals=[Arrival(1, "R1", 10, OPERATION, (OPERATION,), done=11)],
    ),
    "its answer was lost, it was seen active, and stopped late because of it": lost(
        run=replace(R1_CANCELLED, readings=[Reading(10.5, 10.6, "running")]),
        rows=[
            *(REQUESTED, row(2, OPERATION, "R1", "unknown", reread="running")),
            row(3, OPERATION, "R1", "already_cancelled", actor_type="job"),
        ],
    ),
    "its answer was lost, and the run still runs": lost(
        run=R1_RUNNING, rows=[REQUESTED, row(2, OPERATION, "R1", "unknown")]
    ),
    "it was never sent": lost(run=R1_RUNNING, rows=[REQUESTED, row(2, OPERATION, "R1", "not_sent")], arrivals=[]),
    "the process was killed after Arize had confirmed": lost(
        run=R1_CANCELLED,
        rows=[REQUESTED, row(2, OPERATION, "R1", "already_cancelled", actor_type="job")],
        arrivals=[Arrival(1, "R1", 10, OPERATION, (OPERATION,), Answer.CANCELLED, is_delivered=True)],
        spans=[Span(Kind.KILL_WEB, "web-1", 10.2, 11)],
    ),
    "Arize accepted it and ignored it": lost(
        run=R1_RUNNING,
        rows=[REQUESTED, row(2, OPERATION, "R1", "still_running", actor_type="job")],
        arrivals=[Arrival(1, "R1", 10, OPERATION, (OPERATION,), Answer.STOPPING, is_delivered=True)],
    ),
    "it was marked as sent, and its process was killed before": lost(
        run=R1_OUTSIDE,
        rows=[REQUESTED, row(2, OPERATION, "R1", "confirmed", actor_type="job")],
        arrivals=[],
        marked=frozenset({OPERATION}),
    ),
    "an answer that its process may have forgotten, or not": lost(
        run=replace(R1_OUTSIDE, ended_at=80, readings=[Reading(60, 60.1, "running"), Reading(81, 81.1, "cancelled")]),
        rows=[REQUESTED, row(2, OPERATION, "R1", "confirmed", actor_type="job", at=82.0)],
        arrivals=[Arrival(1, "R1", 10, OPERATION, (OPERATION,), Answer.STOPPING, is_delivered=True)],
        spans=[Span(Kind.KILL_WEB, "web-1", 10.2, 11)],
    ),
    "a cancel that was answered as queued": lost(
        run=R1_OUTSIDE,
        rows=[REQUESTED, row(2, OPERATION, "R1", "not_sent")],
        arrivals=[],
        clicks=[Click("oli", "R1", "click 1", 200, is_queued=True)],
    ),
    "a click that got no answer and did nothing": record(clicks=[Click("ona", "R1", "click 9", 0)]),
    "a silence after a worker was killed": record(
        calls=[Call("calm", at) for at in (25, 32, 58)],
        spans=[*record().spans, Span(Kind.KILL_WORKER, "worker-1", 33, 35)],
    ),
    "a run read again after each lost answer": lost(
        run=R1_COMPLETED,
        rows=[REQUESTED, row(2, OPERATION, "R1", "finished_first")],
        calls=[*record().calls, *(Call("north", at) for at in range(50)), Call("north", 11, run="R1")],
    ),
}


@pytest.mark.parametrize("found", TRUE.values(), ids=TRUE)
def test_what_is_true_or_cannot_be_known_breaks_nothing(found: Record):
    assert broken(found) == {}


def test_the_table_shows_each_promise_and_what_broke_it():
    _, plant = PLANTED["too many calls in a minute"]
    lines = list(table(judge(plant()), most=1))
    assert sum("at most 50 calls a minute and key" in line for line in lines) == 2
    assert any("key north: 51 calls" in line for line in lines)
