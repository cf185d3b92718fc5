"""Channels: what a round costs with rules, how soon a fact reaches its receivers while others hang, a thousand failures
in a minute, and a worker that is killed again and again.
"""

import os
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import connection
from django.utils import timezone

from config.processes import base_environment, launch, stop
from taskruns.audit import append_only
from taskruns.models import Delivery, DeliveryState, Heartbeat, Run, Status, Task, Team
from taskruns.services import channels
from taskruns.services.channels.matching import match
from taskruns.services.runs.observations import Reading, record_observation, record_readings
from tests.batches.worker_stack import database_url
from tests.bench.table import Figure
from tests.channels.receivers import Receiver, hang, receiving
from tests.channels.scene import BY, add_channel
from tests.factories import make_credential, unsaved_run
from tests.processes import wait_for
from tests.runs.readings import reading

RULES, CHANNELS, HUNG = 50, 20, 4
CHANGED, REPEATS = 1_000, 6
FACTS, EVERY = 60, 1.0  # seconds between them
KILLS, FACTS_OF_KILLS = 20, 300


def measure() -> list[Figure]:
    append_only.make_append_only(connection)
    return [*_cost_of_a_round(), *_latency(), *_a_bad_minute(), *_kills()]


# What a round costs


def _cost_of_a_round() -> list[Figure]:
    """Alternating, because a machine gets slower and faster."""
    without, having = _team("bench-without"), _team("bench-having")
    for number in range(RULES):
        if number < CHANNELS:
            add_channel(having, "https://alerts.example.com/", name=f"Channel {number}", **_asked(number))
        else:
            known = having.channels.all()[number % CHANNELS]
            channels.save_rule(known, channels.actions.Wanted(**_asked(number)), by=BY)
    spans: dict[Team, list[float]] = {without: [], having: []}
    for _ in range(REPEATS):
        for team, found in spans.items():
            found.append(_one_round(team))
    began = time.perf_counter()
    while match():
        pass
    matching = time.perf_counter() - began
    plain, ruled = (1000 * statistics.median(spans[team]) for team in (without, having))
    for team in spans:
        Team.objects.filter(pk=team.pk).update(archived_at=timezone.now())
    facts = REPEATS * CHANGED
    return [
        Figure(f"a round of {CHANGED} failed runs, {RULES} rules", ruled, "ms", plain, "without a rule", "ratio 1.2"),
        Figure(f"  matching {facts} facts with {RULES} rules, each", 1000 * matching / facts, "ms", 0, ""),
    ]


def _asked(number: int) -> dict[str, Any]:
    """A fifth of the rules asks for all runs of the team, each quiet; the others for a text."""
    is_wide = number % 5 == 0
    return {"events": ("run.failed",), "query": "" if is_wide else f"q=word{number}", "quiet_minutes": 10}


def _one_round(team: Team) -> float:
    task = Task.objects.get(team=team)
    runs = _add_runs(task, CHANGED)
    pages = [[reading(run, "FAILED") for run in runs[at : at + 100]] for at in range(0, CHANGED, 100)]
    began = time.perf_counter()
    record_readings(Reading(task, page, timezone.now()) for page in pages)
    return time.perf_counter() - began


# How soon


def _latency() -> list[Figure]:
    team = _team("bench-latency")
    task = Task.objects.get(team=team)
    with _receivers() as receivers, _worker():
        for number, receiver in enumerate(receivers):
            add_channel(team, receiver.url, name=f"Channel {number}", events=("run.failed",))
        for number in range(RULES - CHANNELS):
            known = team.channels.all()[number % CHANNELS]
            asked = channels.actions.Wanted(("run.failed",), f"q=nothing-like-{number}")
            channels.save_rule(known, asked, by=BY)
        written = {}
        for run in _add_runs(task, FACTS):
            record_observation(run, reading(run, "FAILED"), timezone.now())
            written[run.arize_id] = time.monotonic()
            time.sleep(EVERY)
        fast = receivers[HUNG:]
        wait_for(lambda: all(len(it.received) >= FACTS for it in fast), "the messages", within=60)
    spans = sorted(got.at - written[got.json["data"]["run_id"]] for it in fast for got in it.received)
    _end(team)
    silent = sum(len(it.received) for it in receivers[:HUNG])
    what = f"{CHANNELS} channels, {HUNG} of them hang, {RULES} rules: to the receiver"
    return [
        Figure(f"{what}, p50", statistics.median(spans), "s", 5.0, "the goal at p95"),
        Figure(f"{what}, p95", statistics.quantiles(spans, n=20)[-1], "s", 5.0, "the goal"),
        Figure("  the slowest", spans[-1], "s", 5.0, "the goal at p95"),
        Figure("  attempts at the silent ones", silent, "", HUNG * FACTS, "messages for them"),
    ]


# Many at once


def _a_bad_minute() -> list[Figure]:
    team = _team("bench-minute")
    task = Task.objects.get(team=team)
    with receiving() as receiver, _worker(receiver):
        add_channel(team, receiver.url, events=("run.failed",), quiet_minutes=1)
        runs = _add_runs(task, 1_000)
        for at in range(0, 1_000, 50):
            page = [reading(run, "FAILED") for run in runs[at : at + 50]]
            record_readings([Reading(task, page, timezone.now())])
            time.sleep(1)
        wait_for(lambda: len(receiver.received) > 1, "the summary", within=90)
        time.sleep(5)
        summed_up = receiver.received[1].json["data"]["number"]
    _end(team)
    return [
        Figure(
            "1000 failures in a minute, one quiet rule: messages", len(receiver.received), "", 2, "with the summary"
        ),
        Figure("  summed up in the second", summed_up, "", 999, "the others"),
    ]


# Kills


def _kills() -> list[Figure]:
    team = _team("bench-kills")
    task = Task.objects.get(team=team)
    dice = random.Random(7)
    with receiving() as receiver, tempfile.TemporaryDirectory() as directory:
        _allow([receiver])
        add_channel(team, receiver.url, kind="slack", events=("run.failed",))
        runs = _add_runs(task, FACTS_OF_KILLS)
        for kill in range(KILLS):
            worker = launch("worker", environment=_environment(Path(directory), [receiver]), log=Path(directory, "log"))
            before = len(receiver.received)
            for run in runs[kill * 15 : kill * 15 + 15]:
                record_observation(run, reading(run, "FAILED"), timezone.now())
            wait_for(lambda seen=before: len(receiver.received) > seen, "a message", within=60)
            time.sleep(dice.uniform(0, 0.3))
            worker.kill()
            worker.wait()
        with _worker(receiver):
            unsent = Delivery.objects.filter(team=team).exclude(state=DeliveryState.SENT)
            wait_for(lambda: not unsent.exists(), "the rest", within=120)
    told = Counter(_run_of(got.json["text"]) for got in receiver.received)
    lost = [run.arize_id for run in runs if not told[run.arize_id]]
    marked = Counter(
        _run_of(got.json["text"]) for got in receiver.received if "may be a repetition" in got.json["text"]
    )
    repeats = sum(number - 1 for number in told.values())
    unmarked = sum(max(0, number - 1 - marked[run]) for run, number in told.items())
    _end(team)
    return [
        Figure(f"worker killed {KILLS} times: messages lost", len(lost), "", 0, "none may be"),
        Figure("  repeated, all in all", repeats, "", KILLS, "kills"),
        Figure("  repeated without a mark", unmarked, "", 0, "none may be"),
    ]


def _run_of(text: str) -> str:
    line = next(line for line in text.splitlines() if line.startswith("Run: "))
    return line.removeprefix("Run: ").replace("\N{ZERO WIDTH SPACE}", "")


# The stage


def _team(slug: str) -> Team:
    team = Team.objects.create(slug=slug, name=slug)
    # Failing, so that no worker calls Arize with it.
    key = make_credential(team, failing_since=timezone.now(), retry_at=timezone.now() + timezone.timedelta(hours=1))
    Task.objects.create(team=team, endpoint=key.endpoint, arize_id=slug, name="Evaluation", credential=key)
    return team


def _add_runs(task: Task, number: int) -> list[Run]:
    return Run.objects.bulk_create([unsaved_run(task, status=Status.RUNNING) for _ in range(number)])


def _end(team: Team) -> None:
    Team.objects.filter(pk=team.pk).update(archived_at=timezone.now())


@contextmanager
def _receivers() -> Iterator[list[Receiver]]:
    """The first ones never answer."""
    with ExitStack() as started:
        found = [started.enter_context(receiving(hang if at < HUNG else None)) for at in range(CHANNELS)]
        _allow(found)
        yield found


def _allow(receivers: list[Receiver]) -> None:
    settings.NOTIFY_HOSTS = tuple(it.host for it in receivers)


@contextmanager
def _worker(*receivers: Receiver) -> Iterator[None]:
    if receivers:
        _allow(list(receivers))
    began = timezone.now()
    Heartbeat.objects.all().delete()
    with tempfile.TemporaryDirectory() as directory:
        environment = _environment(Path(directory), [])
        worker = launch("worker", environment=environment, log=Path(directory, "worker.log"))
        try:
            wait_for(Heartbeat.objects.filter(seen_at__gte=began).exists, "the worker", within=60)
            yield
        finally:
            stop([worker], grace=20)


def _environment(directory: Path, receivers: list[Receiver]) -> dict[str, str]:
    hosts = [it.host for it in receivers] or list(settings.NOTIFY_HOSTS)
    return base_environment() | {
        **{name: os.environ[name] for name in ("SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY")},
        "ENV_FILE": "",
        "DATA_DIR": str(directory),
        "DATABASE_URL": database_url(),
        "QUEUE_URL": f"sqlite:///{directory / 'queue.sqlite3'}",
        "NOTIFY_HOSTS": ",".join(hosts),
    }
