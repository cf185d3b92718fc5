"""What depends on the kind of a batch: its event, the rights it needs, and how one run is opened, sent and closed.

`KIND_FACTS` holds what every step needs to know. `Kind` is what the worker calls; `cancels.py` and `starts.py`
implement it.
"""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Generic, TypeVar

from django.db.models import QuerySet

from taskruns.audit import Actor, EventType
from taskruns.models import AuditEvent, BatchKind, CancelBatch, CancelItem, Cancellation, Run, Trigger
from taskruns.permissions import Access, Action

# Longer than a POST with its re-read can take (38 s). If there is no outcome after that, the worker has died.
LEASE = timedelta(seconds=45)
Row = TypeVar("Row", Cancellation, Trigger)
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class KindFacts:
    """`no_right`, `by_person`: why the rest was not sent, with {who}."""

    event: EventType
    rights: tuple[Action, ...]
    no_right: str
    by_person: str

    def may(self, access: Access) -> bool:
        return all(access.may(action) for action in self.rights)


KIND_FACTS: Mapping[str, KindFacts] = {
    BatchKind.CANCEL: KindFacts(
        EventType.RUN_CANCEL_MANY,
        (Action.RUNS_CANCEL_MANY,),
        "{who} no longer has permission to cancel runs in bulk in this team. The remaining cancels were not sent.",
        "{who} stopped the bulk cancel. The remaining cancels were not sent.",
    ),
    BatchKind.TRIGGER: KindFacts(
        EventType.RUN_TRIGGER_MANY,
        (Action.RUNS_TRIGGER, Action.RUNS_CANCEL_MANY),
        "{who} no longer has permission to start runs again in bulk in this team. The remaining runs were not started.",
        "{who} stopped it. The remaining runs were not started.",
    ),
}


@dataclass(frozen=True, slots=True)
class Opened(Generic[Row]):
    """One request whose rows are committed. Do not send it before `moment`. `is_reread`: it was sent earlier.

    `run`: with its task and key loaded.
    """

    item: CancelItem
    attempt: Row
    run: Run
    by: Actor
    moment: datetime
    is_reread: bool = False

    @property
    def key(self) -> uuid.UUID | None:
        return self.run.task.credential_id


@dataclass(frozen=True, slots=True)
class Answered(Generic[Row, Answer]):
    """One request of a batch with Arize's answer, to the request itself or to a re-read of its run."""

    item: CancelItem
    attempt: Row
    by: Actor
    answer: Answer


@dataclass(slots=True)
class Turns(Generic[Row]):
    """What one transaction opened: the requests to send, in order, and the audit rows of all its items."""

    to_send: list[tuple[CancelItem, Row, Run, Actor]]
    rows: list[AuditEvent]


class Kind(ABC, Generic[Row, Answer]):
    """`most_in_flight`: requests of one batch that wait for Arize at the same time."""

    facts: ClassVar[KindFacts]
    most_in_flight: ClassVar[int]

    @abstractmethod
    def open(self, batch: CancelBatch, items: Sequence[CancelItem], by: Actor) -> Turns[Row]:
        """Write a request for each item that still needs one, in the caller's durable transaction, and nothing to the
        log: the caller does this last.
        """

    @abstractmethod
    def ask(self, opened: Opened[Row]) -> Answer:
        """Send it. Called in a thread that must not use the database."""

    @abstractmethod
    def reread(self, opened: Opened[Row]) -> Answer:
        """Find out what became of a request whose answer was lost. Called like `ask`."""

    @abstractmethod
    def close(self, answered: Sequence[Answered[Row, Answer]]) -> None:
        """Write the outcomes, each with its audit row."""

    @abstractmethod
    def close_unsent(self, items: Iterable[CancelItem], by: Actor) -> None:
        """Close requests that a killed worker opened but did not send. Their items are queued again."""

    @abstractmethod
    def lost(self, items: QuerySet[CancelItem]) -> Iterable[tuple[CancelItem, Row, Run]]:
        """Of these items in progress, those to re-read now."""

    @abstractmethod
    def follow(self, batch: CancelBatch) -> None:
        """Copy outcomes that were written elsewhere, and leave out queued items if the batch was aborted."""


AnyKind = Kind[Any, Any]
