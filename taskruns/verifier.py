#!/usr/bin/env python3
r"""Checks an audit export of Taskruns: `python verifier.py EXPORT.jsonl [--anchors FILE] [--public-key BASE64]`.
Runs alone (signatures need the package `cryptography`). Exit code: 0 clean, 1 faults, 2 could not run.

How the log is chained: each row is a JSON object, canonical(x) its JSON with sorted keys, separators "," and ":",
UTF-8 without ASCII escapes. hash = hex(SHA-256("taskruns-audit-v1\n" + canonical(row without hash))), and each row
has the hash of the row before it (64 zeros for the first). An anchor is a signed statement of a chain's newest row:
Ed25519 over "taskruns-anchor-v1\n" + canonical(anchor without signature). Only anchors kept outside the database reveal
rows cut off at the end, or a chain recomputed by someone who controls the database.
"""

import argparse
import base64
import hashlib
import json
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

try:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    public_key, CHECKS_SIGNATURES = cache(Ed25519PublicKey.from_public_bytes), True
except ImportError:
    CHECKS_SIGNATURES = False
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
ANCHOR = dict.fromkeys(("chain", "hash", "signed_at", "key_id", "signature"), str) | {"seq": int}
Json = dict[str, Any]
Keys = dict[str, bytes]  # key id -> raw public key
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(value: Json) -> bytes:
    return _ENCODER.encode(value).encode("utf-8", "surrogatepass")


def canonical_bytes(kind: str, value: Json, without: str) -> bytes:
    return f"taskruns-{kind}-v1\n".encode() + canonical({name: value[name] for name in value if name != without})


def event_hash(event: Json) -> str:
    return hashlib.sha256(canonical_bytes("audit", event, "hash")).hexdigest()


def is_anchor(line: Any) -> bool:
    return isinstance(line, dict) and {n: type(value) for n, value in line.items()} == ANCHOR and line["seq"] < 2**63


def signature_holds(anchor: Json, keys: Keys) -> bool:
    try:
        key = public_key(keys[anchor["key_id"]])
        key.verify(base64.b64decode(anchor["signature"]), canonical_bytes("anchor", anchor, "signature"))
        return True
    except Exception:  # noqa: BLE001 - any error means an invalid signature
        return False


class Fault(NamedTuple):
    chain: str
    kind: str  # edited, missing, inserted, reordered, bad link, bad anchor signature, anchor not met
    seq: int
    text: str

    def __str__(self) -> str:
        text = f"{self.chain} row {self.seq}: {self.kind}: {self.text}"
        return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


class ChainChecker:
    """Call `row()` for every row of one chain in order, then `end()`. `anchors` in order; `whole`: not filtered."""

    def __init__(self, chain: str, keys: Keys, anchors: Iterable[Json] = (), *, whole: bool = True) -> None:
        self.chain, self.whole, self.rows, self.expected = chain, whole, 0, 1
        self.anchors, self.newer, self.signed = 0, 0, 0  # valid; newer than the export; highest valid row number
        self._keys, self._fault = keys, partial(Fault, chain)
        self._last: str | None = "0" * 64  # the previous row's hash; None if that row is edited
        self.until: tuple[int, str] | None = None  # an export's last row and time: newer anchors do not count
        self._anchors, self._gaps, self._unmet = iter(anchors), list[tuple[int, int]](), dict[int, set[str]]()
        self._next = next(self._anchors, None)

    def row(self, event: Json) -> Iterator[Fault]:
        self.rows, stored = self.rows + 1, event.get("hash")
        seq = event["seq"] if type(event.get("seq")) is int else self.expected
        yield from self._anchors_to(seq)
        if self.whole and seq != self.expected:
            yield from self._misplaced(seq)
        try:
            is_good = event["seq"] is seq and event["chain"] == self.chain and event_hash(event) == stored
        except UNREADABLE:
            is_good = False
        if not is_good:
            yield self._fault("edited", seq, "its hash does not match, or it is of another chain")
        elif self.whole and seq == self.expected and event.get("prev_hash") != self._last is not None:
            yield self._fault("bad link", seq, f"it does not have the hash of row {seq - 1}: one of them was changed")
        if seq >= self.expected:
            self.expected, self._last = seq + 1, stored if is_good else None
        if any(signed != stored for signed in self._unmet.pop(seq, ())):
            yield self._fault("anchor not met", seq, "its anchor signed a different row: the chain was recomputed")
        self._unmet = self._unmet if self.whole else {}

    def end(self, at_least: int = 0, at_most: int | None = None) -> Iterator[Fault]:
        """After the last row. `at_least`, `at_most`: the bounds of the last row's number, where known."""
        yield from self._anchors_to(float("inf"))
        for first, last in self._gaps:
            yield self._fault("missing", first, f"rows {first} to {last} are gone")
        if at_least >= self.expected:
            yield self._fault("missing", self.expected, f"the end is cut off: row {at_least} was written")
        if at_most is not None and at_most < self.expected - 1:
            yield self._fault("inserted", at_most + 1, f"the panel wrote rows only up to {at_most}")
        for seq in sorted(self._unmet) if self.whole else ():
            yield self._fault("anchor not met", seq, "the signed row is gone: it was cut off or deleted")
        if self.until and self.signed < max(self.until[0], 1):
            yield self._fault("anchor not met", self.until[0], "no anchor in this export signs its last row")

    def _anchors_to(self, last: float) -> Iterator[Fault]:
        while (anchor := self._next) is not None and (seq := anchor["seq"]) <= last:
            self._next = next(self._anchors, None)
            if CHECKS_SIGNATURES and not signature_holds(anchor, self._keys):
                what = "did not sign it" if anchor["key_id"] in self._keys else "is unknown; see AUDIT_PUBLIC_KEYS"
                yield self._fault("bad anchor signature", seq, f"the key {what}")
            elif self.until and seq > self.until[0] and anchor["signed_at"] > self.until[1]:
                self.newer += 1
            else:
                self.anchors, self.signed = self.anchors + 1, seq
                self._unmet.setdefault(seq, set()).add(anchor["hash"])

    def _misplaced(self, seq: int) -> Iterator[Fault]:
        """Not the expected number: a gap begins, this row fills one, or it is one too many."""
        if seq > self.expected:
            self._gaps.append((self.expected, seq - 1))
        elif (gap := next((gap for gap in self._gaps if gap[0] <= seq <= gap[1]), None)) is None:
            yield self._fault("inserted", seq, "a second row has this number" if seq > 0 else "numbers start at 1")
        else:
            self._gaps.remove(gap)
            self._gaps += [part for part in ((gap[0], seq - 1), (seq + 1, gap[1])) if part[0] <= part[1]]
            yield self._fault("reordered", seq, f"it comes after row {self.expected - 1}")


def check(export: Path, outside: Path | None, pinned: Keys) -> int:
    """Print each fault of one export, and what was checked. Reads it twice, because its anchors are at its end."""
    manifest: Json = next(lines(export), {})["manifest"]
    name, is_whole, last = manifest["chain"], not manifest["filtered"], int(manifest["last_seq"] or 0)
    if is_whole and manifest["first_seq"] != 1:
        raise ValueError("an export without a filter must start with row 1")
    anchors = chain((line.get("anchor", {}) for line in lines(export)), lines(outside) if outside else ())
    mine = ((anchor["seq"], canonical(anchor)) for anchor in anchors if is_anchor(anchor) and anchor["chain"] == name)
    sorter = sqlite3.connect("")  # sorts the anchors in a temporary file, to save memory
    sorter.execute("CREATE TABLE anchor (seq INTEGER, text, PRIMARY KEY (seq, text)) WITHOUT ROWID")
    sorter.executemany("INSERT OR IGNORE INTO anchor VALUES (?, ?)", mine)
    kept = (json.loads(text) for (text,) in sorter.execute("SELECT text FROM anchor ORDER BY seq, text"))
    checker = ChainChecker(name, pinned or keys_of(manifest["public_keys"].values()), kept, whole=is_whole)
    checker.until = (last, str(manifest["exported_at"]))
    rows = (line.get("event") for line in lines(export) if "anchor" not in line and "manifest" not in line)
    steps = chain((checker.row(row if isinstance(row, dict) else {}) for row in rows), [checker.end(last, last)])
    found = sum(print(fault) is None for fault in chain.from_iterable(steps))
    print(f"{checker.rows} rows of {name!a} checked" + ("" if is_whole else ", each on its own: filtered export"))
    print(f"{checker.anchors} anchors, signatures {'' if CHECKS_SIGNATURES else 'not '}checked")
    print(f"newer than this export, not compared: {checker.newer} anchors")
    print("keys pinned" if pinned else "keys not pinned: the export's own keys were trusted")
    print(f"{found} faults" if found else "clean" if CHECKS_SIGNATURES else "clean, but no signatures were checked")
    return 1 if found else 0


def keys_of(encoded: Iterable[str]) -> Keys:
    raw = [base64.b64decode(key, validate=True) for key in encoded]
    return {hashlib.sha256(k).hexdigest()[:16]: k for k in raw if not CHECKS_SIGNATURES or public_key(k) is not None}


def lines(path: Path) -> Iterator[Json]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            try:
                yield dict(json.loads(line, object_pairs_hook=once))
            except UNREADABLE:
                sys.stderr.write(f"line {number} of {path} cannot be read: cut short by a crash, or edited\n")
                yield {}


def once(pairs: list[tuple[str, Any]]) -> Json:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("an object has the same name twice: two readers could see different rows")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check an audit export of Taskruns.")
    parser.add_argument("export", type=Path)
    parser.add_argument("--anchors", type=Path, help="anchors kept outside the database, one JSON object per line")
    parser.add_argument("--public-key", action="append", default=[], help="base64 of a key you trust; repeatable")
    given = parser.parse_args()
    if given.public_key and not CHECKS_SIGNATURES:
        parser.exit(2, "could not run: --public-key needs the package cryptography. Install it.\n")
    try:
        sys.exit(check(given.export, given.anchors, keys_of(given.public_key)))
    except (OSError, *UNREADABLE) as error:
        parser.exit(2, f"could not run: the export, the anchors or a key cannot be read: {error!r}\n")
