"""Faults that are put in on purpose: slow answers, error answers, cut connections."""

import random
import re
import threading
from dataclasses import dataclass, field

from taskruns.sandbox.fields import Fields, read_fields
from taskruns.sandbox.messages import Answer, Request, problem_answer
from taskruns.sandbox.problems import Problem

_KNOWN = (
    "method",
    "path",
    "path_regex",
    "key",
    "latency_ms",
    "latency_at",
    "status",
    "headers",
    "title",
    "detail",
    "body",
    "cut",
    "count",
    "share",
)
_BEFORE_AFTER = ("before", "after")
_ANSWER_ONLY = ("headers", "title", "detail", "body")
# What the server itself must say about its answer.
_FRAMING = {"content-length", "transfer-encoding", "connection"}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_LONGEST_LATENCY_MS = 600_000


@dataclass(frozen=True, slots=True)
class Match:
    method: str | None
    path: str | None
    path_regex: re.Pattern[str] | None
    key: str | None

    def meets(self, request: Request) -> bool:
        return (
            self.method in {None, request.method}
            and (self.path or "") in request.path
            and (self.path_regex is None or self.path_regex.search(request.path) is not None)
            and self.key in {None, request.bearer}
        )


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """A problem document, or `body` as it stands (a gateway's HTML page, an empty or a broken answer)."""

    status: int
    headers: dict[str, str]
    title: str | None
    detail: str | None
    body: str | None

    def answer(self, request: Request, *, request_id: str) -> Answer:
        if self.body is not None:
            return Answer(self.status, self.body.encode(), {"Content-Type": "text/html", **self.headers})
        problem = Problem(self.status, self.detail or "A fault of the sandbox.", self.title, self.headers)
        return problem_answer(problem, instance=request.path, request_id=request_id)


@dataclass(frozen=True, slots=True)
class Fault:
    match: Match
    latency_ms: int
    latency_at: str
    error: ErrorAnswer | None
    cut: str | None
    count: int | None
    share: float | None
    document: dict[str, object]

    def delay_ms(self, moment: str) -> int:
        return self.latency_ms if self.latency_at == moment else 0


@dataclass(slots=True)
class _Entry:
    number: int
    fault: Fault
    matched: int = 0
    fired: int = 0

    def is_due(self, *, seed: int) -> bool:
        """Counts the match. A share is drawn from the seed and this counter: the same requests meet it again."""
        self.matched += 1
        if self.fault.share is not None:
            return random.Random(f"{seed}:fault:{self.number}:{self.matched}").random() < self.fault.share
        return self.fault.count is None or self.fired < self.fault.count


@dataclass(slots=True)
class Faults:
    """In order of arrival; the first that matches and is due meets the request, at most one a request."""

    seed: int
    _entries: list[_Entry] = field(default_factory=list)
    _added: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, faults: list[Fault]) -> list[int]:
        """Returns their numbers."""
        with self._lock:
            entries = [_Entry(self._added + place, fault) for place, fault in enumerate(faults, start=1)]
            self._added += len(entries)
            self._entries.extend(entries)
        return [entry.number for entry in entries]

    def remove_all(self) -> None:
        with self._lock:
            self._entries.clear()

    def draw(self, request: Request) -> tuple[int, Fault] | None:
        """The number and the fault that meets this request."""
        with self._lock:
            for entry in self._entries:
                if entry.fault.match.meets(request) and entry.is_due(seed=self.seed):
                    entry.fired += 1
                    return entry.number, entry.fault
        return None

    def listing(self) -> list[dict[str, object]]:
        with self._lock:
            return [
                {"n": entry.number, **entry.fault.document, "matched": entry.matched, "fired": entry.fired}
                for entry in self._entries
            ]


def read_faults(document: object) -> list[Fault]:
    """One fault, or `{"faults": [...]}`. Raises Problem 400, and then none of them counts."""
    if isinstance(document, dict) and "faults" in document:
        several = read_fields(document, known=("faults",)).document["faults"]
        if not isinstance(several, list):
            raise Problem(400, "faults must be a list.")
        return [_read_fault(one) for one in several]
    return [_read_fault(document)]


def _read_fault(document: object) -> Fault:
    fields = read_fields(document, known=_KNOWN)
    fault = Fault(
        match=_read_match(fields),
        latency_ms=fields.whole("latency_ms", least=0, most=_LONGEST_LATENCY_MS) or 0,
        latency_at=fields.choice("latency_at", _BEFORE_AFTER) or "before",
        error=_read_error(fields),
        cut=fields.choice("cut", _BEFORE_AFTER),
        count=fields.whole("count", least=1, most=1_000_000),
        share=fields.number("share", least=0, most=1),
        document=_redacted(fields),
    )
    _demand_sense(fault)
    return fault


def _demand_sense(fault: Fault) -> None:
    if not (fault.latency_ms or fault.error or fault.cut):
        raise Problem(400, "A fault needs at least one of latency_ms, status and cut.")
    if fault.error and fault.cut:
        raise Problem(400, "A fault has either a status or a cut: a cut connection carries no answer.")
    if fault.count is not None and fault.share is not None:
        raise Problem(400, "A fault has either a count or a share.")


def _read_match(fields: Fields) -> Match:
    method = fields.text("method")
    return Match(
        method=method and method.upper(),
        path=fields.text("path"),
        path_regex=_read_regex(fields.text("path_regex")),
        key=fields.text("key"),
    )


def _read_regex(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except (re.error, RecursionError, OverflowError):
        raise Problem(400, "path_regex is not a regular expression.") from None


def _read_error(fields: Fields) -> ErrorAnswer | None:
    status = fields.whole("status", least=200, most=599)
    if status is None:
        if any(name in fields.document for name in _ANSWER_ONLY):
            raise Problem(400, f"{', '.join(_ANSWER_ONLY)} need a status.")
        return None
    return ErrorAnswer(
        status=status,
        headers=_read_headers(fields),
        title=fields.text("title"),
        detail=fields.text("detail"),
        body=fields.text("body"),
    )


def _read_headers(fields: Fields) -> dict[str, str]:
    headers = fields.texts("headers")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value) or name.lower() in _FRAMING:
            raise Problem(400, f"The header {name!r} cannot be sent.")
    return headers


def _redacted(fields: Fields) -> dict[str, object]:
    return {name: "…" if name == "key" else value for name, value in fields.document.items()}
