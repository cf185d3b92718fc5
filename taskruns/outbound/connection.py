"""Connections that record whether anything was sent, and that stop at the deadline of their call.

Through a proxy, nothing counts as sent before the tunnel stands: CONNECT is not part of the request.

A read timeout alone does not end a call to a server that sends one byte now and then. So each read from the socket also
ends at the deadline of the whole call: headers, body, chunks and TLS records alike. Only the connection knows whether
anything was sent; the exception type does not always show it.
"""

import http.client
import io
import random
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum, auto
from functools import cache
from typing import Any, Self

import certifi
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError, ProtocolError, ProxyError
from urllib3.util.retry import Retry

from .fence import is_public

BACKOFF = 0.3  # seconds before the first retry, doubled for each further one
JITTER = 0.3  # seconds at most, added at random so that the threads of a round do not retry together
LONGEST_BACKOFF = 2.0  # seconds


class Hop(Enum):
    """How far a connection came."""

    TARGET = auto()  # connecting to the target, or connected: the proxy, if any, has no more part in it
    PROXY = auto()  # connecting to the proxy
    TUNNEL = auto()  # asking the proxy for a tunnel


@dataclass(slots=True)
class Call:
    """One call, including its retries. `began` and `deadline` are seconds on the monotonic clock.

    `may_retry` is called before each retry. `public_only` refuses private addresses, whatever name resolved to them.
    `sent`: None before any connection attempt (a malformed address, a mock in a test), False after one, True once a
    byte of a request may have left.
    `proxy_status`: the status with which the proxy refused a tunnel.
    `target`: path and query exactly as they are sent. Empty: as the library spells them.
    """

    began: float
    deadline: float
    may_retry: Callable[[], bool]
    public_only: bool
    target: str = ""
    attempts: int = 1
    sent: bool | None = None
    hop: Hop = Hop.TARGET
    proxy_status: int | None = None

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.monotonic()

    @property
    def milliseconds(self) -> int:
        """Time since the start of the call."""
        return round((time.monotonic() - self.began) * 1000)


_CALL: ContextVar[Call] = ContextVar("call")


@contextmanager
def call_within(
    seconds: float, *, may_retry: Callable[[], bool], public_only: bool, target: str = ""
) -> Iterator[Call]:
    """Everything that this thread sends inside the block belongs to one call with one deadline."""
    began = time.monotonic()
    call = Call(began, began + seconds, may_retry=may_retry, public_only=public_only, target=target)
    token = _CALL.set(call)
    try:
        yield call
    finally:
        _CALL.reset(token)


class GetRetry(Retry):
    """Retries GETs that failed in transit or with 500, 502, 503 or 504.

    It never retries a 429 and never sleeps on Retry-After: the caller decides when to try again. No attempt starts
    after the deadline or without the caller's permission.
    """

    @classmethod
    def times(cls, retries: int) -> Self:
        return cls(
            total=retries,
            other=0,  # retrying does not fix a bad certificate
            allowed_methods={"GET"},
            status_forcelist={500, 502, 503, 504},
            respect_retry_after_header=False,
            raise_on_status=False,
        )

    def increment(self, *args: Any, **kwargs: Any) -> Self:
        call = _CALL.get()
        error = kwargs.get("error")
        if isinstance(error, ProxyError) and call.sent and call.hop is Hop.TARGET:
            # urllib3 also blames the proxy for a connection that was cut behind it.
            kwargs["error"] = ProtocolError("Connection aborted.", error.original_error)
        following = super().increment(*args, **kwargs)  # raises when no attempt is left
        if call.seconds_left <= 0 or not call.may_retry():
            return self.new(total=0).increment(*args, **kwargs)
        call.attempts += 1
        return following

    def get_backoff_time(self) -> float:
        """Seconds. Unlike urllib3, wait before the first retry too: faults rarely clear immediately."""
        doubled = BACKOFF * 2 ** max(len(self.history) - 1, 0)
        return float(min(doubled + random.uniform(0, JITTER), LONGEST_BACKOFF))  # noqa: S311 - no secret


class StaleRetry(GetRetry):
    """Only a second attempt, at once, for a GET on a kept connection that the server had closed in the meantime."""

    @classmethod
    def once(cls) -> Self:
        return cls(
            total=1,
            read=1,
            connect=0,
            status=0,
            other=0,
            allowed_methods={"GET"},
            respect_retry_after_header=False,
            raise_on_status=False,
        )

    def _is_read_error(self, err: Exception) -> bool:
        """Not a timeout, after which a second attempt would take as long again."""
        return isinstance(err, ProtocolError)

    def get_backoff_time(self) -> float:
        return 0.0


class _DeadlineReader(io.RawIOBase):
    """Reads the socket. Each read waits at most for the read timeout and for the rest of the call."""

    def __init__(self, connection: socket.socket, call: Call) -> None:
        self._connection = connection
        self._bytes = connection.makefile("rb", buffering=0)
        self._call = call
        self._read_timeout = connection.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._call.seconds_left
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(left if self._read_timeout is None else min(left, self._read_timeout))
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
    """A host that must be public resolved to a private address. Nothing was sent."""


class ProxyRefused(OSError):
    """The proxy refused a tunnel. Nothing was sent. Not retried: urllib3 retries only what it knows."""


_REFUSED = re.compile(r"Tunnel connection failed: (\d{3})\b")


class _PlainConnection(HTTPConnection):
    response_class = _Response
    _is_tunnelling = False

    def _new_conn(self) -> socket.socket:
        """Check the address we connected to: resolving the name a second time could give another one.

        A proxy may have a private address. What a name means behind it is up to the proxy.
        """
        call = _CALL.get()
        if self.proxy is not None:
            call.hop, call.proxy_status = Hop.PROXY, None
            return super()._new_conn()
        call.hop = Hop.TARGET
        connection = super()._new_conn()
        if call.public_only and not is_public(connection.getpeername()[0]):
            connection.close()
            raise PrivateAddress(self, "a private address")
        return connection

    def _tunnel(self) -> None:
        call = _CALL.get()
        call.hop = Hop.TUNNEL
        self._is_tunnelling = True
        try:
            super()._tunnel()
        except OSError as error:
            if (refused := _REFUSED.match(str(error))) is None:
                raise
            call.proxy_status = int(refused[1])
            raise ProxyRefused from None
        finally:
            self._is_tunnelling = False
        call.hop = Hop.TARGET

    def connect(self) -> None:
        call = _CALL.get()
        call.sent = call.sent or False  # an earlier attempt of this call may have sent
        super().connect()

    def putrequest(self, method: str, url: str, *args: Any, **kwargs: Any) -> None:
        super().putrequest(method, _CALL.get().target or url, *args, **kwargs)

    def send(self, data: Any) -> None:
        if self._is_tunnelling:
            HTTPConnection.send(self, data)
            return
        if self.sock is None:
            self.connect()
        _CALL.get().sent = True  # set before sending: some bytes may arrive even if this fails
        super().send(data)


class _TlsConnection(_PlainConnection, HTTPSConnection):
    """The same over TLS: HTTPSConnection comes next in the method resolution order."""


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOLS = {"http": _PlainPool, "https": _TlsPool}


@cache
def tls_context(ca_bundle: str = "") -> ssl.SSLContext:
    """Trusts the usual authorities, and those in the PEM file if one is named. Raises OSError.

    Made once per process: loading all authorities takes more time than a call.
    """
    context = ssl.create_default_context(cafile=certifi.where())
    if ca_bundle:
        context.load_verify_locations(cafile=ca_bundle)
    return context
