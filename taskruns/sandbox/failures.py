"""Injected faults: slow, wrong or no answers, cut connections, cancels without effect. `controls.py` describes them."""

import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .messages import Answer, Problem, Request, problem_answer
from .runs import CancelEffect

HANGS_FOR_MS = 600_000
_CANCEL = re.compile(r"^/v2/task-runs/[^/]+/cancel/?$")


@dataclass(frozen=True, slots=True)
class Match:
    method: str | None
    path: str | None
    path_regex: re.Pattern[str] | None
    key: str | None

    def matches(self, request: Request) -> bool:
        return (
            self.method in {None, request.method}
            and (self.path or "") in request.path
            and (self.path_regex is None or self.path_regex.search(request.path) is not None)
            and self.key in {None, request.bearer}
        )


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """A problem document, or `body` unchanged (a gateway's HTML page, an empty or broken answer)."""

    status: int
    headers: dict[str, str]
    title: str | None
    detail: str | None
    body: str | None

    def answer(self, request: Request, real: Answer | None, *, request_id: str) -> Answer:
        del real  # replaced by the error
        if self.body is not None:
            return Answer(self.status, self.body.encode(), {"Content-Type": "text/html", **self.headers})
        problem = Problem(self.status, self.detail or "A fault of the sandbox.", self.title, self.headers)
        return problem_answer(problem, instance=request.path, request_id=request_id)


@dataclass(frozen=True, slots=True)
class MalformedAnswer:
    """Truncated JSON: the first half of the real answer, or the start of a run if there is none."""

    def answer(self, request: Request, real: Answer | None, *, request_id: str) -> Answer:
        del request, request_id
        body = b'{"id": "VGFza1J1' if real is None else real.body[: len(real.body) // 2]
        return Answer(200, body, {"Content-Type": "application/json"})


@dataclass(frozen=True, slots=True)
class Fault:
    """`replacement` is sent instead of doing the work, or with `answer_at` "after" instead of the real answer."""

    match: Match
    latency_ms: int
    latency_at: str
    replacement: ErrorAnswer | MalformedAnswer | None
    answer_at: str
    cut: str | None
    hang: str | None
    cancel: CancelEffect | None
    count: int | None
    share: float | None
    per_second: float | None
    document: dict[str, object]

    def matches(self, request: Request) -> bool:
        """A fault that changes a cancel matches cancels only."""
        is_cancel = request.method == "POST" and _CANCEL.search(request.path) is not None
        return self.match.matches(request) and (self.cancel is None or is_cancel)

    def delay_ms(self, moment: str) -> int:
        if self.hang == moment:
            return HANGS_FOR_MS
        return self.latency_ms if self.latency_at == moment else 0

    @property
    def prevents_work(self) -> bool:
        return self.replacement is not None and self.answer_at == "before"

    def answer(self, request: Request, real: Answer | None, *, request_id: str) -> Answer:
        """`real` is None for a fault that prevents work."""
        if self.replacement is not None:
            return self.replacement.answer(request, real, request_id=request_id)
        if real is None:
            message = "only a replacement prevents work"
            raise ValueError(message)
        return real


class RateLimit:
    """A token bucket that holds one second of requests and refills evenly, so a steady rate is never refused."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._capacity = max(1.0, per_second)
        self._tokens = self._capacity
        self._at: float | None = None

    def allows(self, now: float) -> bool:
        """`now`: seconds of any monotonic clock. Not thread-safe."""
        if self._at is not None:
            self._tokens = min(self._capacity, self._tokens + (now - self._at) * self._per_second)
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@dataclass(slots=True)
class _Entry:
    number: int
    fault: Fault
    limit: RateLimit | None
    matched: int = 0
    fired: int = 0

    def is_due(self, *, seed: int, now: float) -> bool:
        """Count the match. A share is drawn from the seed and this counter, so it is the same in every world."""
        self.matched += 1
        if self.fault.share is not None:
            return random.Random(f"{seed}:fault:{self.number}:{self.matched}").random() < self.fault.share
        if self.fault.count is not None and self.fired >= self.fault.count:
            return False
        return self.limit is None or not self.limit.allows(now)


@dataclass(slots=True)
class Faults:
    """Faults in order of arrival. Only the first that matches and is due is applied to a request."""

    seed: int
    seconds: Callable[[], float] = time.monotonic
    _entries: list[_Entry] = field(default_factory=list)
    _added: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, faults: list[Fault]) -> list[int]:
        """Add the faults and return their numbers."""
        with self._lock:
            entries = [_entry(self._added + place, fault) for place, fault in enumerate(faults, start=1)]
            self._added += len(entries)
            self._entries.extend(entries)
        return [entry.number for entry in entries]

    def remove_all(self) -> None:
        with self._lock:
            self._entries.clear()

    def pick(self, request: Request) -> tuple[int, Fault] | None:
        """The fault to apply to this request, with its number."""
        with self._lock:
            now = self.seconds()
            for entry in self._entries:
                if entry.fault.matches(request) and entry.is_due(seed=self.seed, now=now):
                    entry.fired += 1
                    return entry.number, entry.fault
        return None

    def listing(self) -> list[dict[str, object]]:
        with self._lock:
            return [
                {"n": entry.number, **entry.fault.document, "matched": entry.matched, "fired": entry.fired}
                for entry in self._entries
            ]


def _entry(number: int, fault: Fault) -> _Entry:
    return _Entry(number, fault, None if fault.per_second is None else RateLimit(fault.per_second))
