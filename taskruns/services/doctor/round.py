"""Runs the checks side by side, so that a part that hangs delays no other, and all end within a few seconds."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warn", "fail"]
WITHIN = 4.5  # seconds for all checks together


@dataclass(frozen=True, slots=True)
class Check:
    """What one check found. `do`: what to do about it; empty if all is well. No text holds a secret."""

    name: str
    state: State
    says: str
    do: str = ""


Work = Callable[["Round"], Iterable[Check]]


@dataclass(slots=True)
class _Part:
    name: str
    do: str
    found: list[Check]
    is_done: bool = False


class Round:
    """Parts run in threads of their own. One that does not end in time is reported under its name."""

    def __init__(self, within: float = WITHIN) -> None:
        self._until = time.monotonic() + within
        self._within = within
        self._changed = threading.Condition()
        self._parts: list[_Part] = []

    def start(self, name: str, work: Work, *, do: str) -> None:
        """`do`: what to do if it does not end in time. A part may start others."""
        part = _Part(name, do, [])
        with self._changed:
            self._parts.append(part)
        threading.Thread(target=self._run, args=(part, work), name=f"doctor {name}", daemon=True).start()

    def found(self) -> list[Check]:
        """Wait for all parts. Returns what they found, in the order in which they were started."""
        with self._changed:
            while not all(part.is_done for part in self._parts):
                if (left := self._until - time.monotonic()) <= 0:
                    break
                self._changed.wait(left)
            return [check for part in self._parts for check in (*part.found, *self._late(part))]

    def _late(self, part: _Part) -> list[Check]:
        if part.is_done:
            return []
        return [Check(part.name, "fail", f"It did not answer within {self._within:g} seconds.", part.do)]

    def _run(self, part: _Part, work: Work) -> None:
        try:
            for check in work(self):
                with self._changed:
                    part.found.append(check)
        except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
            # Only the type: the text of an error may quote what was given to it.
            failed = Check(part.name, "fail", f"The check stopped with an error ({type(error).__name__}).", part.do)
            with self._changed:
                part.found.append(failed)
        finally:
            with self._changed:
                part.is_done = True
                self._changed.notify_all()
