"""Carries out a plan: starts everything, disturbs it, lets it settle, and collects the record."""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from tests.channels.receivers import Receiver, cut, receiving, status
from tests.chaos.arize import Arize, World, serving
from tests.chaos.database import Database, Witness, id_of, json_of, seconds_of
from tests.chaos.panel import CALLS_PER_MINUTE, WATCHER, Panel, own_database
from tests.chaos.people import Person
from tests.chaos.plan import CALM, HELD, NORTH, TEAMS, Event, Kind, Plan
from tests.chaos.record import Click, Message, Poll, Record, Row, Span

POLLED_EVERY = 4.0  # seconds
AN_HOUR = 3600
# Let this much time pass at the end of a short run: more than any pause of the panel, and than a run may be stopping.
PASSES = 400
LOOKS_AFTER = 4.0  # seconds
LATE_AFTER = 20.0  # seconds
ROWS = (
    "SELECT seq, operation_id, run_id, outcome, actor_label, actor_type, reason, details, at FROM taskruns_auditevent"
)
MIRRORED = "SELECT arize_id FROM taskruns_run r JOIN taskruns_team t ON t.id = r.team_id WHERE t.slug = ?"
OPEN = "SELECT count(*) FROM taskruns_cancellation WHERE outcome = ''"
MARKED = "SELECT id FROM taskruns_cancellation WHERE posted_at IS NOT NULL"
UNTOLD = "SELECT count(*) FROM taskruns_runfact"
UNSENT = "SELECT count(*) FROM taskruns_delivery WHERE state <> 'sent'"
TO_TELL = (
    "SELECT arize_id FROM taskruns_run r JOIN taskruns_team t ON t.id = r.team_id "
    "WHERE t.slug = ? AND r.status IN ('failed', 'cancelled') AND r.ended_at >= (SELECT min(since) FROM taskruns_rule)"
)
UNFINISHED = "SELECT count(*) FROM taskruns_cancelbatch WHERE finished_at IS NULL AND state <> 'draft'"


@dataclass(frozen=True)
class Setting:
    """`settle`: the most seconds to wait at the end. `is_hurried`: move timestamps instead of waiting longer.

    `database`: a PostgreSQL server, or empty for SQLite. `queue`: empty, `redis:` or a url.
    """

    plan: Plan
    database: str = ""
    queue: str = ""
    settle: float = 180.0
    is_hurried: bool = False
    settings: str = ""
    logs: Path | None = None  # keep the processes' logs there


@dataclass
class _Seen:
    """What was collected while everything ran. Lists are thread-safe enough: they only grow."""

    clicks: list[Click] = field(default_factory=list)
    polls: list[Poll] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    mishaps: list[str] = field(default_factory=list)


class Driver:
    def __init__(self, setting: Setting, panel: Panel, arize: Arize, database: Database, receiver: Receiver) -> None:
        self.setting, self.panel, self.arize, self.database = setting, panel, arize, database
        self.receiver = receiver
        self.world = arize.world
        self.seen = _Seen()
        self.people = {name: Person(name, panel.urls) for name in ("oli", "ona", "olaf", "hans", WATCHER)}
        self._clicked = 0
        self._held_since = 0.0
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._restarts: list[tuple[float, str]] = []
        self._pool = ThreadPoolExecutor(16)

    # --- From start to end

    def run(self) -> Record:
        self._say("starting the panel")
        self.panel.prepare()
        self.panel.start_all()
        watcher = self.people[WATCHER]
        self.panel.wait_until_ready(watcher.is_served)
        for person in self.people.values():
            person.sign_in()
        self.panel.wait_until_ready(lambda: self._mirrored(NORTH) and self._mirrored(HELD))
        self._held_since = time.time()
        assert self.people["hans"].pull_stop(HELD) == 302, self.panel.logs()
        boards = threading.Thread(target=self._keep_boards_open)
        boards.start()
        try:
            self._carry_out(self.setting.plan.events())
            self._settle()
        finally:
            self._is_over.set()
            boards.join()
            self._pool.shutdown()
        return self._record()

    def _carry_out(self, events: list[Event]) -> None:
        began = time.time()
        self._say(f"{len(events)} events in {self.setting.plan.seconds:.0f} s")
        for event in events:
            self._wait_until(began + event.at)
            self._act(event)
        self._wait_until(began + self.setting.plan.seconds)

    def _wait_until(self, moment: float) -> None:
        """Restart killed processes that are due, and those that have ended by themselves."""
        while True:
            now = time.time()
            for due in [it for it in self._restarts if it[0] <= now]:
                self._restarts.remove(due)
                self.panel.start(due[1])
            for name in self.panel.restart_ended():
                self.seen.spans.append(Span("ended", name, now, now))
            if now >= moment:
                return
            time.sleep(min(0.1, moment - now))

    # --- Events

    def _act(self, event: Event) -> None:
        match event.kind:
            case Kind.BIRTH:
                self.world.give_birth(event.whom)
            case Kind.OUTSIDE:
                self.world.cancel_from_outside(event.whom, event.chance)
            case Kind.AWAY:
                self._note(event)
                self.arize.stop_listening()
                threading.Timer(event.lasts, self.arize.listen).start()
            case Kind.KILL_WORKER | Kind.KILL_WEB | Kind.KILL_REDIS:
                self._kill(event)
            case Kind.TERMINATE:
                self._note(event)
                self.database.terminate_connections()
            case Kind.JUMP:
                self._note(event)
                self.database.shift(AN_HOUR)
            case Kind.CLICK:
                self._click(event.chance, ("oli",))
            case Kind.CLICK_TOGETHER:
                self._click(event.chance, ("ona", "olaf"))
            case Kind.BATCH:
                self._later(self._cancel_matching, event.chance)
            case _:
                self.world.disturb(event)

    def _kill(self, event: Event) -> None:
        """Not if an earlier kill has it down still: it would be started twice."""
        if self.panel.kill(event.whom):
            self._note(event)
            self._restarts.append((time.time() + event.lasts, event.whom))

    def _note(self, event: Event) -> None:
        now = time.time()
        self.seen.spans.append(Span(event.kind, event.whom, now, now + event.lasts))

    def _click(self, chance: float, people: tuple[str, ...]) -> None:
        """Cancel one run that the board shows with a button. Several people click at the same moment."""
        rows = self.database.rows(
            "SELECT r.arize_id, r.id FROM taskruns_run r JOIN taskruns_team t ON t.id = r.team_id "
            "WHERE t.slug = ? AND r.rank = 1 AND NOT EXISTS "
            "(SELECT 1 FROM taskruns_cancellation c WHERE c.run_id = r.id AND c.outcome = '') ORDER BY r.sorted_at",
            (NORTH,),
        )
        if not rows:
            return
        run, run_uuid = rows[int(chance * len(rows))]
        for name in people:
            with self._lock:
                self._clicked += 1
                reason = f"click {self._clicked} of {name}"
            self._later(self._cancel_one, name, str(run), id_of(run_uuid), reason)

    def _cancel_one(self, name: str, run: str, run_uuid: str, reason: str) -> None:
        self.seen.clicks.append(self.people[name].click_cancel(NORTH, run, run_uuid, reason))

    def _cancel_matching(self, chance: float) -> None:
        """Cancel the active runs of one task, or of half the tasks."""
        query = {"task": f"{NORTH}/{int(chance * 6)}"} if chance < 0.7 else {"status": "running"}
        self.people["oli"].cancel_matching(NORTH, query, f"batch {chance}")

    def _later(self, act: Callable[..., None], *arguments: object) -> None:
        self._pool.submit(self._guarded, act, *arguments)

    def _guarded(self, act: Callable[..., None], *arguments: object) -> None:
        try:
            act(*arguments)
        except Exception as error:  # noqa: BLE001 - one person's mishap must not end the run, and is reported
            self.seen.mishaps.append(f"{act.__name__}: {error!r}")

    # --- Boards

    def _keep_boards_open(self) -> None:
        while not self._is_over.wait(POLLED_EVERY):
            for team in TEAMS:
                self._guarded(self._poll, team)

    def _poll(self, team: str) -> None:
        at = time.time()
        board = self.people[WATCHER].board(team)
        if board is None:
            return
        known = self._mirrored(team) if board.searched_at is not None else set()
        claimed = board.searched_at or 0.0
        truths = self.world.truths().values()
        missing = [run.id for run in truths if run.team == team and run.born < claimed and run.id not in known]
        self.seen.polls.append(Poll(team, at, board.searched_at, tuple(missing)))

    def _mirrored(self, team: str) -> set[str]:
        return {str(run) for (run,) in self.database.rows(MIRRORED, (team,))}

    # --- The end

    def _settle(self) -> None:
        self._say("disturbances end, settling")
        for _, name in self._restarts:
            self.panel.start(name)
        self._restarts.clear()
        self.arize.listen()
        self.world.calm_down()
        is_hurried = self.setting.is_hurried
        self._wait_for(self._is_settled, LOOKS_AFTER if is_hurried else self.setting.settle)
        if not self._is_settled():
            # A run that ignores its cancel is stopping for five minutes. A hurried run does not wait for anything else.
            self._wait_for(lambda: self.world.in_flight == 0, self.setting.settle)
            self.database.let_pass(PASSES, only_stopping=not is_hurried)
            self.panel.manage("sweep")
            deadline = time.time() + self.setting.settle
            while not self._is_settled() and time.time() < deadline:
                self._wait_for(self._is_settled, LATE_AFTER)
                # An emergency stop may cancel a run that ignores it only now.
                self.database.let_pass(PASSES, only_stopping=True)

    def _wait_for(self, condition: Callable[[], bool], within: float) -> None:
        deadline = time.time() + within
        while time.time() < deadline and not condition():
            self._wait_until(time.time() + 0.5)

    def _is_settled(self) -> bool:
        unfinished = (OPEN, UNFINISHED, UNTOLD, UNSENT)
        if self.world.is_stopping() or any(self.database.rows(query)[0][0] for query in unfinished):
            return False
        truths = self.world.truths()
        ended = {run.id for run in truths.values() if not run.is_active}
        if any(run.team == HELD and run.is_active and run.takes_cancels for run in truths.values()):
            return False
        open_unknown = self.database.rows(
            "SELECT r.arize_id FROM taskruns_cancellation c JOIN taskruns_run r ON r.id = c.run_id "
            "WHERE c.outcome = 'unknown'"
        )
        mirrored = dict(self.database.rows("SELECT arize_id, status FROM taskruns_run"))
        is_equal = mirrored == {run.id: run.status for run in truths.values()}
        return is_equal and not any(run in ended for (run,) in open_unknown)

    def _record(self) -> Record:
        self._say("collecting")
        boards = {}
        for team in TEAMS:
            found = self.people[WATCHER].board(team, most_pages=200)
            boards[team] = found.statuses if found is not None else {}
        self.panel.end_all()
        if self.panel.has_redis:
            self.panel.start("redis")
        code, report = self.panel.manage("verify_audit")
        for mishap in self.seen.mishaps:
            self._say(mishap)
        world = self.world
        return Record(
            runs=world.truths(),
            arrivals=world.arrivals,
            calls=world.calls,
            rows=self._rows(),
            outcomes={
                id_of(operation): outcome
                for operation, outcome in self.database.rows("SELECT id, outcome FROM taskruns_cancellation")
            },
            marked=frozenset(id_of(operation) for (operation,) in self.database.rows(MARKED)),
            clicks=self.seen.clicks,
            polls=self.seen.polls,
            spans=[*world.spans, *self.seen.spans],
            boards=boards,
            held_since={HELD: self._held_since},
            healthy_keys=frozenset({CALM}),
            calls_per_minute=CALLS_PER_MINUTE,
            messages=[_message(got.json["text"]) for got in self.receiver.received if not got.is_refused],
            to_tell=frozenset(str(run) for (run,) in self.database.rows(TO_TELL, (NORTH,))),
            chains_are_clean=code == 0,
            chain_report=report,
        )

    def _rows(self) -> list[Row]:
        found = self.database.rows(f"{ROWS} WHERE event = 'run.cancel' ORDER BY id")
        return [
            Row(
                seq,
                id_of(operation),
                run,
                outcome,
                actor,
                actor_type,
                reason,
                batch=json_of(details).get("batch_id") or "",
                reread=json_of(details).get("reread") or "",
                at=seconds_of(at),
            )
            for seq, operation, run, outcome, actor, actor_type, reason, details, at in found
        ]

    def _say(self, text: str) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def unreliable(receiver: Receiver, handler: BaseHTTPRequestHandler) -> None:
    """Some messages get an error, and are not taken; others are taken, and the answer is lost."""
    number = len(receiver.received)
    if number % 10 == 5:
        receiver.received[-1].is_refused = True
        status(503)(receiver, handler)
    elif number % 16 == 9:
        cut(receiver, handler)
    else:
        status(200)(receiver, handler)


def _message(text: str) -> Message:
    run = next(line for line in text.splitlines() if line.startswith("Run: ")).removeprefix("Run: ")
    return Message(run.replace("\N{ZERO WIDTH SPACE}", ""), "may be a repetition" in text)


def carry_out(setting: Setting) -> Record:
    """Run the whole plan in a directory of its own. Raises AssertionError if the panel does not start."""
    plan = setting.plan
    with (
        _directory(setting.logs) as directory,
        own_database(directory, setting.database) as url,
        _opened(Database(url, may_write=True)) as database,
        _opened(Database(url)) as watched,
        serving(World(plan.seed, Witness(watched))) as arize,
        receiving(unreliable) as receiver,
    ):
        panel = Panel(
            directory,
            database_url=url,
            queue=setting.queue,
            arize=arize.url,
            receiver=receiver.url,
            webs=plan.webs,
            workers=plan.workers,
            settings=setting.settings,
        )
        try:
            return Driver(setting, panel, arize, database, receiver).run()
        finally:
            panel.end_all()


@contextmanager
def _directory(wanted: Path | None) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="taskruns-chaos-") as made:
        directory = wanted or Path(made)
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)
        yield directory


@contextmanager
def _opened(database: Database) -> Iterator[Database]:
    try:
        yield database
    finally:
        database.close()
