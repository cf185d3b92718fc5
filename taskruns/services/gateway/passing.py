"""Records the runs and tasks that an answer to a script shows, and counts the calls of scripts.

After the answer, in one thread of the process: the script waits for neither. If more is to be written than the thread
can write, the rest is dropped, because the mirror reads it anyway.
"""

import hashlib
import json
import queue
import threading
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import structlog
from django.db import connection

from taskruns.arize.client import MOST_VALUES, RawAnswer
from taskruns.arize.errors import Unreadable
from taskruns.arize.paging import Page
from taskruns.arize.wire import WireRun, WireTask
from taskruns.models import Credential, Run, Task
from taskruns.services.cancellations import follow
from taskruns.services.credentials.client import count as count_calls
from taskruns.services.lock_wait import soft_commit
from taskruns.services.mirror.lookup import mirror_one
from taskruns.services.mirror.tasks import record_listed
from taskruns.services.rare_lines import Rarely
from taskruns.services.runs.observations import Reading, fits_an_index, record_observation, record_readings

log = structlog.get_logger(__name__)
MOST_WAITING = 50  # answers
MOST_ITEMS = 100  # of one answer; Arize's longest page
COUNTED_EVERY = 1.0  # seconds
IDLE = 10.0  # seconds after which the thread and its database connection end
# The same answer again says nothing new for this long, however many scripts ask for it.
SAME_FOR = 5.0  # seconds
MOST_KNOWN = 1_000
_complaints = Rarely()


class Background:
    """One thread that works through a short queue. Nothing that fails in it reaches anyone but the log."""

    def __init__(self) -> None:
        self._jobs: queue.Queue[Callable[[], object]] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._calls: Counter[Credential] = Counter()
        self._limited: Counter[Credential] = Counter()
        self._counted_at = 0.0

    def submit(self, job: Callable[[], object]) -> None:
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            if _complaints.is_due():
                log.warning("passing_dropped", left_out=_complaints.left_out)
            return
        self._start()

    def count(self, key: Credential, *, is_limited: bool) -> None:
        """Written every COUNTED_EVERY seconds, because a write for each call would cost more than the call."""
        with self._lock:
            self._calls[key] += 1
            self._limited[key] += is_limited
        self._start()

    def write_counts(self) -> None:
        with self._lock:
            calls, limited = self._calls, self._limited
            self._calls, self._limited, self._counted_at = Counter(), Counter(), time.monotonic()
        for key, number in calls.items():
            count_calls(key, calls=number, limited=limited[key])

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="passing", daemon=True)
                self._thread.start()

    def _work(self) -> None:
        worked_at = time.monotonic()
        while True:
            with suppress(queue.Empty):
                run_quietly(self._jobs.get(timeout=COUNTED_EVERY))
                worked_at = time.monotonic()
            if time.monotonic() - self._counted_at >= COUNTED_EVERY:
                run_quietly(self.write_counts)
            connection.close_if_unusable_or_obsolete()
            if time.monotonic() - worked_at > IDLE and self._is_over():
                return

    def _is_over(self) -> bool:
        """The thread ends, and the next answer starts a new one."""
        connection.close()
        with self._lock:
            if self._jobs.empty() and not self._calls:
                self._thread = None
            return self._thread is None


def run_quietly(job: Callable[[], object]) -> None:
    try:
        job()
    except Exception:
        log.warning("passing_not_recorded", exc_info=True)


background = Background()


class _Seen:
    """Answers of the last seconds. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at: OrderedDict[bytes, float] = OrderedDict()

    def is_new(self, *parts: bytes) -> bool:
        digest, now = hashlib.blake2b(b"\0".join(parts), digest_size=16).digest(), time.monotonic()
        with self._lock:
            if now - self._at.get(digest, float("-inf")) < SAME_FOR:
                return False
            self._at[digest] = now
            self._at.move_to_end(digest)
            if len(self._at) > MOST_KNOWN:
                self._at.popitem(last=False)
        return True


_seen = _Seen()


def note(key: Credential, path: Sequence[str], answer: RawAnswer, started: datetime) -> None:
    """Record later what this answer shows. `started`: when its request began."""
    if answer.status != 200 or not (path[0] == "task-runs" or path[0] == "tasks"):
        return
    if _seen.is_new(key.pk.bytes, "/".join(path).encode(errors="replace"), answer.body):
        background.submit(partial(record, key.pk, key.endpoint, tuple(path), answer.body, started))


def record(key_id: uuid.UUID, endpoint: str, path: tuple[str, ...], body: bytes, started: datetime) -> None:
    """Write what the answer shows into the mirror of the key's team. Raises Unreadable, DatabaseError."""
    key = Credential.objects.live().filter(pk=key_id, endpoint=endpoint).first()
    if key is None:
        return
    data = parsed(body)
    match path:
        case ("tasks",):
            record_listed(key, Page.from_json(data, member="tasks", item=WireTask.from_json).items[:MOST_ITEMS])
        case ("tasks", task_id):
            record_listed(key, [wire] if (wire := WireTask.from_json(data)).id == task_id else [])
        case ("tasks", task_id, "runs"):
            page = Page.from_json(data, member="task_runs", item=WireRun.from_json)
            _record_runs(key, task_id, page.items[:MOST_ITEMS], started)
        case ("task-runs", run_id):
            record_run(key, run_id, WireRun.from_json(data), started)


def record_run(key: Credential, run_id: str, seen: WireRun, started: datetime) -> Run | None:
    """None if the answer is about another run, or none that the mirror could store."""
    if seen.id != run_id or not (fits_an_index(seen.id) and fits_an_index(seen.task_id or "")):
        return None
    follow(key).note(seen.id, seen, started)
    with soft_commit():
        known = Run.objects.filter(team=key.team_id, endpoint=key.endpoint, arize_id=seen.id).first()
        if known is None:
            return mirror_one(key, seen, started)
        record_observation(known, seen, started)
    return known


def _record_runs(key: Credential, task_id: str, seen: Sequence[WireRun], started: datetime) -> None:
    if not fits_an_index(task_id):
        return
    own = [wire for wire in seen if wire.task_id in {None, task_id}]
    mine = {"team_id": key.team_id, "endpoint": key.endpoint, "arize_id": task_id}
    task, _ = Task.objects.get_or_create(**mine, defaults={"credential": key})
    followed = follow(key)
    for wire in own:
        followed.note(wire.id, wire, started)
    with soft_commit():
        record_readings([Reading(task, own, started)])


def parsed(body: bytes) -> Any:
    if sum(map(body.count, (b"{", b"[", b","))) > MOST_VALUES:
        raise Unreadable
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Unreadable from None
