"""What the emergency stop shows: above every page of its team, and on its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from django.urls import reverse

from taskruns.models import CancelBatch, EmergencyStop, Task

from .words import Message, Moment


@dataclass(frozen=True, slots=True)
class StopBanner:
    """Who holds the team, and why. `paused`: why the hold does nothing. `lift_url`: for those who may."""

    who: str
    reason: str
    since: Moment | None
    until: Moment | None
    paused: str
    left_out: int
    url: str
    lift_url: str


def stop_banner(stop: EmergencyStop, *, slug: str, is_paused: bool, may_lift: bool) -> StopBanner:
    return StopBanner(
        who=stop.person_label,
        reason=stop.reason,
        since=Moment.of(stop.pulled_at),
        until=Moment.of(stop.expires_at),
        paused=_paused(stop) if is_paused else "",
        left_out=len(stop.left_out),
        url=reverse("stop", args=[slug]),
        lift_url=reverse("stop-lift", args=[slug]) if may_lift else "",
    )


def _paused(stop: EmergencyStop) -> str:
    return (
        f"The hold is paused: {stop.person_label} may not stop runs in this team any more, so new runs are not "
        "cancelled. It goes on if they regain the right. A manager can lift it, and then somebody else can pull it."
    )


@dataclass(frozen=True, slots=True)
class StopTask:
    """A task that the stop hits. `key`: which key would send the cancel; `trouble`: why it cannot."""

    id: str
    name: str
    url: str
    type: str
    space: str
    key: str
    trouble: str
    pending: int
    running: int
    is_left_out: bool

    @property
    def active(self) -> int:
        return self.pending + self.running


@dataclass(frozen=True, slots=True)
class StopBatch:
    """One list of runs that the stop cancels."""

    url: str
    runs: int
    at: Moment | None


def stop_batch(batch: CancelBatch, *, slug: str, runs: int) -> StopBatch:
    return StopBatch(reverse("batch", args=[slug, batch.pk]), runs, Moment.of(batch.created_at))


@dataclass(frozen=True, slots=True)
class StopPage:
    """`tasks` have active runs now; `others` have none, `hidden` of them are not listed. `banner`: a stop holds.

    `may_pull`: the person gets the form. `unsent`: runs whose cancel still waits for its turn.
    """

    team: str
    url: str
    board_url: str
    tasks: tuple[StopTask, ...]
    others: tuple[StopTask, ...]
    hidden: int
    keys: tuple[str, ...]
    warnings: tuple[Message, ...]
    banner: StopBanner | None
    may_pull: bool
    tally: tuple[tuple[str, int], ...] = ()
    batches: tuple[StopBatch, ...] = ()
    unsent: int = 0

    @property
    def runs(self) -> int:
        """Those that are hit."""
        return sum(task.active for task in self.tasks if not task.is_left_out)

    @property
    def others_total(self) -> int:
        return len(self.others) + self.hidden

    @property
    def hit(self) -> int:
        return sum(not task.is_left_out for task in self.tasks)


def stop_task(task: Task, *, slug: str, counts: tuple[int, int], is_left_out: bool, trouble: str) -> StopTask:
    """Expects `task.credential` to be loaded. `counts`: pending and running."""
    query = urlencode({"task": task.arize_id})
    return StopTask(
        id=str(task.pk),
        name=str(task),
        url=f"{reverse('board', args=[slug])}?{query}",
        type=task.type.replace("_", " "),
        space=task.space_name,
        key=task.credential.name if task.credential else "",
        trouble=trouble,
        pending=counts[0],
        running=counts[1],
        is_left_out=is_left_out,
    )


def keys_of(tasks: Sequence[StopTask]) -> tuple[str, ...]:
    return tuple(sorted({task.key for task in tasks if task.key}))
