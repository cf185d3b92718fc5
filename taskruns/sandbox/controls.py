"""Under /sandbox (no key; JSON in, JSON out; unknown members and invalid values give 400 with an explanation):

POST /sandbox/faults      adds one fault, or several as `{"faults": [..]}`; answers 201 `{"added": [numbers]}`
    which requests        `method`, `path` (part of the raw path, without the query), `path_regex`, `key`;
                          all optional
    what happens          `latency_ms`, with `latency_at` "before" (default) or "after" the work;
                          and one of
                          `status` with `headers`, `title`, `detail` or a raw `body`;
                          `answer` "html" (a gateway's 502 page) or "malformed" (200 with truncated JSON);
                          both with `answer_at` "before" (default: no work is done) or "after" the work;
                          `cut` "before" (no work is done) or "after" (work done, connection closed without an answer);
                          `hang` "before" or "after": no answer, the connection stays open for up to 10 min
    what a cancel does    `cancel_takes_seconds` (200, and the run is cancelled after that much simulated time),
                          `cancel` "ignored" (200, and the run continues) or "only_claimed" (200 with CANCELLED,
                          but the run continues); these match cancels only
    how often             `count` (the first N) or `share` (0 to 1, drawn from the seed) or `per_second` (requests
                          above N per second of real time; alone it is a rate limit: 429 with Retry-After, after a
                          burst of N and then one request every 1/N s); without any of them: every time.
                          Only the first fault that matches and is due is applied. Faults apply before the key is
                          checked, as in a gateway.
GET /sandbox/faults       lists them, with how often each `matched` and `fired`
DELETE /sandbox/faults    removes all
GET /sandbox/requests     the requests outside /sandbox: `{"requests": [{n, at, method, path, query, headers,
                          status, fault, in_flight}], "total"}`; the last 10,000, newest last; keys redacted;
                          `status` is null if cut or not yet answered; `?method=` and `?path=` (a part) filter;
                          `total` counts all since the start
POST /sandbox/reset       resets world, clock, faults and requests
POST /sandbox/runs        `{"task": id or name, "status": "running", "count": 1, "failure_reason": text}` adds
                          runs now; active ones continue by themselves; answers 201 `{"runs": [..]}`, oldest first
PATCH /sandbox/runs/{id}  `{"status": .., "failure_reason": ..}` sets a run, which then no longer changes
POST /sandbox/webhook     `{"url": .., "secret": .., "auth": "hmac" or "bearer"}`: from now on, runs that these controls
                          make fail send Arize's webhook there; GET lists the attempts; DELETE stops it
POST /sandbox/inbox       keeps a message, for channels of the demo; GET shows the last 100 on a page
POST /sandbox/clock       `{"advance_seconds": n}` advances simulated time; GET shows it
"""

import math
import re
from collections.abc import Callable

from .catalogue import Task
from .failures import ErrorAnswer, Fault, Faults, MalformedAnswer, Match
from .inbox import Inbox
from .messages import Answer, Fields, Problem, Request, iso, json_answer
from .request_log import RequestLog
from .runs import CancelEffect, Status
from .webhook import Target, Webhook
from .wire import Wire, WireForm
from .world import Clock, World

MOST_ADDED = 1_000
_FARTHEST_ADVANCE_S = 31 * 86_400
_BEFORE_AFTER = ("before", "after")
_ANSWER_ONLY = ("headers", "title", "detail", "body")
_KNOWN = (
    *("method", "path", "path_regex", "key"),
    *("latency_ms", "latency_at", "status", *_ANSWER_ONLY, "answer", "answer_at", "cut", "hang"),
    *("cancel", "cancel_takes_seconds"),
    *("count", "share", "per_second"),
)
# Headers that the server itself must set.
_FRAMING = {"content-length", "transfer-encoding", "connection"}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_LONGEST_LATENCY_MS = 600_000
_LONGEST_CANCEL_S = 31 * 86_400
_HTML = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n"
_ANSWERS: dict[str, ErrorAnswer | MalformedAnswer] = {
    "html": ErrorAnswer(502, headers={}, title=None, detail=None, body=_HTML),
    "malformed": MalformedAnswer(),
}
_CANCELS = {
    "ignored": CancelEffect(after_ms=None),
    "only_claimed": CancelEffect(after_ms=None, claimed=True),
}


class Controls:
    def __init__(
        self, *, world: World, clock: Clock, faults: Faults, requests: RequestLog, reset: Callable[[], None]
    ) -> None:
        self._world = world
        self._clock = clock
        self._faults = faults
        self._requests = requests
        self._reset_all = reset
        self._webhook = Webhook()
        self._inbox = Inbox()
        self._spelling = WireForm(Wire.UPPER, clock=clock)
        self._routes: dict[str, dict[str, Callable[[Request], Answer]]] = {
            "faults": {"POST": self._add_faults, "GET": self._list_faults, "DELETE": self._remove_faults},
            "requests": {"GET": self._list_requests},
            "reset": {"POST": self._reset},
            "runs": {"POST": self._add_runs},
            "runs/{id}": {"PATCH": self._change_run},
            "webhook": {"POST": self._set_webhook, "GET": self._list_attempts, "DELETE": self._remove_webhook},
            "inbox": {"POST": self._inbox.take, "GET": self._inbox.show},
            "clock": {"GET": self._read_clock, "POST": self._move_clock},
        }

    def answer(self, request: Request) -> Answer:
        """Raises Problem for every answer that is not 2xx."""
        parts = request.segments[1:]
        methods = self._routes.get("runs/{id}" if len(parts) == 2 and parts[0] == "runs" else "/".join(parts))
        if methods is None:
            raise Problem(404, "There is no such control.")
        if request.method not in methods:
            allowed = ", ".join(methods)
            raise Problem(405, f"This control answers {allowed}.", headers={"Allow": allowed})
        return methods[request.method](request)

    def _add_faults(self, request: Request) -> Answer:
        return json_answer({"added": self._faults.add(read_faults(request.json()))}, status=201)

    def _list_faults(self, request: Request) -> Answer:
        del request  # all controls have the same signature
        return json_answer({"faults": self._faults.listing()})

    def _remove_faults(self, request: Request) -> Answer:
        del request
        self._faults.remove_all()
        return json_answer({"faults": []})

    def _list_requests(self, request: Request) -> Answer:
        parameters = request.parameters()
        method = parameters.one("method")
        return json_answer(self._requests.listing(method=method and method.upper(), path=parameters.one("path")))

    def _reset(self, request: Request) -> Answer:
        del request
        self._reset_all()
        return json_answer({"reset": True})

    def _add_runs(self, request: Request) -> Answer:
        fields = Fields.read(request.json(), known=("task", "status", "count", "failure_reason"))
        seen = self._world.add_runs(
            self._task(fields.text("task")),
            status=_read_status(fields) or Status.RUNNING,
            count=fields.whole("count", least=1, most=MOST_ADDED) or 1,
            failure_reason=fields.text("failure_reason"),
        )
        runs = [self._spelling.run(one) for one in seen]
        self._webhook.send([run for run in runs if _has_failed(run)])
        return json_answer({"runs": runs}, status=201)

    def _change_run(self, request: Request) -> Answer:
        fields = Fields.read(request.json(), known=("status", "failure_reason"))
        seen = self._world.find_run(request.segments[2])
        if seen is None:
            raise Problem(404, "There is no such run.")
        changed = self._world.pin(seen.run, status=_read_status(fields), failure_reason=fields.text("failure_reason"))
        run = self._spelling.run(changed)
        self._webhook.send([run] if _has_failed(run) else [])
        return json_answer(run)

    def _set_webhook(self, request: Request) -> Answer:
        self._webhook.target = Target.read(request.json())
        return json_answer({"url": self._webhook.target.url}, status=201)

    def _list_attempts(self, request: Request) -> Answer:
        del request
        return json_answer({"attempts": self._webhook.attempts})

    def _remove_webhook(self, request: Request) -> Answer:
        self._webhook.target = None
        return self._list_attempts(request)

    def _read_clock(self, request: Request) -> Answer:
        del request
        now_ms = self._clock.now_ms()
        return json_answer({"simulated_seconds": now_ms / 1000, "shown_as": iso(self._clock.shown(now_ms))})

    def _move_clock(self, request: Request) -> Answer:
        fields = Fields.read(request.json(), known=("advance_seconds",))
        seconds = fields.number("advance_seconds", least=0, most=_FARTHEST_ADVANCE_S)
        if seconds is None:
            raise Problem(400, "advance_seconds is missing.")
        self._clock.advance(int(seconds * 1000))
        return self._read_clock(request)

    def _task(self, wanted: str | None) -> Task:
        task = next((task for task in self._world.tasks if wanted in {task.id, task.name}), None)
        if task is None:
            raise Problem(400, "task must be the id or the full name of a task.")
        return task


def _has_failed(run: dict[str, object]) -> bool:
    return run["status"] == Status.FAILED.value


def _read_status(fields: Fields) -> Status | None:
    status = fields.text("status")
    if status is None:
        return None
    if status.upper() in set(Status):
        return Status(status.upper())
    raise Problem(400, f"status must be one of {', '.join(one.lower() for one in Status)}.")


# Reading fault documents


def read_faults(document: object) -> list[Fault]:
    """One fault, or `{"faults": [...]}`. Raises Problem 400 if any is invalid."""
    if isinstance(document, dict) and "faults" in document:
        several = Fields.read(document, known=("faults",)).document["faults"]
        if not isinstance(several, list):
            raise Problem(400, "faults must be a list.")
        return [_read_fault(one) for one in several]
    return [_read_fault(document)]


def _read_fault(document: object) -> Fault:
    fields = Fields.read(document, known=_KNOWN)
    fault = Fault(
        match=_read_match(fields),
        latency_ms=fields.whole("latency_ms", least=0, most=_LONGEST_LATENCY_MS) or 0,
        latency_at=fields.choice("latency_at", _BEFORE_AFTER) or "before",
        replacement=_read_replacement(fields),
        answer_at=fields.choice("answer_at", _BEFORE_AFTER) or "before",
        cut=fields.choice("cut", _BEFORE_AFTER),
        hang=fields.choice("hang", _BEFORE_AFTER),
        cancel=_read_cancel(fields),
        count=fields.whole("count", least=1, most=1_000_000),
        share=fields.number("share", least=0, most=1),
        per_second=fields.number("per_second", least=0.01, most=10_000),
        document={name: "…" if name == "key" else value for name, value in fields.document.items()},
    )
    _check(fault, fields)
    return fault


def _check(fault: Fault, fields: Fields) -> None:
    """Raises Problem 400 for members that exclude each other."""
    endings = [ending for ending in (fault.replacement, fault.cut, fault.hang) if ending]
    if not (fault.latency_ms or fault.cancel or endings):
        raise Problem(
            400,
            "A fault needs at least one of latency_ms, status, answer, cut, hang, cancel, cancel_takes_seconds "
            "and per_second.",
        )
    if len(endings) > 1:
        raise Problem(400, "A fault can have only one of status, answer, cut and hang.")
    if fault.cancel and ("before" in {fault.cut, fault.hang} or fault.prevents_work):
        raise Problem(400, 'A fault that changes a cancel must let it happen: use "after" for cut, hang and answer_at.')
    if "answer_at" in fields.document and fault.replacement is None:
        raise Problem(400, "answer_at needs a status or an answer.")
    if fault.share is not None and (fault.count is not None or fault.per_second is not None):
        raise Problem(400, "A fault can have a share, or count and per_second, not both.")


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


def _read_replacement(fields: Fields) -> ErrorAnswer | MalformedAnswer | None:
    named = fields.choice("answer", _ANSWERS)
    error = _read_error(fields)
    if named is None:
        return error or _read_rate_limit(fields)
    if error is not None:
        raise Problem(400, "A fault can have only one of status and answer.")
    return _ANSWERS[named]


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


def _read_rate_limit(fields: Fields) -> ErrorAnswer | None:
    """A rate without any other effect means 429 for the requests above it."""
    per_second = fields.number("per_second", least=0.01, most=10_000)
    others = fields.document.keys() & {"latency_ms", "cut", "hang", "cancel", "cancel_takes_seconds"}
    if per_second is None or others:
        return None
    wait = {"Retry-After": str(math.ceil(1 / per_second))}
    return ErrorAnswer(429, wait, title=None, detail=f"More than {per_second:g} requests per second.", body=None)


def _read_cancel(fields: Fields) -> CancelEffect | None:
    named = fields.choice("cancel", _CANCELS)
    seconds = fields.number("cancel_takes_seconds", least=0, most=_LONGEST_CANCEL_S)
    if named is not None and seconds is not None:
        raise Problem(400, "A fault can have only one of cancel and cancel_takes_seconds.")
    if seconds is not None:
        return CancelEffect(after_ms=int(seconds * 1000))
    return None if named is None else _CANCELS[named]


def _read_headers(fields: Fields) -> dict[str, str]:
    headers = fields.texts("headers")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value) or name.lower() in _FRAMING:
            raise Problem(400, f"The header {name!r} cannot be sent.")
    return headers
