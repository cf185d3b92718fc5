#!/usr/bin/env python3
r"""Checks an audit export of Taskruns: `python verifier.py EXPORT.jsonl [--anchors FILE] [--public-key BASE64]`.
Runs alone; signatures are checked where the package `cryptography` is there. `verify_audit` uses this very code.
Exit code: 0 clean, 1 faults, 2 could not run.

How the log is sealed: each row is a JSON object, canonical(x) its JSON with sorted keys, separators "," and ":",
UTF-8 without ASCII escapes. hash = hex(SHA-256("taskruns-audit-v1\n" + canonical(row without hash))), and each row
holds the hash of the row before it (64 zeros for the first). An anchor is a signed statement of the newest row of a
chain: Ed25519 over "taskruns-anchor-v1\n" + canonical(anchor without signature). Anchors kept outside the database
catch what the chain alone cannot: a tail cut off, or a chain recomputed by the database's owner.
"""

import argparse
import base64
import hashlib
import importlib.util
import json
import sys
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

CHECKS_SIGNATURES = importlib.util.find_spec("cryptography") is not None
UNCHECKED = "signatures not checked: the package cryptography is not installed"
NEARBY, SEARCHES = 1_000, 100  # a changed row is looked for so far from its place, and so many of them
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(value: dict[str, Any]) -> bytes:
    return _ENCODER.encode(value).encode("utf-8", "surrogatepass")


def event_hash(event: dict[str, Any]) -> str:
    """The hash of a row; its own `hash` member is left out."""
    columns = {name: value for name, value in event.items() if name != "hash"}
    return hashlib.sha256(b"taskruns-audit-v1\n" + canonical(columns)).hexdigest()


def anchor_statement(anchor: dict[str, Any]) -> bytes:
    """What an anchor's signature signs."""
    return b"taskruns-anchor-v1\n" + canonical({name: anchor[name] for name in anchor if name != "signature"})


def key_id(raw: bytes) -> str:
    """How a public key of 32 raw bytes is named."""
    return hashlib.sha256(raw).hexdigest()[:16]


@dataclass(frozen=True)
class Fault:
    """`kind`: edited, missing, inserted, reordered, bad link, bad anchor signature, anchor not met."""

    chain: str
    kind: str
    seq: int
    text: str

    def __str__(self) -> str:
        return f"{self.chain} row {self.seq}: {self.kind}: {self.text}"


class Walker:
    """Walks one chain: give it the anchors, then every row in order, then ask `end()`. Keeps the anchors' hashes only.
    `keys`: key id -> raw public key. `whole` is false for a filtered export: only single rows can be checked.
    """

    def __init__(self, chain: str, keys: dict[str, bytes], *, whole: bool = True) -> None:
        self.chain, self.whole, self.rows, self.expected, self.anchors = chain, whole, 0, 1, 0
        self._keys, self._searches, self._fault = keys, SEARCHES, partial(Fault, chain)
        self._last: str | None = "0" * 64  # the hash of the row before; None where that row itself is at fault
        self._gaps: list[tuple[int, int]] = []
        self._anchored: dict[int, set[str]] = defaultdict(set)

    def anchor(self, anchor: dict[str, Any]) -> Iterator[Fault]:
        is_mine = anchor["chain"] == self.chain
        if is_mine and not signature_holds(anchor, self._keys):
            yield self._fault("bad anchor signature", anchor["seq"], f"key {anchor['key_id']} did not sign this anchor")
        elif is_mine:
            self._anchored[anchor["seq"]].add(anchor["hash"])
            self.anchors += 1

    def row(self, event: dict[str, Any]) -> Iterator[Fault]:
        self.rows += 1
        seq, stored = event["seq"], event["hash"]
        place = (yield from self._place(seq)) if self.whole else "alone"
        is_good = event["chain"] == self.chain and event_hash(event) == stored
        if not is_good:
            yield self._changed(event)
        elif place == "next" and event["prev_hash"] != self._last:
            yield self._fault("bad link", seq, f"it does not hold the hash of row {seq - 1}: one of them was changed")
        if place != "before":
            self.expected, self._last = seq + 1, stored if is_good else None
        if self._anchored.pop(seq, {stored}) != {stored}:
            yield self._fault("anchor not met", seq, "another row was signed here: the chain was recomputed")

    def end(self, *, at_least: int | None = None, at_most: int | None = None) -> Iterator[Fault]:
        """After the last row. The numbers that the last row must reach, and must not pass, where they are known."""
        for first, last in self._gaps:
            yield self._fault("missing", first, f"rows {first} to {last} are gone")
        if at_least is not None and at_least >= self.expected:
            yield self._fault("missing", self.expected, f"the tail is cut: row {at_least} was written")
        if at_most is not None and at_most < self.expected - 1:
            yield self._fault("inserted", at_most + 1, f"the panel wrote rows up to {at_most} only")
        for seq in sorted(self._anchored) if self.whole else ():
            yield self._fault("anchor not met", seq, "the row that was signed is not there: it was cut off or deleted")

    def _place(self, seq: int) -> Generator[Fault, None, str]:
        """Where the row stands: `next`, `after` a gap or a fault, or `before` where the walk has been already."""
        if seq >= self.expected:
            if seq == self.expected and self._last is not None:
                return "next"
            self._gaps += [(self.expected, seq - 1)] if seq > self.expected else []
            return "after"
        gap = next((gap for gap in self._gaps if gap[0] <= seq <= gap[1]), None)
        if gap is None:
            yield self._fault("inserted", seq, "a second row has this number")
            return "before"
        self._gaps.remove(gap)
        self._gaps += [part for part in ((gap[0], seq - 1), (seq + 1, gap[1])) if part[0] <= part[1]]
        yield self._fault("reordered", seq, f"it stands after row {self.expected - 1}")
        return "before"

    def _changed(self, event: dict[str, Any]) -> Fault:
        seq = event["seq"]
        self._searches -= 1
        for other in range(max(1, seq - NEARBY), seq + NEARBY + 1) if self._searches >= 0 else ():
            if event_hash(event | {"seq": other, "chain": self.chain}) == event["hash"]:
                return self._fault("reordered", seq, f"it was written as row {other}")
        return self._fault("edited", seq, "it is not what its hash says, or of another chain")


def signature_holds(anchor: dict[str, Any], keys: dict[str, bytes]) -> bool:
    """True also where nothing can check it: see CHECKS_SIGNATURES."""
    if not CHECKS_SIGNATURES:
        return True
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(keys.get(anchor["key_id"], b""))
        key.verify(base64.b64decode(anchor["signature"]), anchor_statement(anchor))
        return True
    except (InvalidSignature, ValueError):
        return False


def check(export: Path, outside: Path | None, pinned: dict[str, bytes]) -> int:
    """Print each fault of one export, and what was checked. Reads the file twice: its anchors stand at its end."""
    manifest: dict[str, Any] = next(lines(export), {})["manifest"]
    keys = pinned or keys_of(manifest["public_keys"].values())
    walker = Walker(manifest["chain"], keys, whole=not manifest["filtered"])
    anchors = chain((line["anchor"] for line in lines(export) if "anchor" in line), lines(outside) if outside else ())
    events = (line["event"] for line in lines(export) if "event" in line)
    last = manifest["last_seq"] if walker.whole else None
    steps = chain(map(walker.anchor, anchors), map(walker.row, events), [walker.end(at_least=last, at_most=last)])
    found = sum(print(fault) is None for fault in chain.from_iterable(steps))
    print(f"{walker.rows} rows of {walker.chain} checked" + ("" if walker.whole else ", each for itself: filtered"))
    print(f"{walker.anchors} anchors,", "signatures checked" if CHECKS_SIGNATURES else UNCHECKED)
    print("keys pinned" if pinned else "keys not pinned: the export's own keys were believed")
    print(f"{found} faults" if found else "clean")
    return 1 if found else 0


def keys_of(encoded: Iterable[str]) -> dict[str, bytes]:
    raw = [base64.b64decode(key, validate=True) for key in encoded]
    if any(len(key) != 32 for key in raw):
        raise ValueError("a public key is base64 of 32 bytes")
    return {key_id(key): key for key in raw}


def lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        yield from (json.loads(line, object_pairs_hook=once) for line in file if line.strip())


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("a name comes twice in one object: two readers could see two different rows")
    return found


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Check an audit export of Taskruns.")
    parser.add_argument("export", type=Path)
    parser.add_argument("--anchors", type=Path, help="anchors kept outside the database, one JSON object a line")
    parser.add_argument("--public-key", action="append", default=[], help="base64 of a key you trust; repeatable")
    given = parser.parse_args(arguments)
    try:
        return check(given.export, given.anchors, keys_of(given.public_key))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        print(f"could not run: this cannot be read as an export, its anchors or a key: {error!r}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
