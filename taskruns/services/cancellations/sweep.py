"""Finds the outcome of cancellations that have none: after a crash, after an `unknown`, or while the run is stopping.

Rounds of the mirror follow the cancellations of their key (`Followed`): a list page that shows the run settles them;
only if nothing shows it, a look reads the run. The minute's sweep looks after the cancellations that no round follows.
Looks have a share of the key's rate limit, and the distance between two looks at a run doubles.

Safe to run concurrently: each look is claimed, and each close is a conditional UPDATE on the state that was read.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from functools import cache, partial
from itertools import groupby
from typing import Any

import structlog
from django.db.models import Q, QuerySet, UUIDField
from django.utils import timezone

from taskruns.arize.client import ArizeClient
from taskruns.arize.errors import ArizeError, NoAnswer, NotFound, NotSent, RateLimited, Unauthorized
from taskruns.arize.wire import RunStatus, WireRun
from taskruns.audit import Actor
from taskruns.models import CANCEL_FACTS, Cancellation, Credential, Outcome
from taskruns.models.prepared import Prepared, Slot
from taskruns.models.stamps import SKEW, recent
from taskruns.services.credentials.budget import Kind, reserve
from taskruns.services.credentials.client import CannotConnect, connected
from taskruns.services.remote_acts import SHORT_TIMEOUTS, SWEEPER, crashed_before, sum_of_all
from taskruns.services.runs.observations import record_observation

from .answer import AFTER_OUR_CANCEL, GONE, Answer
from .results import close

log = structlog.get_logger(__name__)

STOPPING_FOR = timedelta(seconds=300)
# The worker sends a cancel that no web thread could send. If it does not in this time, nobody expects it any more.
SEND_WITHIN = timedelta(minutes=2)
NEVER_SENT = (
    "The panel could not send the cancel within two minutes: it was interrupted, or too many others waited for Arize."
)
POSTED = Q(posted_at__isnull=False)
OVERDUE_AFTER = timedelta(minutes=1)
STOPPING = Q(outcome=Outcome.OPEN, stopping_since__isnull=False)
UNKNOWN = Q(outcome=Outcome.UNKNOWN)
# The distance between two looks at a run: it doubles from the first to the last.
FIRST_DISTANCE = timedelta(seconds=5)
LAST_DISTANCE = timedelta(minutes=5)
LOOKS_A_ROUND = 5
MOST_LOOKS = 1_000  # that are counted
# A key whose rounds had an answer within this time follows its cancellations. Longer than the slowest pace.
FOLLOWED_FOR = timedelta(minutes=6)
# The other runs of the key would get the same answer.
_OF_THE_KEY = (NotSent, NoAnswer, RateLimited, Unauthorized)


def sweep(*, by: Actor = SWEEPER) -> int:
    """Close the cancellations that no round follows, if their outcome can be found now. Returns how many.

    Those of a crash for which no call is left become `unknown`, so that each has an outcome; later looks may find it.
    """
    _date_stopping()
    is_alone = (STOPPING | UNKNOWN) & ~_is_followed_by_rounds()
    waiting = _waiting().filter(POSTED & crashed_before() | _is_overdue() | is_alone)
    by_key = [(key, list(rows)) for key, rows in groupby(_due(waiting), key=lambda row: row.run.task.credential)]
    return sum_of_all(
        (
            *(partial(_close, row, Answer(Outcome.NOT_SENT, NEVER_SENT), by) for row in _never_sent()),
            *(partial(_settle_of_key, key, rows, by) for key, rows in by_key),
        )
    )


def follow(credential: Credential, *, by: Actor = SWEEPER) -> "Followed":
    """For one round of the key."""
    return Followed(_waiting_of_key().rows(credential=credential.pk), by)


@cache
def _waiting_of_key() -> Prepared[Cancellation]:
    """Each round needs them."""
    return Prepared(_waiting().filter(STOPPING | UNKNOWN, run__task__credential=Slot("credential", UUIDField())))


class Followed:
    """The cancellations of one key that are stopping or unknown. Its readings and looks close them."""

    def __init__(self, rows: list[Cancellation], by: Actor) -> None:
        self._by = by
        self._rows: dict[str, list[Cancellation]] = defaultdict(list)
        for row in rows:
            self._rows[row.run.arize_id].append(row)
        # A run shown in this round needs no look, whatever its state.
        self._shown: set[str] = set()

    def note(self, arize_id: str, seen: WireRun | ArizeError, started: datetime) -> int:
        """A reading shows the run. Call it before the run is recorded. Returns how many cancellations were closed."""
        self._shown.add(arize_id)
        return sum(_settle(row, seen, started, self._by) for row in self._rows.get(arize_id, ()))

    def look(self, client: ArizeClient, *, may_call: Callable[[], bool]) -> int:
        """Read a few runs that nothing has shown in this round. `may_call` decides before each call."""
        unseen = [rows for arize_id, rows in self._rows.items() if arize_id not in self._shown]
        due = [group for rows in unseen if (group := _due(rows))]
        due.sort(key=lambda group: group[0].look_at or group[0].requested_at)
        return _look_at_each(client, due, may_call, self._by, most=LOOKS_A_ROUND)


def _date_stopping() -> None:
    """A cancel cannot be stopping since tomorrow: the clock was set back. It then counts as stopping since now."""
    now = timezone.now()
    Cancellation.objects.filter(STOPPING, stopping_since__gt=now + SKEW).update(stopping_since=now)


def _waiting() -> QuerySet[Cancellation]:
    """Cancellations without a final outcome, ordered by key and age."""
    not_final = [outcome for outcome, facts in CANCEL_FACTS.items() if not facts.is_final]
    rows = Cancellation.objects.filter(followed=True, outcome__in=not_final)
    return rows.select_related("run__task__credential", "batch").order_by("run__task__credential_id", "requested_at")


def _never_sent() -> QuerySet[Cancellation]:
    too_old = Q(outcome=Outcome.OPEN, posted_at=None, requested_at__lt=timezone.now() - SEND_WITHIN)
    return Cancellation.objects.filter(too_old).select_related("batch").order_by("requested_at")


def _is_followed_by_rounds() -> Q:
    is_read = recent("last_good_at", timezone.now(), FOLLOWED_FOR)
    usable = Credential.objects.usable().filter(is_read).values("pk")
    return Q(run__task__credential__in=usable)


def _is_overdue() -> Q:
    """Cancels whose time to stop the run is over, and whose rounds cannot read it."""
    return Q(outcome=Outcome.OPEN, stopping_since__lt=timezone.now() - STOPPING_FOR - OVERDUE_AFTER)


def _due(rows: Iterable[Cancellation]) -> list[Cancellation]:
    """A stamp further ahead than the longest distance counts as past: the clock was wrong."""
    now = timezone.now()
    return [row for row in rows if row.look_at is None or not now < row.look_at <= now + LAST_DISTANCE]


def _settle_of_key(credential: Credential | None, rows: list[Cancellation], by: Actor) -> int:
    if credential is None:
        return _unread(rows, by)
    groups: dict[object, list[Cancellation]] = defaultdict(list)
    for row in rows:
        groups[row.run_id].append(row)
    try:
        with connected(credential, timeouts=SHORT_TIMEOUTS) as client:
            return _look_at_each(client, list(groups.values()), lambda: reserve(credential, Kind.SWEEP), by)
    except CannotConnect:
        return _unread(rows, by)


def _look_at_each(
    client: ArizeClient,
    groups: list[list[Cancellation]],
    may_call: Callable[[], bool],
    by: Actor,
    *,
    most: int | None = None,
) -> int:
    """One look for each group, which holds the cancellations of one run."""
    closed = 0
    for number, rows in enumerate(groups[:most]):
        if not _claim(rows):
            continue
        if not may_call():
            _give_back(rows)
            # The rest waits for its next turn. Only the sweep has rows that a crash left open.
            return closed + _unread([row for group in groups[number:] for row in group if _is_crashed(row)], by)
        started = timezone.now()
        try:
            asked = rows[0].run.arize_id
            seen: WireRun | ArizeError = client.get_run(asked).only_if(asked)
        except _OF_THE_KEY:
            return closed + _unread([row for group in groups[number:] for row in group], by)
        except ArizeError as error:
            seen = error
        closed += sum(_settle(row, seen, started, by) for row in rows)
        if isinstance(seen, WireRun) and any(row.outcome == Outcome.UNKNOWN for row in rows):
            # If the run is active now and cancelled later, this shows that these cancels did not do it.
            record_observation(rows[0].run, seen, started)
    return closed


def _claim(rows: list[Cancellation]) -> bool:
    """Note the look before it is made. False if another worker looks at this run now."""
    now = timezone.now()
    first = rows[0]
    mine = Cancellation.objects.filter(pk=first.pk, outcome=first.outcome, looks=first.looks, look_at=first.look_at)
    if not mine.update(**_next_look(first, now)):
        return False
    for row in rows[1:]:
        Cancellation.objects.filter(pk=row.pk).update(**_next_look(row, now))
    return True


def _give_back(rows: list[Cancellation]) -> None:
    """The look was not made."""
    for row in rows:
        Cancellation.objects.filter(pk=row.pk).update(looks=row.looks, look_at=row.look_at)


def _next_look(row: Cancellation, now: datetime) -> dict[str, Any]:
    later = now + min(FIRST_DISTANCE * 2 ** min(row.looks, 10), LAST_DISTANCE)
    ends = row.stopping_since + STOPPING_FOR if row.stopping_since is not None else later
    # The outcome of a stopping run is written as soon as its time is over.
    return {"looks": min(row.looks + 1, MOST_LOOKS), "look_at": min(later, ends) if ends > now else later}


def _settle(row: Cancellation, seen: WireRun | ArizeError, started: datetime, by: Actor) -> int:
    """Close the cancellation if this answer about its run says how it ended."""
    if isinstance(seen, NotFound):
        return _close(row, Answer(Outcome.UNKNOWN, GONE, gone=True, seen_since=started), by)
    if isinstance(seen, ArizeError):
        return _unread([row], by)
    outcome = _outcome(row, seen.status)
    if outcome is None:
        return 0
    details = {"reread": seen.status.value}
    return _close(row, Answer(outcome, seen=seen, seen_since=started, details=details), by)


def _outcome(row: Cancellation, status: RunStatus) -> Outcome | None:
    """The outcome that this status means, or None to keep waiting."""
    if status in AFTER_OUR_CANCEL:
        return AFTER_OUR_CANCEL[status]
    if row.outcome == Outcome.UNKNOWN:
        # Arize had accepted it, but when its time was over, the run could not be read.
        return Outcome.STILL_RUNNING if row.stopping_since is not None and status.is_active else None
    if row.stopping_since is None:
        return Outcome.UNKNOWN
    if row.stopping_since >= timezone.now() - STOPPING_FOR:
        return None
    return Outcome.STILL_RUNNING if status.is_active else Outcome.UNKNOWN  # a status that the panel does not know


def _unread(rows: Iterable[Cancellation], by: Actor) -> int:
    """The runs cannot be read now: close crashed and overdue cancellations as `unknown`, let the others wait."""
    text = "The run could not be read to find out the outcome of the cancel."
    now = timezone.now()
    return sum(
        _close(row, Answer(Outcome.UNKNOWN, text), by)
        for row in rows
        if row.outcome == Outcome.OPEN and (row.stopping_since is None or row.stopping_since < now - STOPPING_FOR)
    )


def _is_crashed(row: Cancellation) -> bool:
    return row.outcome == Outcome.OPEN and row.stopping_since is None


def _close(row: Cancellation, answer: Answer, by: Actor) -> int:
    closed = close(row, answer, by=by)
    outcome = (closed or answer).outcome
    log.info("cancellation_closed", operation=str(row.pk), outcome=outcome.value, written=closed is not None)
    return int(closed is not None)
