"""Places for the requests of scripts that wait for Arize, so that a slow Arize takes only some of the web threads.

Without a free place, a request waits briefly while Arize answers fast. While Arize is slow, no request waits for one.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Of one process, which has 8 threads. With the places of people (`remote_acts.MOST_WAITING`), some stay free for pages.
PLACES = 3
READS = 2  # reads leave the last place to cancels
READS_WAITING = 2  # reads can be sent again; cancels wait in any number
# Requests that keep waiting for a cancel that another request sends. With the places, at most one more than PLACES.
FOLLOWERS = 2
QUICK = 0.3  # seconds of a call; a slower one means that Arize is slow
LONGEST_WAIT = 0.5  # seconds


class Places:
    """Thread-safe."""

    def __init__(self) -> None:
        self._freed = threading.Condition()
        self._held: dict[object, tuple[float, bool]] = {}  # since when, and whether for a read
        self._followers = self._waiting_reads = 0
        self._last_took = 0.0

    @contextmanager
    def place(self, *, is_read: bool) -> Iterator[bool]:
        """Waits briefly for a free place. Yields False if there is none."""
        ticket = object()
        with self._freed:
            is_taken = self._wait(is_read=is_read)
            if is_taken:
                self._held[ticket] = (time.monotonic(), is_read)
        try:
            yield is_taken
        finally:
            if is_taken:
                self._leave(ticket)

    @contextmanager
    def follow(self) -> Iterator[bool]:
        """Yields False if too many wait already. Never waits itself."""
        with self._freed:
            is_taken = self._followers < FOLLOWERS and self._has_room()
            self._followers += is_taken
        try:
            yield is_taken
        finally:
            with self._freed:
                self._followers -= is_taken
                self._freed.notify_all()

    def _leave(self, ticket: object) -> None:
        with self._freed:
            since, _ = self._held.pop(ticket)
            self._last_took = time.monotonic() - since
            self._freed.notify_all()

    def _wait(self, *, is_read: bool) -> bool:
        until = time.monotonic() + LONGEST_WAIT
        if is_read and not self._is_free(is_read=True) and self._waiting_reads >= READS_WAITING:
            return False
        self._waiting_reads += is_read
        try:
            while not self._is_free(is_read=is_read):
                left = min(until - time.monotonic(), self._patience())
                if left <= 0:
                    return False
                self._freed.wait(left)
            return True
        finally:
            self._waiting_reads -= is_read

    def _is_free(self, *, is_read: bool) -> bool:
        reads = sum(it for _, it in self._held.values())
        return len(self._held) < PLACES and self._has_room() and not (is_read and reads >= READS)

    def _has_room(self) -> bool:
        """Whether one more may hold or follow: together they are at most one more than PLACES."""
        return len(self._held) + self._followers <= PLACES

    def _patience(self) -> float:
        """Seconds for which the calls in progress may still prove quick. 0 if the last call was slow."""
        newest = max((since for since, _ in self._held.values()), default=0.0)
        return 0.0 if self._last_took > QUICK else newest + QUICK - time.monotonic()


of_scripts = Places()
