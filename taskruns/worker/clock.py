"""The worker's clock: every second it looks in the database which keys and batches are due, and gives them to lanes."""

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress

import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, connection
from django.utils import timezone

from taskruns import jobs
from taskruns.services import batches, cancellations, channels, heartbeats, mirror
from taskruns.services.rare_lines import Rarely

from .lanes import Lane

log = structlog.get_logger(__name__)
TICK = 1.0  # seconds
SHORTEST_TICK = 0.05  # seconds, however many messages come
SEEN_EVERY = 5.0  # seconds
TIME_NOTICED_EVERY = 2.0  # seconds
MINUTE, HOUR = 60.0, 3_600.0
FIRST_HOUR = 300.0  # seconds from the start to the first hourly work
# Keys that failed last share one place for each SUSPECTS places of the others, however long they wait for Arize.
SUSPECTS = 4
BATCHES = 6
CHORES = 3
# Channels that are sent to at once. Most receivers answer within a second: those that do not give their place away, so
# that the first messages to many silent ones do not delay the others.
CHANNELS, MOST_CHANNELS = 8, 32
SLOW_RECEIVER = 1.0  # seconds
# Channels that failed last have places of their own.
FAILING_CHANNELS = 4


class Clock:
    """`is_queue_working` says whether this process can use the queue. Stop it with `stop`, then `finish`."""

    def __init__(self, is_queue_working: Callable[[], bool] = lambda: True) -> None:
        rounds: int = settings.WORKER_THREADS
        self.rounds = Lane[uuid.UUID]("rounds", jobs.read_round, places=rounds, most=3 * rounds)
        self.suspects = Lane[uuid.UUID]("suspects", jobs.read_round, places=max(1, rounds // SUSPECTS))
        self.batches = Lane[uuid.UUID]("batches", jobs.work_slice, places=BATCHES, most=2 * BATCHES)
        self.cancels = Lane[str]("cancels", lambda _name: jobs.send_cancels(), places=1)
        self.chores = Lane[str]("chores", jobs.do_chore, places=CHORES, most=2 * CHORES)
        self.facts = Lane[str]("facts", lambda _name: jobs.match_facts(), places=1)
        self.time = Lane[str]("time", lambda _name: jobs.notice_time(), places=1)
        self.channels = Lane[uuid.UUID | None](
            "channels", jobs.send_messages, places=CHANNELS, most=MOST_CHANNELS, slow_after=SLOW_RECEIVER
        )
        self.failing = Lane[uuid.UUID | None]("failing channels", jobs.send_messages, places=FAILING_CHANNELS)
        self._lanes = (
            *(self.rounds, self.suspects, self.batches, self.cancels, self.chores),
            *(self.facts, self.time, self.channels, self.failing),
        )
        self._is_queue_working = is_queue_working
        self._poked = threading.Event()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="clock", daemon=True)
        now = time.monotonic()
        self._next = {self._note_seen: now, self._time: now, self._minute: now, self._hour: now + FIRST_HOUR}
        self._complaints = Rarely()

    def start(self) -> None:
        jobs.clock = self._poked
        self.chores.add(jobs.fill_in_run_facts.__name__)
        self._thread.start()

    def stop(self) -> None:
        """Start nothing more."""
        self._is_stopped = True
        self._poked.set()
        for lane in self._lanes:
            lane.stop()
        jobs.clock = None

    def finish(self, within: float) -> None:
        """Wait for what runs, then give back the claims of what still does, so that no other worker waits for them."""
        until = time.monotonic() + within
        done = [lane.wait(until - time.monotonic()) for lane in self._lanes]
        if not all(done):
            with suppress(DatabaseError):
                mirror.give_back_claims()

    def _run(self) -> None:
        while not self._is_stopped:
            self._poked.wait(TICK)
            self._poked.clear()
            began = time.monotonic()
            self.tick()
            time.sleep(max(0.0, began + SHORTEST_TICK - time.monotonic()))
        connection.close()

    def tick(self) -> None:
        """Do what is due now. Each step on its own: a full disk must not stop the reading."""
        close_old_connections()
        now = time.monotonic()
        due = [act for act, at in self._next.items() if at <= now]
        self._next |= {act: now + self._pause(act) for act in due}
        for act in (*due, self._look, *(lane.staff for lane in self._lanes)):
            try:
                act()
            except Exception as error:  # noqa: BLE001 - logged; the other steps are due all the same
                self._complain(error)
        close_old_connections()

    def _pause(self, act: Callable[[], None]) -> float:
        pauses = {self._note_seen: SEEN_EVERY, self._time: TIME_NOTICED_EVERY}
        return (pauses | {self._minute: MINUTE, self._hour: HOUR})[act]

    def _complain(self, error: Exception) -> None:
        """One line a minute: an unreachable database fails every second."""
        if self._complaints.is_due():
            log.error("clock_failed", exc_info=error)

    def _look(self) -> None:
        now = timezone.now()
        if cancellations.has_unsent():
            self.cancels.add("unsent")
        for batch_id in batches.due(now):
            self.batches.add(batch_id)
        if channels.is_match_due():
            self.facts.add("facts")
        failing = channels.failed_last(waiting) if (waiting := channels.due(now)) else set()
        for channel_id in waiting:
            (self.failing if channel_id in failing else self.channels).add(channel_id)
        suspects = mirror.failed_last(keys) if (keys := mirror.due(now)) else set()
        for key_id in keys:
            (self.suspects if key_id in suspects else self.rounds).add(key_id)

    def _note_seen(self) -> None:
        heartbeats.note(heartbeats.WORKER)
        if self._is_queue_working():
            heartbeats.note(heartbeats.QUEUE)

    def _time(self) -> None:
        if channels.asks_for_time():
            self.time.add("time")

    def _minute(self) -> None:
        for name in jobs.MINUTELY:
            self.chores.add(name)

    def _hour(self) -> None:
        for name in jobs.HOURLY:
            self.chores.add(name)
