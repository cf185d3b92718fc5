"""The only way to call Arize with a stored key. It opens and closes the connections and counts the calls.

Calls are counted per key and hour. A count that cannot be written is logged and dropped, so that it never stops a call.
"""

import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import cache
from typing import Any

import structlog
from django.conf import settings
from django.db import DatabaseError
from django.db.models import DateTimeField, F, IntegerField, Q, UUIDField
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from taskruns.arize.client import ArizeClient, Timeouts
from taskruns.arize.endpoints import EndpointRefused, check_endpoint, normalise
from taskruns.encryption import DecryptionFailed
from taskruns.models import Credential, KeyUsage
from taskruns.models.prepared import PreparedUpdate, Slot
from taskruns.services.minor_writes import soft_commit, soft_statement
from taskruns.services.user_errors import UserError

log = structlog.get_logger(__name__)
KEPT = timedelta(days=8)
MOST_KEPT = 32  # clients of this process
_kept: dict[uuid.UUID, tuple[tuple[object, ...], ArizeClient]] = {}
_kept_lock = threading.RLock()


class CannotConnect(UserError):
    """The key cannot be used: revoked, not decryptable, or its endpoint is no longer allowed. Nothing was sent."""


class NotDecryptable(CannotConnect):
    """Damaged in the database, or encrypted with a key that this process does not have (see `key_ring.problem`)."""


@contextmanager
def connected(
    credential: Credential,
    *,
    timeouts: Timeouts | None = None,
    get_retries: int = 0,
    pool_size: int = 1,
    may_retry: Callable[[], bool] = lambda: True,
    counted: bool = True,
) -> Iterator[ArizeClient]:
    """A client for this key. At the end, its connections are closed and its calls counted. Raises CannotConnect.

    `counted=False` is for threads that must not use the database; their caller counts later with `count`.
    """
    with _open(credential, timeouts or Timeouts(), get_retries, pool_size, may_retry) as client:
        try:
            yield client
        finally:
            if counted:
                count(credential, calls=client.calls, limited=client.limited)


@sensitive_variables("client", "opened")
def kept(credential: Credential, *, timeouts: Timeouts, pool_size: int) -> ArizeClient:
    """A client whose connections stay open for the next call, for GETs of scripts. Its caller counts the calls.

    A key that was replaced or moved gets a new client. Raises CannotConnect.
    """
    state = (credential.endpoint, credential.ring_number, credential.ciphertext, tuple(settings.ARIZE_ENDPOINTS))
    with _kept_lock:
        known, client = _kept.get(credential.pk, (None, None))
        if client is not None and known == state and credential.revoked_at is None:
            return client
        forget_kept(credential.pk)
    opened = _open(credential, timeouts, None, pool_size, lambda: True)
    with _kept_lock:
        forget_kept(credential.pk)
        for oldest in list(_kept)[: max(0, len(_kept) - MOST_KEPT + 1)]:
            forget_kept(oldest)
        _kept[credential.pk] = (state, opened)
    return opened


def forget_kept(credential_id: uuid.UUID) -> None:
    """Close its idle connections. Calls in progress end as usual."""
    with _kept_lock:
        _, client = _kept.pop(credential_id, (None, None))
    if client is not None:
        client.close()


def count(credential: Credential, *, calls: int, limited: int) -> None:
    """Add calls to the key's count for this hour. `limited`: how many of them Arize answered with 429."""
    if not calls:
        return
    hour = timezone.now().replace(minute=0, second=0, microsecond=0)
    try:
        _add(credential, hour, calls=calls, limited=limited)
    except DatabaseError:
        log.warning("usage_not_counted", key=str(credential.pk), calls=calls, exc_info=True)


def forget_old_counts() -> int:
    """Delete counts that are too old to be shown, and those of revoked keys. Returns how many."""
    past = Q(hour__lt=timezone.now() - KEPT) | Q(credential__revoked_at__isnull=False)
    return KeyUsage.objects.filter(past).delete()[0]


@sensitive_variables("key")
def _open(
    credential: Credential, timeouts: Timeouts, get_retries: int | None, pool_size: int, may_retry: Callable[[], bool]
) -> ArizeClient:
    """Check the endpoint again, because the settings may have changed since the key was saved."""
    if credential.revoked_at is not None:
        raise CannotConnect("This API key was revoked. Another key of the team takes over if it sees the task.")
    try:
        endpoint = check_endpoint(credential.endpoint, extra=settings.ARIZE_ENDPOINTS)
        key = credential.decrypt_secret()
    except EndpointRefused as error:
        raise CannotConnect(str(error)) from None
    except DecryptionFailed as error:
        raise NotDecryptable(error.sentence) from None
    return ArizeClient(
        endpoint,
        key,
        timeouts=timeouts,
        get_retries=get_retries,
        pool_size=pool_size,
        public_only=endpoint not in set(map(normalise, settings.ARIZE_ENDPOINTS)),
        network=settings.NETWORK,
        may_retry=may_retry,
    )


def _add(credential: Credential, hour: datetime, *, calls: int, limited: int) -> None:
    more: dict[str, Any] = {"credential": credential.pk, "hour": hour, "calls": calls, "limited": limited}
    with soft_statement() as before:
        is_counted = _more().run(before=before, **more)
    if not is_counted:
        with soft_commit():
            _, is_new = KeyUsage.objects.get_or_create(
                credential=credential, hour=hour, defaults={"calls": calls, "limited": limited}
            )
            if not is_new:  # another worker was faster
                _more().run(**more)


@cache
def _more() -> PreparedUpdate:
    row = KeyUsage.objects.filter(credential=Slot("credential", UUIDField()), hour=Slot("hour", DateTimeField()))
    calls, limited = Slot("calls", IntegerField()), Slot("limited", IntegerField())
    return PreparedUpdate(row, calls=F("calls") + calls, limited=F("limited") + limited)
