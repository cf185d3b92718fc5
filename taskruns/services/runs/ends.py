"""Notes that runs ended, for the channels of the team: a `RunFact` in the transaction of the reading that shows it.

So no end is lost, however a process dies. What it means for whom is decided later, by `services/channels/matching.py`.
Without a rule that wants it, nothing is written.
"""

import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache

from django.db.models import UUIDField
from django.utils import timezone

from taskruns.models import Happening, Rule, Run, RunFact, Status, Task
from taskruns.models.prepared import Prepared, Slot

# Of the runs of a task that is read for the first time, those that ended longer ago are history, not news.
NEWS_FOR = timedelta(minutes=10)
_EVENTS = {Status.FAILED: Happening.RUN_FAILED, Status.CANCELLED: Happening.RUN_CANCELLED}


@dataclass(frozen=True, slots=True)
class End:
    """A run as it is after a reading, and the status that it had before; empty if it is new."""

    run: Run
    before: str
    had_errors: bool = False

    @property
    def event(self) -> Happening | None:
        status = Status(self.run.status)
        if status == Status.COMPLETED and self.run.num_errors:
            return None if self.before == status and self.had_errors else Happening.RUN_WITH_ERRORS
        return None if self.before == status else _EVENTS.get(status)


def note_ends(team_id: uuid.UUID, ends: Iterable[End], *, are_new: bool = False) -> None:
    """One INSERT for all of them, if a rule of the team wants one. Belongs into the transaction of the reading.

    `are_new`: of these runs, another worker may have been faster to insert some, and noted their ends.
    """
    events = [(end.run, event) for end in ends if (event := end.event) is not None]
    if not events:
        return
    wanted = {event for rule in _rules().rows(team=team_id) for event in rule}
    facts = [
        RunFact(team_id=team_id, run_id=run.pk, event=event.value, at=run.ended_at or timezone.now())
        for run, event in events
        if event.value in wanted
    ]
    if facts and are_new:
        ours = set(Run.objects.filter(pk__in=[fact.run_id for fact in facts]).values_list("pk", flat=True))
        facts = [fact for fact in facts if fact.run_id in ours]
    if facts:
        RunFact.objects.bulk_create(facts)


def is_news(task: Task, ended_at: datetime | None) -> bool:
    """Whether the end of a run that the panel sees for the first time is news."""
    return task.caught_up_at is not None or (ended_at is not None and ended_at > timezone.now() - NEWS_FOR)


@cache
def _rules() -> Prepared[list[str]]:
    live = Rule.objects.filter(channel__team=Slot("team", UUIDField()), channel__removed_at=None)
    return Prepared(live.values_list("events", flat=True))
