"""The connections below the client: they know when a request has left, and they stop at a deadline.

A read time-out alone does not end a call to a server that drips a byte now and then, so each read from the
socket also ends at the deadline of the whole call: headers, body, chunks and TLS records alike. And only the
connection itself knows whether anything was sent; the kind of an exception does not always tell.
"""

import http.client
import io
import ipaddress
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError
from urllib3.util.retry import Retry

BACKOFF = 0.3  # seconds before the first retry, doubled for each further one
JITTER = 0.3  # seconds at most, added at random so that the threads of a round do not return together
LONGEST_BACKOFF = 2.0  # seconds


@dataclass(frozen=True)
class Timeouts:
    """Seconds. `connect` for each address of the host; `read` for a silence of the server."""

    connect: float = 4.0
    read: float = 12.0

    @property
    def call(self) -> float:
        """The deadline of one call as a whole, retries included."""
        return self.connect + 2 * self.read


@dataclass(slots=True)
class Call:
    """One call of the client, retries included. `deadline` is on the monotonic clock, in seconds; `may_retry` is
    asked before each further attempt.

    `sent`: False once a connection was tried, True once a byte of a request may have left on one;
    None if no connection was asked for at all (an address that is none, a mock in a test).
    """

    deadline: float
    may_retry: Callable[[], bool] = lambda: True
    attempts: int = 1
    sent: bool | None = None
    public_only: bool = False  # a private address is no Arize, whatever the name service says

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()


_CALL: ContextVar[Call] = ContextVar("call")


@contextmanager
def call_within(seconds: float, *, may_retry: Callable[[], bool], public_only: bool = False) -> Iterator[Call]:
    """Everything that this thread does over HTTP inside belongs to one call with one deadline."""
    call = Call(deadline=time.monotonic() + seconds, may_retry=may_retry, public_only=public_only)
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)


class GetRetry(Retry):
    """urllib3's Retry for GETs that failed on the way or by 500, 502, 503, 504. Never for 429, and never
    sleeping on Retry-After: the caller decides when to come back. No attempt starts after the deadline, nor one
    that the caller does not allow.
    """

    @classmethod
    def times(cls, retries: int) -> Self:
        return cls(
            total=retries,
            other=0,  # a certificate does not become good by asking again
            allowed_methods={"GET"},
            status_forcelist={500, 502, 503, 504},
            respect_retry_after_header=False,
            raise_on_status=False,
        )

    def increment(self, *args: Any, **kwargs: Any) -> Self:
        call = _CALL.get()
        following = super().increment(*args, **kwargs)  # raises when there is no attempt left
        if call.seconds_left <= 0 or not call.may_retry():
            return self.new(total=0).increment(*args, **kwargs)
        call.attempts += 1
        return following

    def get_backoff_time(self) -> float:
        """Seconds. Unlike urllib3's, the first retry waits too: a fault is seldom gone at once."""
        doubled = BACKOFF * 2 ** max(len(self.history) - 1, 0)
        return float(min(doubled + random.uniform(0, JITTER), LONGEST_BACKOFF))  # noqa: S311 - no secret


_ENDS_WITH_IPV4 = [ipaddress.IPv6Network(network) for network in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48")]


def is_public(address: str) -> bool:
    """Neither this machine, nor its network, nor what else is not the internet: also inside of an IPv6 address."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return all(it.is_global and not it.is_multicast for it in (ip, *_inside(ip)))


def _inside(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address leads to: mapped, compatible, 6to4, NAT64 (RFC 6052), Teredo."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    at_the_end = [ipaddress.IPv4Address(ip.packed[12:])] if any(ip in network for network in _ENDS_WITH_IPV4) else []
    return [it for it in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ()), *at_the_end) if it is not None]


class _DeadlineReader(io.RawIOBase):
    """The socket's bytes; each read waits for the read time-out or for what is left of the call, if less."""

    def __init__(self, connection: socket.socket, call: Call) -> None:
        self._connection = connection
        self._bytes = connection.makefile("rb", buffering=0)
        self._call = call
        self._silence = connection.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._call.seconds_left
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left if self._silence is None else min(left, self._silence))
        return self._bytes.readinto(buffer)

    def close(self) -> None:
        self._bytes.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_DeadlineReader(sock, _CALL.get()))


class PrivateAddress(NewConnectionError):
    """The name of a public host led to an address inside: nothing was sent there."""


class _PlainConnection(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        """Looks at the address that was really reached, which no second answer of the name service can change."""
        connection = super()._new_conn()
        if _CALL.get().public_only and not is_public(connection.getpeername()[0]):
            connection.close()
            raise PrivateAddress(self, "a private address")
        return connection

    def connect(self) -> None:
        call = _CALL.get()
        call.sent = call.sent or False  # an earlier attempt of this call may have sent
        super().connect()

    def send(self, data: Any) -> None:
        if self.sock is None:
            self.connect()
        _CALL.get().sent = True  # before the bytes: part of them may arrive even when this fails
        super().send(data)


class _TlsConnection(_PlainConnection, HTTPSConnection):
    """The same over TLS: HTTPSConnection comes next in the order of methods."""


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOLS = {"http": _PlainPool, "https": _TlsPool}
