"""A fake Arize: tasks, runs and cancels as its REST API v2 documents them, with faults. Independent of the sandbox.

It knows the truth about each run: what happened to it, and which cancel did it.
"""

import base64
import contextlib
import json
import math
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from tests.chaos.plan import KEYS, TASKS, TEAMS, Event, Kind, RunPlan, run_plan, tasks_of
from tests.chaos.record import ITSELF, OUTSIDE, Answer, Arrival, Call, Reading, Span, TrueRun

TEAM_OF = {key: team for team, keys in TEAMS.items() for key in keys}
# The panel waits this long for an answer (seconds): 12 for a cancel, 4 when it reads a run again.
PATIENCE = 11.0
LASTING = (*(key for key in KEYS if key not in {"north", "held"}),)  # keys with runs that never end
_FAULTS = (429, 500, 502, 503)
_TITLES = {400: "Bad Request", 401: "Authentication required", 403: "Access forbidden", 404: "Resource not found"}


class Looks(Protocol):
    """What the panel's database says when a cancel arrives."""

    def open_operation(self, run: str) -> str: ...

    def requested(self, run: str) -> tuple[str, ...]: ...


@dataclass
class _Run:
    """A run with what will happen to it. `ends_at`: by itself; `stops_at`: because of the cancel `stopped_by`."""

    truth: TrueRun
    task: str
    plan: RunPlan
    ends_at: float
    stops_at: float = math.inf
    stopped_by: str = ""


@dataclass
class _Answered:
    status: int
    document: Any
    what: Answer = Answer.LOST
    headers: dict[str, str] = field(default_factory=dict)


class Cut(Exception):
    """The connection ends here. `after`: this much of the answer was sent, from 0 to 1."""

    def __init__(self, after: float) -> None:
        super().__init__(after)
        self.after = after


class World:
    """Tasks and runs, the disturbances of this moment, and the log of all requests. Thread-safe."""

    def __init__(self, seed: int, looks: Looks) -> None:
        self.seed = seed
        self.looks = looks
        self.lock = threading.RLock()
        self.runs: dict[str, _Run] = {}
        self.runs_of: dict[str, list[str]] = {task: [] for key in KEYS for task in tasks_of(key)}
        self.arrivals: list[Arrival] = []
        self.calls: list[Call] = []
        self.spans: list[Span] = []
        self.in_flight = 0
        self._asked: dict[str, int] = defaultdict(int)

    # --- What happens at Arize

    def give_birth(self, task: str, *, lasting: bool = False) -> str:
        now, key = time.time(), task.split("/", maxsplit=1)[0]
        with self.lock:
            number = len(self.runs_of[task]) + 1
            id_ = base64.b64encode(f"TaskRun:{task}:{number}".encode()).decode()
            plan = run_plan(self.seed, id_)
            truth = TrueRun(id_, TEAM_OF[key], key, now, "pending")
            truth.takes_cancels = plan.takes in {"at_once", "slowly"}
            self.runs[id_] = _Run(truth, task, plan, math.inf if lasting else now + plan.ends_after)
            self.runs_of[task].insert(0, id_)
        return id_

    def cancel_from_outside(self, key: str, chance: float) -> None:
        with self.lock:
            active = self.active(key)
            run = self.runs[active[int(chance * len(active))]] if active else None
            if run is not None and run.stops_at == math.inf:
                self._end(run, "cancelled", OUTSIDE, time.time())

    def disturb(self, event: Event) -> None:
        now = time.time()
        with self.lock:
            self.spans.append(Span(event.kind, event.whom, now, now + event.lasts))

    def calm_down(self) -> None:
        """End all disturbances. A run that would end within a minute ends now; the others run forever."""
        now = time.time()
        with self.lock:
            self.spans = [Span(it.what, it.whom, it.start, min(it.end, now)) for it in self.spans]
            for run in self.runs.values():
                run.ends_at = min(run.ends_at, now + 2) if run.ends_at < now + 60 else math.inf

    def active(self, key: str) -> list[str]:
        """The active runs of a key, oldest first."""
        with self.lock:
            return [id_ for id_, run in self.runs.items() if run.truth.key == key and self._now(run).is_active]

    def truths(self) -> dict[str, TrueRun]:
        with self.lock:
            return {id_: self._now(run) for id_, run in self.runs.items()}

    def is_stopping(self) -> bool:
        """Whether a cancel is still to take effect."""
        with self.lock:
            return any(self._now(run).is_active and run.stops_at < math.inf for run in self.runs.values())

    def _now(self, run: _Run) -> TrueRun:
        """The truth about a run, after what was due has happened."""
        now, truth = time.time(), run.truth
        if truth.is_active and min(run.ends_at, run.stops_at) <= now:
            if run.stops_at <= run.ends_at:
                self._end(run, "cancelled", run.stopped_by, run.stops_at)
            else:
                self._end(run, run.plan.end, ITSELF, run.ends_at)
        elif truth.status == "pending" and now >= truth.born + run.plan.pending_for:
            truth.status = "running"
        return truth

    def _end(self, run: _Run, status: str, by: str, at: float) -> None:
        run.truth.status, run.truth.ended_by, run.truth.ended_at = status, by, at

    # --- Requests

    def note(self, key: str, method: str, parts: list[str]) -> Arrival | None:
        """Note that a request has arrived, before anything else happens to it. Returns a cancel's arrival."""
        if method == "POST" and len(parts) == 3 and parts[::2] == ["task-runs", "cancel"]:
            return self._note_cancel(parts[1])
        run = parts[1] if len(parts) == 2 and parts[0] == "task-runs" else ""
        with self.lock:
            self.calls.append(Call(key, time.time(), run, is_hung=self._span(key, Kind.HANG) is not None))
        return None

    def answer(
        self, key: str, method: str, parts: list[str], query: dict[str, str], arrival: Arrival | None
    ) -> _Answered:
        """Answer a request as the disturbances of this moment say. May take as long as they do. Raises Cut."""
        hung = self._span(key, Kind.HANG)
        if hung is not None:
            self._wait_for_end(hung)
            raise Cut(0)
        return self._disturbed(key, method, parts, query, arrival)

    def _note_cancel(self, run: str) -> Arrival:
        requested = self.looks.requested(run)
        operation = self.looks.open_operation(run)
        with self.lock:
            arrival = Arrival(len(self.arrivals) + 1, run, time.time(), operation, requested)
            self.arrivals.append(arrival)
        return arrival

    def _disturbed(
        self, key: str, method: str, parts: list[str], query: dict[str, str], arrival: Arrival | None
    ) -> _Answered:
        """The answer under the disturbances of this moment. Each request has its own, repeatable chance."""
        subject = "/".join([key, method, *parts])
        with self.lock:
            self._asked[subject] += 1
            chance = Random(f"{self.seed}:{subject}:{self._asked[subject]}")
        if self._span(key, Kind.BLIP):
            return _problem(401, Answer.REFUSED)
        if self._span(key, Kind.STORM) and chance.random() < 0.7:
            return self._in_a_storm(chance, key, parts, query, arrival)
        is_cut = self._span(key, Kind.CUT) is not None and chance.random() < 0.6
        cut_at = chance.choice((0.0, 0.5, 0.9)) if is_cut else 1.0
        if is_cut and chance.random() < 0.4:
            raise Cut(0)  # before it had an effect
        answer = self._answer(key, parts, query, arrival)
        if self._span(key, Kind.SLOW):
            time.sleep(chance.choice((0.3, 1.5, 5.0, 14.0 if arrival else 2.0)))
        if is_cut:
            raise Cut(cut_at)
        return answer

    def _in_a_storm(
        self, chance: Random, key: str, parts: list[str], query: dict[str, str], arrival: Arrival | None
    ) -> _Answered:
        status = chance.choice(_FAULTS)
        if status == 429:
            headers = {"Retry-After": str(chance.choice((1, 2, 5)))} if chance.random() < 0.7 else {}
            return _problem(429, Answer.LIMITED, headers)
        if chance.random() < 0.3:
            self._answer(key, parts, query, arrival)  # it has an effect, but nobody is told
        return _problem(status, Answer.LOST)

    def _span(self, key: str, kind: Kind) -> Span | None:
        now = time.time()
        with self.lock:
            mine = (it for it in self.spans if it.what == kind and it.whom == key)
            return next((it for it in mine if it.start <= now < it.end), None)

    def _wait_for_end(self, span: Span) -> None:
        while self._span(span.whom, Kind(span.what)) is not None:
            time.sleep(0.1)

    def _answer(self, key: str, parts: list[str], query: dict[str, str], arrival: Arrival | None) -> _Answered:
        with self.lock:
            match parts:
                case ["spaces"]:
                    return self._page(key, "spaces", [{"id": f"space-{key}", "name": f"Space {key}"}], query)
                case ["tasks"]:
                    return self._page(key, "tasks", [self._task(task) for task in tasks_of(key)], query)
                case ["tasks", task, "runs"] if task in tasks_of(key):
                    runs = [self._run(id_) for id_ in self.runs_of[task]]
                    wanted = [run for run in runs if run["status"] == query.get("status", run["status"])]
                    return self._page(key, "task_runs", wanted, query)
                case ["task-runs", run] if self._sees(key, run):
                    return _Answered(200, self._run(run))
                case ["task-runs", run, "cancel"] if self._sees(key, run) and arrival is not None:
                    return self._cancel(self.runs[run], arrival)
        return _problem(404, Answer.REFUSED)

    def _sees(self, key: str, run: str) -> bool:
        return run in self.runs and self.runs[run].truth.key == key

    def _cancel(self, run: _Run, arrival: Arrival) -> _Answered:
        truth, now = self._now(run), time.time()
        if not truth.is_active:
            if arrival.number % 5 == 0 and truth.status != "cancelled":
                return _Answered(200, self._run(truth.id), Answer.ENDED)
            detail = f"Cannot cancel a run with status '{truth.status}'"
            return _problem(409 if arrival.number % 5 == 1 else 400, Answer.ENDED, detail=detail)
        if run.plan.takes == "forbidden":
            return _problem(403, Answer.REFUSED)
        if run.plan.takes == "at_once":
            self._end(run, "cancelled", str(arrival.number), now)
            return _Answered(200, self._run(truth.id), Answer.CANCELLED)
        if run.plan.takes == "slowly" and run.stops_at == math.inf:
            run.stops_at, run.stopped_by = now + run.plan.stops_after, str(arrival.number)
        return _Answered(200, self._run(truth.id), Answer.STOPPING)

    def _task(self, task: str) -> dict[str, Any]:
        newest = self.runs_of[task][:1]
        # One task in four has no moving `last_run_at`: it is only a hint.
        has_hint = bool(newest) and not task.endswith("3")
        last = _moment(self.runs[newest[0]].truth.born) if has_hint else None
        return {"id": task, "name": f"Task {task}", "type": "TEMPLATE_EVALUATION", "last_run_at": last}

    def _run(self, id_: str) -> dict[str, Any]:
        run = self.runs[id_]
        truth = self._now(run)
        started = _moment(truth.born + run.plan.pending_for) if truth.status != "pending" else None
        return {
            "id": id_,
            "task_id": run.task,
            "status": truth.status.upper(),
            "created_at": _moment(truth.born),
            "run_started_at": started,
            "run_finished_at": None if truth.is_active else _moment(truth.ended_at),
            "num_successes": 10,
            "num_errors": 0,
            "num_skipped": 0,
        }

    def _page(self, key: str, member: str, items: list[Any], query: dict[str, str]) -> _Answered:
        """A keyset page. While lists repeat, the cursor leads to the same page again."""
        after, limit = query.get("cursor", ""), int(query.get("limit", "50"))
        start = next((at + 1 for at, item in enumerate(items) if item["id"] == after), 0)
        page = items[start : start + limit]
        if self._span(key, Kind.REPEAT):
            return _Answered(200, {member: page[:20], "pagination": {"has_more": True, "next_cursor": "again"}})
        has_more = start + limit < len(items)
        pagination = {"has_more": has_more} | ({"next_cursor": page[-1]["id"]} if has_more else {})
        return _Answered(200, {member: page, "pagination": pagination})

    def note_delivered(self, document: Any, arrival: Arrival | None, answered: _Answered, arrived: float) -> None:
        """The whole answer was sent to a client that still listened."""
        now = time.time()
        with self.lock:
            if arrival is not None:
                arrival.is_delivered = now - arrived < PATIENCE
            if answered.status == 200:
                shown = document.get("task_runs", [document] if "task_id" in document else [])
                for run in shown:
                    self.runs[run["id"]].truth.readings.append(Reading(arrived, now, run["status"].lower()))


def _problem(status: int, what: Answer, headers: dict[str, str] | None = None, *, detail: str = "") -> _Answered:
    document = {"status": status, "title": _TITLES.get(status, "Error"), "detail": detail}
    return _Answered(status, document, what, headers or {})


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False
    world: World


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: _Server

    def do_GET(self) -> None:
        world, arrived = self.server.world, time.time()
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        key = self.headers.get("Authorization", "").removeprefix("Bearer ak-chaos-")
        parts = [unquote(part) for part in url.path.split("/")[2:]]
        with world.lock:
            world.in_flight += 1
        arrival: Arrival | None = None
        try:
            arrival = world.note(key, self.command, parts)
            answered = world.answer(key, self.command, parts, query, arrival)
            if arrival is not None:
                arrival.answer = answered.what
            if self._send(answered, 1):
                world.note_delivered(answered.document, arrival, answered, arrived)
        except Cut as cut:
            self._send(_Answered(200, {"cut": "x" * 2000}), cut.after)
        finally:
            with world.lock:
                world.in_flight -= 1
                if arrival is not None:
                    arrival.done = time.time()

    def do_POST(self) -> None:
        self.do_GET()

    def _send(self, answered: _Answered, share: float) -> bool:
        """Whether all of it was sent to a client that was still there. A share below 1 ends the connection."""
        body = json.dumps(answered.document).encode()
        lines = [f"HTTP/1.1 {answered.status} X", "Content-Type: application/json", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in answered.headers.items()]
        raw = ("\r\n".join(lines) + "\r\n\r\n").encode() + body
        try:
            is_there = not _is_closed(self.connection)
            self.wfile.write(raw[: int(share * len(raw))])
            self.wfile.flush()
        except OSError:
            is_there = False
        if share < 1:
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        return is_there and share == 1

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def _is_closed(connection: socket.socket) -> bool:
    readable, _, _ = select.select([connection], [], [], 0)
    return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""


class Arize:
    """The server of a world on a port of its own, which it can leave and take again."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._lock = threading.Lock()
        self._server: _Server | None = None
        self._port = 0
        self.listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def listen(self) -> None:
        with self._lock:
            if self._server is not None:
                return
            self._server = _Server(("127.0.0.1", self._port), _Handler)
            self._server.world = self.world
            self._port = self._server.server_port
            threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop_listening(self) -> None:
        """New connections are refused; open ones go on."""
        with self._lock:
            if self._server is not None:
                self._server.shutdown()
                self._server.server_close()
                self._server = None


@contextlib.contextmanager
def serving(world: World) -> Iterator[Arize]:
    arize = Arize(world)
    for key in KEYS:
        for task in tasks_of(key)[: TASKS[key]]:
            for _ in range(2):
                world.give_birth(task, lasting=key in LASTING)
    try:
        yield arize
    finally:
        world.calm_down()
        arize.stop_listening()
