"""Compares AUDIT_ANCHOR_FILE with the database before anything is appended to it.

If an older copy of the database was put in place without `restore`, the file names rows that the database does not
have. Anchors of the rows that follow would contradict those in the file for good. So nothing is published then.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from taskruns.models import AuditEvent
from taskruns.verifier import UNREADABLE, is_anchor, lost_rows, signature_holds

from .events import EventType
from .raw_rows import UNREADABLE_VALUE, with_number
from .row_json import row_as_json
from .signing_keys import public_keys

Anchor = dict[str, Any]
_TRIED = 3  # the newest anchors of a chain, among which one of ours is looked for
_SENTENCE = (
    "AUDIT_ANCHOR_FILE names row {seq} of {chain}, which this database does not have: it is an older copy, or another "
    "panel's. No anchors are published. If it is an older copy, make a backup of it and restore that backup with "
    "`manage.py restore`, which records what is lost."
)


class AnchorLead:
    """The newest anchor of each chain in the file. It is read once, and then only as far as it has grown.

    Only anchors that this panel signed count.
    """

    def __init__(self) -> None:
        self._start_over("")

    def _start_over(self, name: str) -> None:
        self._name, self._end = name, 0
        self._newest: dict[str, Anchor] = {}
        self._unchecked: set[str] = set()

    def problem(self, file: BinaryIO, name: str) -> str:
        """A sentence if the file names rows that the database does not have, or "". Moves the file's position."""
        self._read(file, name)
        for chain in sorted(self._unchecked):
            if not is_known(anchor := self._newest[chain]):
                return _SENTENCE.format(seq=anchor["seq"], chain=ascii(chain)[1:-1])
            self._unchecked.remove(chain)
        return ""

    def _read(self, file: BinaryIO, name: str) -> None:
        if name != self._name or file.seek(0, 2) < self._end:
            self._start_over(name)  # another file, or one that was cut
        file.seek(self._end)
        found: dict[str, list[Anchor]] = {}
        for anchor in self._whole_lines(file):
            of_chain = found.setdefault(anchor["chain"], [])
            of_chain.append(anchor)
            if len(of_chain) > 2 * _TRIED:
                found[anchor["chain"]] = _highest(of_chain)
        for chain, anchors in found.items():
            self._take(chain, _highest(anchors))

    def _whole_lines(self, file: BinaryIO) -> Iterator[Anchor]:
        """The anchors in lines that end. A crash or a full disk may leave others."""
        for line in iter(file.readline, b""):
            if not line.endswith(b"\n"):
                return
            self._end += len(line)
            try:
                anchor = json.loads(line)
            except UNREADABLE:
                continue
            if is_anchor(anchor):
                yield anchor

    def _take(self, chain: str, anchors: Iterable[Anchor]) -> None:
        keys = public_keys()
        newest = next((anchor for anchor in anchors if signature_holds(anchor, keys)), None)
        if newest is not None and newest["seq"] >= self._newest.get(chain, newest)["seq"]:
            self._newest[chain] = newest
            self._unchecked.add(chain)


def _highest(anchors: list[Anchor]) -> list[Anchor]:
    return sorted(anchors, key=lambda anchor: int(anchor["seq"]), reverse=True)[:_TRIED]


def is_known(anchor: Anchor) -> bool:
    """Whether the database has the signed row, or a restore acknowledged that it is lost."""
    rows = with_number(AuditEvent.objects.filter(chain=anchor["chain"]))
    stored = rows.filter(seq=anchor["seq"]).values_list("hash", flat=True).first()
    if stored is not None:
        return bool(stored == anchor["hash"])
    after = rows.filter(seq__gt=anchor["seq"]).order_by("seq")
    try:
        row = after.first()
        lost = None if row is None or row.event != EventType.SYSTEM_RESTORED else _lost(row)
    except UNREADABLE_VALUE:
        return False
    return lost is not None and lost[0] <= anchor["seq"] <= lost[1]


def _lost(row: AuditEvent) -> tuple[int, int] | None:
    return lost_rows(row_as_json(row), public_keys())
