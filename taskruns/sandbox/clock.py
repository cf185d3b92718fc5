"""Simulated time: milliseconds since the start of the world, negative in its past."""

import math
import threading
import time
from datetime import UTC, datetime, timedelta


class Clock:
    """Turns the wall clock into simulated time and simulated time into the UTC times that are shown.

    A fast world is shown in the viewer's own time: a run of 300 simulated seconds at speed 10 takes 30
    seconds and its times say so, hence no time lies in the future. The past before the start is shown
    unscaled. Speed 0 stands still and moves by `advance` only, which may lead ahead of the wall clock.
    """

    def __init__(self, *, speed: float, epoch: datetime | None) -> None:
        self._speed = speed
        self._scale = speed or 1.0
        self._epoch = epoch or datetime.now(UTC)
        self._began = time.monotonic()
        self._advanced_ms = 0
        self._lock = threading.Lock()

    def now_ms(self) -> int:
        elapsed = (time.monotonic() - self._began) * self._speed
        with self._lock:
            return int(elapsed * 1000) + self._advanced_ms

    def advance(self, milliseconds: int) -> None:
        with self._lock:
            self._advanced_ms += milliseconds

    @property
    def tick_ms(self) -> int:
        """The simulated milliseconds that are shown as one."""
        return math.ceil(self._scale)

    def shown(self, simulated_ms: int) -> datetime:
        """The UTC time at which a viewer sees this simulated time."""
        scaled = simulated_ms / self._scale if simulated_ms > 0 else simulated_ms
        return self._epoch + timedelta(milliseconds=int(scaled))

    def simulated(self, shown: datetime) -> int:
        """The simulated milliseconds that are shown so: the way back of `shown`."""
        scaled = -((self._epoch - shown) // timedelta(milliseconds=1))  # rounded up: `shown` rounds down
        return math.ceil(scaled * self._scale) if scaled > 0 else scaled


def iso(moment: datetime, *, fractions: bool = True) -> str:
    """As Arize writes times: UTC, milliseconds, `Z`."""
    text = moment.astimezone(UTC).isoformat(timespec="milliseconds" if fractions else "seconds")
    return text.replace("+00:00", "Z")
