"""Anchors from a copy outside the database, as AUDIT_ANCHOR_FILE has them: of many chains, in any order, often twice.

They are sorted in a temporary file, so that memory does not grow with the copy. The file may have torn lines, where a
disk was full or a machine crashed: they are told by their number, and the others count.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from taskruns.verifier import UNREADABLE, canonical, is_anchor

Anchor = dict[str, Any]
TOLD_EVERY = 10_000  # lines


class NoAnchors(Exception):
    """The file cannot be read, or holds nothing that is an anchor: the text says which."""


class Outside:
    """The anchors of one file. `torn`: the first of the lines that are no anchors, by number; `torn_count`: all."""

    def __init__(self, path: Path, *, tell: Callable[[], None] = lambda: None) -> None:
        self.torn: list[int] = []
        self.torn_count, self.count = 0, 0
        # "": a temporary file of SQLite's own, gone with the connection.
        self._shelf = sqlite3.connect("", check_same_thread=False)
        self._shelf.execute(
            "CREATE TABLE anchor (chain, seq INTEGER, text, PRIMARY KEY (chain, seq, text)) WITHOUT ROWID"
        )
        try:
            with path.open(encoding="utf-8", errors="replace") as lines:
                self._take(lines, tell)
        except OSError as error:
            raise NoAnchors(f"The file of anchors cannot be read: {error.strerror}.") from None
        if not self.count:
            raise NoAnchors("The file of anchors holds no anchor at all.")

    def chains(self) -> set[str]:
        return {chain for (chain,) in self._shelf.execute("SELECT DISTINCT chain FROM anchor")}

    def of(self, chain: str) -> Iterator[Anchor]:
        """In the order of their numbers."""
        found = self._shelf.execute("SELECT text FROM anchor WHERE chain = ? ORDER BY seq, text", (chain,))
        return (json.loads(text) for (text,) in found)

    def _take(self, lines: Iterator[str], tell: Callable[[], None]) -> None:
        for number, line in enumerate(lines, 1):
            if line.strip() and not self._add(line):
                self.torn_count += 1
                self.torn += [number] if len(self.torn) < 10 else []
            if number % TOLD_EVERY == 0:
                tell()

    def _add(self, line: str) -> bool:
        try:
            anchor = json.loads(line)
            if not is_anchor(anchor):
                return False
            row = (anchor["chain"], anchor["seq"], canonical(anchor))
            self._shelf.execute("INSERT OR IGNORE INTO anchor VALUES (?, ?, ?)", row)
        except UNREADABLE:
            return False
        self.count += 1
        return True
