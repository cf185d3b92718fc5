"""Reading anchors from a file outside the database: many chains, in any order, some lines twice.

Anchors are sorted in a temporary file, so memory use does not grow with the file. A full disk or a crash may leave
partial lines: they are reported by number and the other lines still count.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from taskruns.verifier import UNREADABLE, canonical, is_anchor

Anchor = dict[str, Any]
REPORT_EVERY = 10_000  # lines


class NoAnchors(Exception):
    """The file cannot be read, or has no anchors of the requested chain. The text says which and what to do."""


class UnreadableAnchors(NoAnchors):
    """The file cannot be read at all."""


class AnchorFile:
    """`torn`: the numbers of the first ten lines that are not anchors. `torn_count`: how many such lines there are."""

    def __init__(self, path: Path, *, progress: Callable[[], None] = lambda: None) -> None:
        """Raises NoAnchors. `progress` is called every REPORT_EVERY lines."""
        self.torn: list[int] = []
        self.torn_count, self.count = 0, 0
        # "": a temporary file that SQLite deletes when the connection closes.
        self._sorted = sqlite3.connect("", check_same_thread=False)
        self._sorted.execute(
            "CREATE TABLE anchor (chain, seq INTEGER, text, PRIMARY KEY (chain, seq, text)) WITHOUT ROWID"
        )
        try:
            with path.open(encoding="utf-8", errors="replace") as lines:
                self._read(lines, progress)
        except OSError as error:
            raise UnreadableAnchors(
                f"The anchor file cannot be read: {error.strerror}. Check its path and permissions."
            ) from None
        if not self.count:
            raise NoAnchors("The anchor file contains no anchors. Check its path.")

    def chains(self) -> set[str]:
        return {chain for (chain,) in self._sorted.execute("SELECT DISTINCT chain FROM anchor")}

    def of(self, chain: str) -> Iterator[Anchor]:
        """The chain's anchors, by row number."""
        found = self._sorted.execute("SELECT text FROM anchor WHERE chain = ? ORDER BY seq, text", (chain,))
        return (json.loads(text) for (text,) in found)

    def _read(self, lines: Iterator[str], progress: Callable[[], None]) -> None:
        for number, line in enumerate(lines, 1):
            if line.strip() and not self._add(line):
                self.torn_count += 1
                self.torn += [number] if len(self.torn) < 10 else []
            if number % REPORT_EVERY == 0:
                progress()

    def _add(self, line: str) -> bool:
        try:
            anchor = json.loads(line)
            if not is_anchor(anchor):
                return False
            row = (anchor["chain"], anchor["seq"], canonical(anchor))
            self._sorted.execute("INSERT OR IGNORE INTO anchor VALUES (?, ?, ?)", row)
        except UNREADABLE:
            return False
        self.count += 1
        return True
