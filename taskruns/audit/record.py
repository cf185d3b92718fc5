"""`record()`: the only writer of the log."""

import uuid
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import Any
from uuid import UUID

import structlog
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import DatabaseError, OperationalError, models, transaction
from django.utils import timezone

from taskruns.models import AuditChain, AuditEvent, Credential, Run, Task, Team
from taskruns.models.prepared import Prepared, Slot, update_row
from taskruns.verifier import event_hash

from .actor import Actor
from .anchors import ANCHOR_EVERY, anchor_row
from .events import CATALOGUE, EventType, allowed_details
from .row_json import clean_details, clean_line, row_as_json
from .signing_keys import sign, signing_key_id
from .stream import stream

log = structlog.get_logger(__name__)

# The log's chains: one for each team, and one for the site.
SITE_CHAIN = "site"
_TEAM = "team:"
# What this thread has written since the start of its act.
_has_written: ContextVar[bool] = ContextVar("has_written", default=False)
_has_committed: ContextVar[bool] = ContextVar("has_committed", default=False)


@dataclass(frozen=True, slots=True)
class Target:
    """What was acted on, with a copy of its name. `type` is a noun like run, credential, member, invitation or team."""

    type: str
    id: str
    label: str


def record(
    event: EventType,
    outcome: str,
    *,
    by: Actor,
    team: Team | None = None,
    target: Target | None = None,
    run: Run | None = None,
    task: Task | None = None,
    credential: Credential | None = None,
    operation_id: uuid.UUID | None = None,
    reason: str = "",
    details: dict[str, Any] | None = None,
) -> AuditEvent:
    """Append one row to the team's chain, or to the site's when `team` is None.

    A `task` is the target when there is no `run` yet.
    Must be the last statement of a transaction. Database errors are raised, so that a change that cannot be recorded
    is rolled back.
    """
    row = compose(
        event,
        outcome,
        by=by,
        team=team,
        target=target,
        run=run,
        task=task,
        credential=credential,
        operation_id=operation_id,
        reason=reason,
        details=details,
    )
    append([row])
    return row


def compose(
    event: EventType,
    outcome: str,
    *,
    by: Actor,
    team: Team | None = None,
    target: Target | None = None,
    run: Run | None = None,
    task: Task | None = None,
    credential: Credential | None = None,
    operation_id: uuid.UUID | None = None,
    reason: str = "",
    details: dict[str, Any] | None = None,
) -> AuditEvent:
    """Build a row without writing it, for changes that record several rows: pass them all to `append`."""
    if outcome not in CATALOGUE[event]:
        message = f"{event} cannot have the outcome {outcome!r}"
        raise ValueError(message)
    row = AuditEvent(
        event=event.value,
        outcome=outcome,
        team_id=team.pk if team else None,
        team_label=team.name if team else "",
        operation_id=operation_id,
        reason=reason,
        details=clean_details(_listed(event, outcome, details or {})),
        **_actor_columns(by),
        **(_run_columns(run) or _task_columns(task) or _target_columns(target, credential)),
    )
    _clean_columns(row)
    return row


def append(rows: Sequence[AuditEvent]) -> None:
    """Write composed rows in this order, as the last statement of their transaction."""
    if not transaction.get_connection().in_atomic_block:
        message = "record() must run in the transaction of the change it records"
        raise transaction.TransactionManagementError(message)
    for team_id, of_chain in groupby(rows, key=lambda row: row.team_id):
        _append(list(of_chain), chain_of(team_id))


def forget_written() -> None:
    """At the start of an act, because its thread has served others before."""
    _has_written.set(False)
    _has_committed.set(False)


def may_be_written(error: DatabaseError) -> bool:
    """Whether a row since `forget_written()` may be in the log, although this error ended the request.

    A connection may be lost after the database has committed and before it says so.
    """
    return _has_committed.get() or (_has_written.get() and isinstance(error, OperationalError))


def _listed(event: EventType, outcome: str, details: dict[str, Any]) -> dict[str, Any]:
    """Keep only the details listed for the event. An unlisted one is dropped and logged; the change still succeeds."""
    unlisted = sorted(details.keys() - allowed_details(event, outcome))
    if unlisted:
        log.error("audit_detail_hidden", audit_event=event.value, names=unlisted)
    return {name: value for name, value in details.items() if name not in unlisted}


def _actor_columns(by: Actor) -> dict[str, Any]:
    return {
        "actor_type": by.type,
        "actor_id": by.id,
        "actor_label": by.label,
        "actor_role": by.role,
        "auth_method": by.auth_method,
        "session_ref": by.session_ref,
        "ip": by.ip,
        "user_agent": by.user_agent,
        "request_id": by.request_id,
    }


def _run_columns(run: Run | None) -> dict[str, Any]:
    if run is None:
        return {}
    of_run = {
        "target_type": "run",
        "target_id": str(run.pk),
        "target_label": run.label,
        "run_id": run.arize_id,
        "endpoint": run.endpoint,
    }
    return _task_columns(run.task) | of_run


def _task_columns(task: Task | None) -> dict[str, Any]:
    if task is None:
        return {}
    return {
        "target_type": "task",
        "target_id": str(task.pk),
        "target_label": task.name or task.arize_id,
        "endpoint": task.endpoint,
        "task_id": task.arize_id,
        "credential_id": task.credential_id,
    }


def _target_columns(target: Target | None, credential: Credential | None) -> dict[str, Any]:
    if credential is not None:
        return {
            "target_type": "credential",
            "target_id": str(credential.pk),
            "target_label": credential.name,
            "endpoint": credential.endpoint,
            "credential_id": credential.pk,
        }
    if target is not None:
        return {"target_type": target.type, "target_id": target.id, "target_label": target.label}
    return {}


def _clean_columns(row: AuditEvent) -> None:
    """Truncate every text to its column, so that an overlong user agent cannot make the insert fail."""
    for field in row._meta.concrete_fields:
        if isinstance(field, models.CharField):
            setattr(row, field.attname, clean_line(getattr(row, field.attname), field.max_length or 0))


def _first_head(chain: str) -> AuditChain:
    """Create and lock the head of a new chain. Several writers may try at once; `get_or_create` keeps one row."""
    AuditChain.objects.get_or_create(chain=chain)
    return AuditChain.objects.select_for_update(no_key=True).get(chain=chain)


@cache
def _head() -> Prepared[AuditChain]:
    return Prepared(AuditChain.objects.select_for_update(no_key=True).filter(chain=Slot("chain", models.CharField())))


def _append(rows: Sequence[AuditEvent], chain: str) -> None:
    """Number the rows under the chain's lock, which is held until the surrounding transaction ends."""
    found = _head().rows(chain=chain)
    head = found[0] if found else _first_head(chain)
    for row in rows:
        _write(row, chain, seq=head.seq + 1, prev_hash=head.hash)
        head.seq, head.hash = row.seq, row.hash
        if row.seq % ANCHOR_EVERY == 0:
            anchor_row(row)
    _note_head(head)


def _write(row: AuditEvent, chain: str, *, seq: int, prev_hash: str) -> None:
    row.chain, row.seq, row.prev_hash = chain, seq, prev_hash
    row.at = timezone.now()
    row.hash = event_hash(row_as_json(row))
    row.save(force_insert=True)
    _has_written.set(True)
    transaction.on_commit(_note_commit)
    if settings.AUDIT_LOG_STREAM:
        stream(row)


def _note_commit() -> None:
    _has_committed.set(True)


def _note_head(head: AuditChain) -> None:
    if not update_row(AuditChain, head.chain, seq=head.seq, hash=head.hash):
        message = f"the head of {head.chain} was not changed"
        raise DatabaseError(message)


def record_restored(chain: str, *, seq: int, details: dict[str, Any], by: Actor) -> AuditEvent:
    """Append the row of a restore under this number. Rows between the last one and it are missing from now on.

    The signature in its details is what makes the gap legal: the owner of the database alone cannot excuse one.
    """
    head = AuditChain.objects.select_for_update(no_key=True).filter(chain=chain).first() or _first_head(chain)
    last = AuditEvent.objects.filter(chain=chain).order_by("-seq").values_list("hash", flat=True).first() or head.hash
    signed = clean_details(details | {"key_id": signing_key_id()})
    place = {"chain": chain, "seq": seq, "prev_hash": last}
    team = team_of(chain)
    row = compose(
        EventType.SYSTEM_RESTORED,
        "done",
        by=by,
        team=team,
        details=signed | {"signature": sign(signed | place, "restore")},
    )
    row.team_id = team.pk if team else _team_id(chain)
    _write(row, chain, seq=seq, prev_hash=last)
    head.seq, head.hash = row.seq, row.hash
    _note_head(head)
    return row


def _team_id(chain: str) -> UUID | None:
    """Of a team that the restored database does not know."""
    return UUID(chain.removeprefix(_TEAM)) if chain.startswith(_TEAM) else None


def chain_of(team_id: UUID | None) -> str:
    """The team's chain, or the site's for None."""
    return f"{_TEAM}{team_id}" if team_id else SITE_CHAIN


def team_of(chain: str) -> Team | None:
    """None for the site's chain, and for a chain whose team was deleted or whose name was edited."""
    try:
        return Team.objects.filter(pk=chain.removeprefix(_TEAM)).first() if chain != SITE_CHAIN else None
    except ValidationError:
        return None
