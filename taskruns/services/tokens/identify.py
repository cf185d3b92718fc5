"""Finds the token of a request. Each text costs the same work, so that the time of an answer reveals nothing."""

from datetime import datetime, timedelta
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.db.models import CharField, DateTimeField, Q
from django.utils import timezone
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import clean_line
from taskruns.models import Token
from taskruns.models.prepared import ForAMinute, Prepared, Slot
from taskruns.models.stamps import long_ago
from taskruns.models.teams import confirmed_since
from taskruns.services.minor_writes import try_write

from .access import Refusal, TokenAccess, TokenRefused, granted, with_maker_role
from .secret import digest_of, is_well_formed

USED_EVERY = timedelta(minutes=1)
# A script that runs on two machines at once must not make each of its requests a write.
MOVED_EVERY = timedelta(seconds=10)
LONGEST_CLIENT = 200
# Tokens whose use could not be written, so that not each request waits for the lock.
_not_written = ForAMinute[bool](most=10_000)


@sensitive_variables("secret")
def identify(secret: str, *, ip: str, client: str) -> TokenAccess:
    """The access of the token with this secret. `client`: the user agent. Raises TokenRefused."""
    is_typed_well = is_well_formed(secret)
    found = _by_digest().rows(digest=digest_of(secret), since=confirmed_since())
    if not found:
        raise TokenRefused(Refusal.UNKNOWN if is_typed_well else Refusal.MISTYPED)
    now = timezone.now()
    access = granted(found[0], now)
    if not is_within(ip, access.token.networks):
        raise TokenRefused(Refusal.NETWORK, access.token)
    _note_use(access.token, ip=ip, client=clean_line(client, LONGEST_CLIENT), now=now)
    return access


def is_within(ip: str, networks: list[str]) -> bool:
    """Whether the address is in one of them. An empty list allows every address."""
    if not networks:
        return True
    try:
        address = _plain(ip_address(ip))
    except ValueError:
        return False
    return any(address in ip_network(network) for network in networks)


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """A server that listens on IPv6 sees IPv4 clients as `::ffff:192.0.2.1`."""
    return getattr(address, "ipv4_mapped", None) or address


@cache
def _by_digest() -> Prepared[Token]:
    tokens = with_maker_role(Slot("since", DateTimeField())).select_related("team")
    return Prepared(tokens.filter(digest=Slot("digest", CharField())))


def _note_use(token: Token, *, ip: str, client: str, now: datetime) -> None:
    """Not for each request, because each would be a write. Skipped if the database is locked."""
    every = USED_EVERY if (token.last_used_ip, token.last_used_client) == (ip, client) else MOVED_EVERY
    if not _is_due(token.last_used_at, now, every) or _not_written.get(token.pk):
        return
    # Of parallel requests, one writes.
    due: Q = long_ago("last_used_at", now, every)
    row = Token.objects.filter(due, pk=token.pk)
    used = {"last_used_at": now, "last_used_ip": ip, "last_used_client": client}
    if try_write(lambda: row.update(**used), what="last use of a token") is None:
        _not_written.keep(token.pk, True)


def _is_due(last: datetime | None, now: datetime, every: timedelta) -> bool:
    return last is None or not now - every < last <= now + every
