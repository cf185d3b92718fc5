"""Finds one run by its Arize id: in the mirror, or else at Arize, with a small share of the team's rate limits."""

import hashlib
from collections.abc import Callable
from datetime import datetime

from django.core.cache import cache
from django.utils import timezone

from taskruns.arize.client import Timeouts
from taskruns.arize.errors import ArizeError, BadRequest, Forbidden, NotFound
from taskruns.arize.wire import WireRun
from taskruns.models import Credential, Run, Task, Team
from taskruns.models.tasks import NO_USABLE_KEY
from taskruns.services.credentials.budget import Kind, reserve
from taskruns.services.credentials.client import connected
from taskruns.services.remote_acts import waiting_for_arize
from taskruns.services.runs.observations import Reading, fits_an_index, record_readings
from taskruns.services.user_errors import UserError

# A person waits for the page.
_TIMEOUTS = Timeouts(connect=2.0, read=4.0)
MISSED_FOR = 60  # seconds in which an unknown ID is not looked up again
_NOT_THERE = (BadRequest, Forbidden, NotFound)


def find_by_arize_id(team: Team, arize_id: str, *, may_ask: Callable[[], bool] = lambda: True) -> Run | None:
    """The team's run with this Arize id, or None.

    Raises UserError if no key finds the run, but a key that may see it could not be used now.
    """
    if "\0" in arize_id or not fits_an_index(arize_id):
        return None  # the mirror stores no such id
    run = Run.objects.filter(team=team, arize_id=arize_id).order_by("first_seen_at").first()
    missed = f"taskruns.lookup.missed:{team.pk}:{hashlib.sha256(arize_id.encode()).hexdigest()}"
    if run is not None or cache.get(missed):
        return run
    if not may_ask():
        raise UserError("You looked up many IDs that only Arize may know. Try again in a minute.")
    with waiting_for_arize():
        run = _read_with_any_key(team, arize_id)
    if run is None:
        cache.set(missed, True, MISSED_FOR)
    return run


def _read_with_any_key(team: Team, arize_id: str) -> Run | None:
    trouble: str | None = None
    for credential in Credential.objects.usable().filter(team=team).order_by("created_at"):
        started = timezone.now()
        try:
            seen = _ask(credential, arize_id)
        except _NOT_THERE:
            continue
        except (ArizeError, UserError) as error:
            trouble = error.sentence
            continue
        if seen.id == arize_id and fits_an_index(seen.id) and fits_an_index(seen.task_id or ""):
            return mirror_one(credential, seen, started)
    if trouble is not None:
        raise UserError(trouble)
    return None


def _ask(credential: Credential, arize_id: str) -> WireRun:
    now = timezone.now()
    if credential.is_backing_off(now):
        raise UserError(credential.backoff_reason)
    if not reserve(credential, Kind.LOOKUP):
        raise UserError("The rate limit for looking up runs at Arize is reached. Try again in a minute.")
    with connected(credential, timeouts=_TIMEOUTS) as client:
        return client.get_run(arize_id)


def mirror_one(credential: Credential, seen: WireRun, started: datetime) -> Run:
    """If the answer does not name the task, store the run under a task without an Arize id."""
    task, _ = Task.objects.get_or_create(
        team_id=credential.team_id,
        endpoint=credential.endpoint,
        arize_id=seen.task_id or "",
        defaults={"credential": credential},
    )
    Task.objects.filter(NO_USABLE_KEY, pk=task.pk).update(credential=credential)
    record_readings([Reading(task, [seen], started, on_demand=True)])
    return Run.objects.get(team=credential.team_id, endpoint=credential.endpoint, arize_id=seen.id)
