"""Which servers still want a status filter in lower case (self-hosted ones from before July 2026)."""

import threading

from taskruns.arize.wire import RunStatus


class StatusCasing:
    """Remembers by endpoint what worked last. Upper case until shown otherwise. Safe between threads."""

    def __init__(self) -> None:
        self._lower: set[str] = set()
        self._lock = threading.Lock()

    def spellings(self, endpoint: str, status: RunStatus) -> tuple[str, str]:
        """The likelier spelling first."""
        with self._lock:
            is_lower = endpoint in self._lower
        upper, lower = status.value.upper(), status.value.lower()
        return (lower, upper) if is_lower else (upper, lower)

    def worked(self, endpoint: str, spelling: str) -> None:
        with self._lock:
            if spelling.islower():
                self._lower.add(endpoint)
            else:
                self._lower.discard(endpoint)
