"""Connections that know whether anything was sent, and that stop at the deadline of their call.

A read time-out alone does not end a call to a server that sends one byte now and then, so each read from the socket
also ends at the deadline of the whole call: headers, body, chunks and TLS records alike. And only the connection knows
whether anything was sent; the kind of an exception does not always tell.
"""

import http.client
import io
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

from .fence import is_public

BACKOFF = 0.3  # seconds before the first retry, doubled for each further one
JITTER = 0.3  # seconds at most, added at random so that the threads of a round do not return together
LONGEST_BACKOFF = 2.0  # seconds


@dataclass(slots=True)
class Call:
    """One call, retries included. `began` and `deadline` are seconds on the monotonic clock; `may_retry` is asked
    before each retry; `public_only` refuses an address off the internet, whatever name led to it.

    `sent`: False once a connection was tried, True once a byte of a request may have left on one;
    None if no connection was asked for at all (a malformed address, a mock in a test).
    """

    began: float
    deadline: float
    may_retry: Callable[[], bool]
    public_only: bool
    attempts: int = 1
    sent: bool | None = None

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def milliseconds(self) -> int:
        """How long it has taken so far."""
        return round((time.monotonic() - self.began) * 1000)


_CALL: ContextVar[Call] = ContextVar("call")


@contextmanager
def call_within(seconds: float, *, may_retry: Callable[[], bool], public_only: bool) -> Iterator[Call]:
    """Whatever this thread sends inside the block belongs to one call with one deadline."""
    began = time.monotonic()
    call = Call(began=began, deadline=began + seconds, may_retry=may_retry, public_only=public_only)
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)


class GetRetry(Retry):
    """Retries GETs that failed on the way or with 500, 502, 503, 504. It retries no 429 and never sleeps on
    Retry-After: the caller decides when to come back. No attempt starts after the deadline, nor one that the caller
    does not allow.
    """

    @classmethod
    def times(cls, retries: int) -> Self:
        return cls(
            total=retries,
            other=0,  # a bad certificate stays bad
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
        """Seconds. Unlike urllib3, the first retry waits too: a fault is seldom gone at once."""
        doubled = BACKOFF * 2 ** max(len(self.history) - 1, 0)
        return float(min(doubled + random.uniform(0, JITTER), LONGEST_BACKOFF))  # noqa: S311 - no secret


class _DeadlineReader(io.RawIOBase):
    """The socket's bytes. Each read waits for the read time-out, or for what is left of the call if that is less."""

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
    """A host that must be public led to a private address: nothing was sent there."""


class _PlainConnection(HTTPConnection):
    response_class = _Response

    def _new_conn(self) -> socket.socket:
        """Checks the address that was reached, because a second look-up of the name could give another one."""
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
