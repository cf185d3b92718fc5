"""How many requests a second are let through."""


class RateLimit:
    """A bucket that holds one second's requests and fills again evenly, so that a steady pace is never refused."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._most = max(1.0, per_second)
        self._left = self._most
        self._at: float | None = None

    def lets_through(self, now: float) -> bool:
        """`now` in seconds of any clock that only goes forward. Not safe between threads."""
        if self._at is not None:
            self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
