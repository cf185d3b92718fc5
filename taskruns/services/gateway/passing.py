"""Records the runs and tasks that an answer to a script shows, and counts the calls of scripts.

After the answer, in one thread of the process: the script waits for neither. What the thread has no
time to write is dropped, because the mirror reads it anyway.
"""

import hashlib
import json
import threading
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import structlog
from django.utils import timezone

from taskruns.arize.client import MOST_VALUES, RawAnswer
from taskruns.arize.errors import Unreadable
from taskruns.arize.paging import Page
from taskruns.arize.wire import WireRun, WireTask
from taskruns.models import Credential, Run, Task
from taskruns.models.stamps import is_recent
from taskruns.services.background import Background
from taskruns.services.cancellations import follow
from taskruns.services.credentials.client import count as count_calls
from taskruns.services.minor_writes import soft_commit
from taskruns.services.mirror.lookup import mirror_one
from taskruns.services.mirror.tasks import record_listed
from taskruns.services.rare_lines import Rarely
from taskruns.services.runs.observations import Reading, fits_an_index, record_observation, record_readings

log = structlog.get_logger(__name__)
MOST_ITEMS = 100  # of one answer; Arize's longest page
# An answer that repeats is not recorded again for this long, however many scripts ask for it.
SAME_FOR = 5.0  # seconds
MOST_KNOWN = 1_000
# An active run that was read within this time is as fresh as a board needs.
READ_JUST_NOW = timedelta(seconds=10)
_complaints = Rarely()


class _Counts:
    """Calls to be counted. Written about once a second, because a write for each would cost more than the call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: Counter[Credential] = Counter()
        self._limited: Counter[Credential] = Counter()

    def add(self, key: Credential, *, is_limited: bool) -> None:
        with self._lock:
            self._calls[key] += 1
            self._limited[key] += is_limited
        background.start()

    def write(self) -> None:
        with self._lock:
            calls, limited = self._calls, self._limited
            self._calls, self._limited = Counter(), Counter()
        for key, number in calls.items():
            count_calls(key, calls=number, limited=limited[key])


counts = _Counts()
background = Background("passing", regular=counts.write)


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
        job = partial(record, key.pk, key.endpoint, tuple(path), answer.body, started)
        if not background.submit(job) and _complaints.is_due():
            log.warning("passing_dropped", left_out=_complaints.left_out)


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
    """None if the answer is about another run, or about one that the mirror cannot store."""
    if seen.id != run_id or not (fits_an_index(seen.id) and fits_an_index(seen.task_id or "")):
        return None
    if known_already := _unchanged(key, [seen]):
        return Run.objects.get(pk=known_already[seen.id])
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
    unchanged = _unchanged(key, own)
    own = [wire for wire in own if wire.id not in unchanged]
    if not own:
        return
    mine = {"team_id": key.team_id, "endpoint": key.endpoint, "arize_id": task_id}
    task, _ = Task.objects.get_or_create(**mine, defaults={"credential": key})
    followed = follow(key)
    for wire in own:
        followed.note(wire.id, wire, started)
    with soft_commit():
        record_readings([Reading(task, own, started)])


def _unchanged(key: Credential, seen: Sequence[WireRun]) -> dict[str, uuid.UUID]:
    """The runs that need no write, by Arize id: the mirror has them like this, and they have ended or were just read.

    A read costs little, but on SQLite each write blocks all others.
    """
    now, raw = timezone.now(), {wire.id: json.dumps(wire.raw) for wire in seen}
    rows = Run.objects.filter(team=key.team_id, endpoint=key.endpoint, arize_id__in=raw)
    found = rows.values_list("arize_id", "pk", "as_read", "rank", "observed_at")
    return {
        id_: pk
        for id_, pk, as_read, rank, observed_at in found
        if as_read == raw[id_] and (rank == 0 or is_recent(observed_at, now, READ_JUST_NOW))
    }


def parsed(body: bytes) -> Any:
    if sum(map(body.count, (b"{", b"[", b","))) > MOST_VALUES:
        raise Unreadable
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Unreadable from None
