"""What a chaos run leaves behind: the fake Arize's truth, the panel's rows and what people saw. Times are seconds since
1970. `judge.py` needs nothing else.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum

ACTIVE = ("pending", "running")
ITSELF, OUTSIDE = "itself", "outside"


class Answer(StrEnum):
    """How the fake Arize answered a cancel. LOST: an error or no answer, so that the panel cannot know its effect."""

    CANCELLED = "200, cancelled"
    STOPPING = "200, still active"
    ENDED = "the run had ended"  # 400, 409 or 200 with the ended run
    REFUSED = "401, 403 or 404"
    LIMITED = "429"
    LOST = "lost"


@dataclass(frozen=True)
class Reading:
    """Arize has shown this status of a run. `arrived`: when the request did; `done`: when the whole answer was sent."""

    arrived: float
    done: float
    status: str


@dataclass
class TrueRun:
    """A run as Arize knows it. `ended_by`: `itself`, `outside`, or the number of the cancel that stopped it."""

    id: str
    team: str
    key: str
    born: float
    status: str
    ended_at: float = 0.0
    ended_by: str = ""
    takes_cancels: bool = True  # False: it ignores or refuses them
    readings: list[Reading] = field(default_factory=list)

    @property
    def is_active(self) -> bool:
        return self.status in ACTIVE


@dataclass
class Arrival:
    """A cancel that reached Arize. `operation`: the panel's open cancellation of the run at that moment ("" if none).

    `requested`: the operations of this run with a committed `requested` row at that moment.
    """

    number: int
    run: str
    at: float
    operation: str
    requested: tuple[str, ...]
    answer: Answer = Answer.LOST
    done: float = 0.0  # when Arize was finished with it, answered or not
    is_delivered: bool = False

    @property
    def is_known(self) -> bool:
        """Whether the panel was told what became of it."""
        return self.is_delivered and self.answer is not Answer.LOST


@dataclass(frozen=True)
class Call:
    """A request that reached Arize, without cancels. `run`: set if it reads a single run. `is_hung`: not answered."""

    key: str
    at: float
    run: str = ""
    is_hung: bool = False


@dataclass(frozen=True)
class Row:
    """A row of the audit log about a cancel of one run."""

    seq: int
    operation: str
    run: str
    outcome: str
    actor: str
    actor_type: str
    reason: str
    batch: str = ""
    reread: str = ""
    at: float = 0.0


@dataclass(frozen=True)
class Click:
    """`status`: what the person's browser got, 0 without an answer. The reason is unique. `is_queued`: the answer said
    that the cancel is still to be sent.
    """

    person: str
    run: str
    reason: str
    status: int
    is_queued: bool = False


@dataclass(frozen=True)
class Poll:
    """A poll of a board, and what it claims. `missing`: runs that Arize held before `searched_at`, the panel not."""

    team: str
    at: float
    searched_at: float | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Span:
    """A time in which something was wrong. `what` is a kind of the plan, `whom` a key or a process."""

    what: str
    whom: str
    start: float
    end: float


@dataclass(frozen=True)
class Message:
    """What the channel of a team was told about a run. `is_marked`: it says that it may be a repetition."""

    run: str
    is_marked: bool


@dataclass
class Record:
    runs: dict[str, TrueRun]
    arrivals: list[Arrival]
    calls: list[Call]
    rows: list[Row]  # in the order of the log
    outcomes: dict[str, str]  # operation -> the outcome of its cancellation, "" while open
    clicks: list[Click]
    polls: list[Poll]
    spans: list[Span]
    boards: dict[str, dict[str, str]]  # team -> run -> status, at the end
    held_since: dict[str, float]  # team -> when its emergency stop was pulled
    healthy_keys: frozenset[str]  # disturbed by nothing of their own
    calls_per_minute: int
    # Operations that the panel had marked as sent. Without an arrival, it may have been killed before it sent them.
    marked: frozenset[str] = frozenset()
    messages: list[Message] = field(default_factory=list)
    # The runs of the team with a channel that the panel saw fail or be cancelled.
    to_tell: frozenset[str] = frozenset()
    chains_are_clean: bool = True
    chain_report: str = ""

    def __post_init__(self) -> None:
        self.rows_of: dict[str, list[Row]] = defaultdict(list)
        self.rows_of_run: dict[str, list[Row]] = defaultdict(list)
        self.arrivals_of: dict[str, list[Arrival]] = defaultdict(list)
        for row in self.rows:
            self.rows_of[row.operation].append(row)
            self.rows_of_run[row.run].append(row)
        for arrival in self.arrivals:
            self.arrivals_of[arrival.operation].append(arrival)

    @property
    def requested(self) -> dict[str, Row]:
        """Operation -> its `requested` row."""
        return {row.operation: row for row in self.rows if row.outcome == "requested"}

    def last_outcome(self, operation: str) -> str:
        """The operation's latest outcome in the log, "" if it has none."""
        return next((row.outcome for row in reversed(self.rows_of[operation]) if row.outcome != "requested"), "")

    def spans_of(self, *kinds: str) -> list[Span]:
        return [span for span in self.spans if span.what in kinds]
