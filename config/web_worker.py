"""A gunicorn worker in which slow clients can hold only a few threads.

Gunicorn's own `gthread` worker lets a thread wait without limit for the rest of a request, or for a client that does
not read the response. One client without an account could open as many connections as there are threads and so stop
the panel. Here a request that keeps its thread waiting for more than a second needs one of a few places. If none is
free, its connection is closed.
"""

import errno
import socket
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from selectors import EVENT_READ
from threading import BoundedSemaphore
from typing import Any, TypeVar

from gunicorn.workers.gthread import TConn, ThreadWorker

QUICK = 1.0  # seconds that a request may keep its thread waiting without a place
HURRIED = 0.05  # the same while other requests wait for a thread
LONGEST_REQUEST = 20.0  # seconds in which a request must arrive, including its body
FIRST_BYTE = 5.0  # seconds in which a new connection must send something, however long KEEPALIVE is
LINGERS = 2.0  # seconds that the client has to close the connection after the response
LONGEST_PIECE = 30.0  # seconds in which the client must read one piece of the response
NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
PAUSE = 0.05  # seconds until the next try to accept one
T = TypeVar("T")


class SlowClient(ConnectionResetError):
    """Gunicorn closes the connection and logs no traceback, as for a client that went away."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "The client was too slow.")


class TimedSocket(socket.socket):
    """A socket that limits how long one request waits for its client. Raises SlowClient.

    Before `begin` and after `end`, gunicorn's own time limits apply.
    """

    _places: BoundedSemaphore | None = None
    _patience: Callable[[], float] = staticmethod(lambda: QUICK)
    _has_place = False
    _waited = _arrives_until = 0.0

    def begin(self, places: BoundedSemaphore, patience: Callable[[], float] = lambda: QUICK) -> None:
        """`patience`: how long the arrival of the request may wait without a place now."""
        self._places, self._waited, self._patience = places, 0.0, patience
        self._arrives_until = time.monotonic() + LONGEST_REQUEST

    def end(self) -> None:
        if self._places is not None and self._has_place:
            self._places.release()
        self._places, self._has_place = None, False

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        return self._wait(partial(super().recv, size, flags), until=self._arrives_until, patience=self._patience())

    def sendall(self, data: Any, flags: int = 0, /) -> None:
        left, until = memoryview(data).cast("B"), time.monotonic() + LONGEST_PIECE
        while left:
            # Never hurried: the answer may be that of a click.
            sent = self._wait(partial(super().send, left, flags), until=until, patience=QUICK)
            left = left[sent:]

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """For static files, which are small. The library's method would restart the timeout with every byte sent."""
        file.seek(offset)
        data = file.read(-1 if count is None else count)
        self.sendall(data)
        return len(data)

    def _wait(self, act: Callable[[], T], *, until: float, patience: float) -> T:
        if self._places is None:
            return act()
        if not self._has_place:
            began = time.monotonic()
            self.settimeout(max(patience - self._waited, 0.001))
            try:
                return act()
            except TimeoutError:
                if not self._places.acquire(blocking=False):
                    raise SlowClient from None
                self._has_place = True
            finally:
                self._waited += time.monotonic() - began
        self.settimeout(max(until - time.monotonic(), 0.001))
        try:
            return act()
        except TimeoutError:
            raise SlowClient from None


class Worker(ThreadWorker):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._places = BoundedSemaphore(max(self.cfg.threads // 2, 1))
        self._lingering: deque[TConn] = deque()  # the first one times out first

    def accept(self, listener: socket.socket) -> None:
        """Gunicorn would end the process when it has no room for one more connection."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self.log.warning("No connection can be accepted: %s", error)
            time.sleep(PAUSE)  # the listener stays ready, so the loop would spin until a connection ends

    def set_accept_enabled(self, enabled: bool) -> None:  # noqa: FBT001 - gunicorn's signature
        super().set_accept_enabled(enabled)
        if not self.alive:
            self._stop_listening()

    def _stop_listening(self) -> None:
        """Serve the clients that have connected and refuse all others.

        Gunicorn would keep the socket until the last request has ended, without accepting. A client that connects then
        is cut off, and a proxy that has sent a click may not send it again to another host.
        """
        for listener in self.sockets:
            before = -1
            while self.nr_conns != before:
                before = self.nr_conns
                self.accept(listener)
            listener.close()
        self.sockets.clear()

    def enqueue_req(self, conn: TConn) -> None:
        """A new connection waits for its first byte in the poller, not in a thread."""
        if conn.initialized or conn.data_ready:
            super().enqueue_req(conn)
            return
        conn.sock = TimedSocket(fileno=conn.sock.detach())
        conn.sock.setblocking(False)
        conn.timeout = time.monotonic() + FIRST_BYTE
        self.pending_conns.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self.on_pending_socket_readable, conn))

    def handle(self, conn: TConn) -> Any:
        conn.sock.begin(self._places, self._patience)
        try:
            return super().handle(conn)
        finally:
            conn.sock.end()

    def _patience(self) -> float:
        """Otherwise a crowd of slow requests would take all threads, each for QUICK seconds."""
        waiting = self.tpool._work_queue.qsize()  # noqa: SLF001 - the pool says it nowhere else
        return HURRIED if waiting else QUICK

    def finish_request(self, conn: TConn, future: "Future[Any]") -> None:
        """Gunicorn would wait here up to 2 s for the client to close, and serve no other client in that time."""
        if not future.cancelled() and future.exception() is None and not future.result():
            self._linger(conn)
        else:
            super().finish_request(conn, future)

    def murder_pending(self) -> None:
        super().murder_pending()
        while self._lingering and self._lingering[0].timeout <= time.monotonic():
            self._drop(self._lingering[0])

    def _linger(self, conn: TConn) -> None:
        """Close only the sending side: a full close could cost the client the end of the response."""
        if conn.sock.fileno() < 0:  # gunicorn closed it: the response failed after its headers
            self.nr_conns -= 1
            return
        conn.timeout = time.monotonic() + LINGERS
        conn.sock.setblocking(False)
        self._lingering.append(conn)
        self.poller.register(conn.sock, EVENT_READ, partial(self._drain, conn))
        try:
            conn.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._drop(conn)

    def _drain(self, conn: TConn, _socket: socket.socket) -> None:
        try:
            if conn.sock.recv(65_536):
                return
        except BlockingIOError:
            return
        except OSError as error:
            self.log.debug("Closing connection. %s", error)
        self._drop(conn)

    def _drop(self, conn: TConn) -> None:
        self._lingering.remove(conn)
        self.poller.unregister(conn.sock)
        self.nr_conns -= 1
        conn.close()
