"""How often a password may be tried: for an address, for an account, and for an account from one address or browser.

A browser in which a person has signed in before counts on its own. A stranger who guesses at an account therefore never
keeps its person out of that browser.
"""

import ipaddress
import unicodedata
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog
from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from taskruns.audit import Actor, EventType, record
from taskruns.models import Limit, SignInCount, User

from . import accounts

log = structlog.get_logger(__name__)

# A new wave of guesses is reported after this long without one.
QUIET_FOR = timedelta(hours=1)


ADDRESS = Limit("address", 10, timedelta(minutes=1))
ACCOUNT = Limit("account", 5, timedelta(minutes=5))
ACCOUNT_AND_ADDRESS = (
    Limit("account and address", 5, timedelta(minutes=5)),
    Limit("account and address, long", 20, timedelta(hours=1)),
)
_GUESSES = (ACCOUNT, ACCOUNT_AND_ADDRESS[1])  # what a person does not reach who only mistypes
ACCOUNT_AND_BROWSER = Limit("account and browser", 5, timedelta(minutes=5))


class TooManyAttempts(Exception):
    """`until`: when the next attempt may work. `is_of_account`: another browser may work now.

    `is_new`: the first refusal of this window, to be reported.
    """

    def __init__(self, until: datetime, *, is_of_account: bool, is_new: bool) -> None:
        super().__init__()
        self.until, self.is_of_account, self.is_new = until, is_of_account, is_new


@dataclass(slots=True)
class Attempt:
    """One attempt that was let through. It counts as wrong until `forgive()`."""

    buckets: list[str] = field(default_factory=list)

    def forgive(self) -> None:
        SignInCount.objects.filter(bucket__in=self.buckets, attempts__gt=0).update(attempts=F("attempts") - 1)
        self.buckets.clear()


def begin(login: str, *, address: str, browser: str = "") -> Attempt:
    """Count an attempt before the password is checked: parallel attempts cannot slip through.

    `browser`: names one in which this account has signed in before. Raises TooManyAttempts.
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
    """Record a wave of guesses at an account, once. Returns the person to notify, or None.

    Runs beside the request, so that its duration does not reveal which accounts exist.
    """
    person = User.objects.filter(email__iexact=login.strip(), is_active=True).first()
    if person is None:
        return None
    now = timezone.now()
    with transaction.atomic():
        quiet = Q(guessed_at=None) | Q(guessed_at__lt=now - QUIET_FOR)
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
    """When strangers last guessed at the account, if its person has not seen that yet."""
    if not person.guesses_unseen:
        return None
    shown = User.objects.filter(pk=person.pk, guesses_unseen=True).update(guesses_unseen=False)
    return person.guessed_at if shown else None


def forget_expired() -> int:
    """Delete the counts whose window is over. How many there were."""
    return SignInCount.objects.filter(ends_at__lte=timezone.now()).delete()[0]


def _count(attempt: Attempt, limit: Limit, *of: str) -> None:
    bucket = limit.bucket(*of)
    if SignInCount.objects.has_room(limit, *of):
        attempt.buckets.append(bucket)
        return
    # A refused attempt uses up nothing else.
    attempt.forgive()
    is_new = SignInCount.objects.filter(bucket=bucket, is_reported=False).update(is_reported=True)
    until = SignInCount.objects.filter(bucket=bucket).values_list("ends_at", flat=True).first()
    raise TooManyAttempts(
        until or timezone.now(), is_of_account=limit is not ADDRESS, is_new=limit in _GUESSES and bool(is_new)
    )


def _normalized(login: str) -> str:
    """One for all spellings that the database may treat as the same address."""
    return unicodedata.normalize("NFKC", login).strip().casefold()


def network(address: str) -> str:
    """A household has a /64 of IPv6 addresses."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv6Address):
        return str(ipaddress.IPv6Network((found, 64), strict=False).network_address)
    return str(found)
