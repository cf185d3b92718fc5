"""Warnings and notes of what may be old on a board, and why."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from django.utils import timezone

from taskruns.models import Credential, Heartbeat, Run
from taskruns.pages.credentials import expiry_warning, health
from taskruns.pages.values import Message
from taskruns.permissions import TeamAccess
from taskruns.services.mirror.staleness import Why, is_read, why_old

_OLD = {
    Why.NO_KEY: "no key reads this task any more",
    Why.TASK_FAILED: "Arize did not answer when it was read again",
    Why.FELL_BEHIND: "other runs had to be read first",
}
# A key without anybody's attention is read each 5 min; when its last reading is older, nothing reads.
LATE = timedelta(minutes=6)


def warnings_of(keys: Iterable[Credential]) -> tuple[Message, ...]:
    """Why something may be old, or soon will be."""
    now = timezone.now()
    warnings = []
    for key in keys:
        state, text = health(key, now)
        if state in {"failing", "waiting"}:
            warnings.append(Message("error" if state == "failing" else "warning", f"Key “{key.name}”: {text}"))
        ending = expiry_warning(key, timezone.localdate(now))
        if ending is not None and state != "failing":
            warnings.append(ending)
    return tuple(warnings)


def is_late(accesses: Iterable[TeamAccess]) -> bool:
    """Whether a team has not been read for longer than any pace explains. No query: for each poll."""
    since = timezone.now() - LATE
    return any(it.team.as_of is not None and it.team.as_of < since for it in accesses)


def late(accesses: Iterable[TeamAccess], keys: Iterable[Credential]) -> tuple[Message, ...]:
    """A warning when nothing reads Arize, though no key says why. No age: the page's own clock tells it."""
    now = timezone.now()
    unexplained = {key.team_id for key in keys if health(key, now)[0] == "working"}
    if not is_late(it for it in accesses if it.team.pk in unexplained):
        return ()
    if Heartbeat.objects.filter(seen_at__gte=now - LATE).exists():
        return (Message("warning", "Reading from Arize takes unusually long: what is shown may be old."),)
    return (Message("error", "Nothing reads Arize: the panel's worker does not run. What is shown is old."),)


def unread(runs: Iterable[Run]) -> tuple[Message, ...]:
    """A warning when some of these runs belong to tasks that no live key reads: what they show stays as it is."""
    number = len({run.task_id for run in runs if not is_read(run)})
    if not number:
        return ()
    tasks = "one task" if number == 1 else f"{number} tasks"
    text = f"No key reads the runs of {tasks} any more: they are shown as they were last read. Add or replace a key."
    return (Message("warning", text),)


def old_text(run: Run, now: datetime) -> str:
    """Why the state of an active run is not of this moment; empty: it is, as far as anyone knows."""
    old = why_old(run, now)
    if old is None:
        return ""
    if old.key:
        return f"key “{old.key}”: {old.reason}"
    return _OLD[old.why]
