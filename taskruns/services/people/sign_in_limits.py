"""Limits wrong passwords: per address, per account, and per account from one address or from one known browser.

Attempts from a known browser, in which the person has signed in before, are counted apart. So guesses from elsewhere
never lock the person out of it.
"""

import ipaddress
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.models import Limit, SignInCount, User
from taskruns.models.stamps import long_ago

from . import accounts

log = structlog.get_logger(__name__)

# Guesses at an account are reported again after this long without any.
QUIET_FOR = timedelta(hours=1)


ADDRESS = Limit("address", 10, timedelta(minutes=1))
ACCOUNT = Limit("account", 5, timedelta(minutes=5))
ACCOUNT_AND_ADDRESS = (
    Limit("account and address", 5, timedelta(minutes=5)),
    Limit("account and address, long", 20, timedelta(hours=1)),
)
_GUESSES = (ACCOUNT, ACCOUNT_AND_ADDRESS[1])  # reaching one of these is reported; mistyping does not reach them
ACCOUNT_AND_BROWSER = Limit("account and browser", 5, timedelta(minutes=5))


class TooManyAttempts(Exception):
    """`until`: when to try again. `is_of_account`: the account's limit, so a known browser may still work.

    `is_new`: the first refusal of this window, which is reported.
    """

    def __init__(self, until: datetime, *, is_of_account: bool, is_new: bool) -> None:
        super().__init__()
        self.until, self.is_of_account, self.is_new = until, is_of_account, is_new


@dataclass(slots=True)
class Attempt:
    """One attempt within the limits. It counts as wrong until `forgive()`."""

    buckets: list[str] = field(default_factory=list)

    def forgive(self) -> None:
        SignInCount.objects.filter(bucket__in=self.buckets, attempts__gt=0).update(attempts=F("attempts") - 1)
        self.buckets.clear()


def begin(login: str, *, address: str, browser: str = "") -> Attempt:
    """Count an attempt before its password is checked, so that parallel attempts cannot exceed the limits.

    `browser`: the name of a known browser of this account, or empty. Raises TooManyAttempts.
    """
    account, where = _normalized(login), network(address)
    attempt = Attempt()
    if browser:
        _count(attempt, ACCOUNT_AND_BROWSER, account, browser)
        return attempt
    _count(attempt, ADDRESS, where)
    for limit in ACCOUNT_AND_ADDRESS:
        _count(attempt, limit, account, where)
    _count(attempt, ACCOUNT, account)
    return attempt


def report_guesses(login: str) -> User | None:
    """Record guesses at an account, once per wave. Returns the person to notify, or None.

    Called by the worker: the duration of a request must not reveal which accounts exist.
    """
    person = User.objects.filter(email__iexact=login.strip(), is_active=True).first()
    if person is None:
        return None
    now = timezone.now()
    with transaction.atomic():
        quiet = long_ago("guessed_at", now, QUIET_FOR)
        is_new = User.objects.filter(quiet, pk=person.pk).update(guessed_at=now, guesses_unseen=True)
        if not is_new:
            User.objects.filter(pk=person.pk).update(guessed_at=now)
            return None
        details = {"why": "guessing"}
        target = accounts.target_of(person)
        record(EventType.AUTH_SIGN_IN, "throttled", by=Actor.job("sign-in"), target=target, details=details)
    log.warning("sign_in_guessed", person=str(person.pk))
    return person


def show_guesses(person: User) -> datetime | None:
    """When someone last guessed at the account, or None. Shown once: the first call after a wave marks it as seen."""
    if not person.guesses_unseen:
        return None
    shown = User.objects.filter(pk=person.pk, guesses_unseen=True).update(guesses_unseen=False)
    return person.guessed_at if shown else None


def forget_expired() -> int:
    """Delete the counts whose window is over. Returns how many."""
    return SignInCount.objects.filter(ends_at__lte=timezone.now()).delete()[0]


def _count(attempt: Attempt, limit: Limit, *of: str) -> None:
    bucket = limit.bucket(*of)
    if SignInCount.objects.try_count(limit, *of):
        attempt.buckets.append(bucket)
        return
    # A refused attempt must not count towards the other limits.
    attempt.forgive()
    is_new = SignInCount.objects.filter(bucket=bucket, is_reported=False).update(is_reported=True)
    until = SignInCount.objects.filter(bucket=bucket).values_list("ends_at", flat=True).first()
    raise TooManyAttempts(
        until or timezone.now(), is_of_account=limit is not ADDRESS, is_new=limit in _GUESSES and bool(is_new)
    )


def _normalized(login: str) -> str:
    """The same text for all spellings that the database may treat as the same address."""
    return unicodedata.normalize("NFKC", login).strip().casefold()


def network(address: str) -> str:
    """The address, or for IPv6 its /64 network, because one household has at least a /64."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((found, 64), strict=False).network_address)
    return str(found)
