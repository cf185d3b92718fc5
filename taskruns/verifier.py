#!/usr/bin/env python3
r"""Checks audit exports of Taskruns: `python verifier.py FILE [FILE ...] [--public-key BASE64] [--anchors FILE]`.

Runs alone; signatures need the package `cryptography`. Exit code: 0 clean and proved, 1 faults, 2 could not run,
3 no fault, but not all is proved: no trusted key signed a file, or it has format 1. The keys of --public-key are
trusted. Without them, a key of the export is trusted if it signed an anchor of this chain in --anchors, a file that the
panel's owner cannot edit.

An export has one JSON object per line, each with one member: a manifest, then events, then anchors, then a trailer.
canonical(x) is JSON with sorted keys, separators "," and ":", UTF-8 without ASCII escapes.
- event: hash = hex(SHA-256("taskruns-audit-v1\n" + canonical(event without hash))); prev_hash is the hash of the row
  before it (64 zeros for row 1). A later file continues the chain: its manifest has the prev_hash of its first row.
- anchor: a statement of one row. Ed25519 over "taskruns-anchor-v1\n" + canonical(anchor without signature).
- trailer: digest = hex(SHA-256(all bytes before its line)). Ed25519 over "taskruns-export-v2\n" + canonical(trailer
  without signature). It proves every byte of the file, also in a filtered export, whose rows are not linked.
- restore: rows may be missing before a row system.restored / done only, and only if its prev_hash is the hash of the
  row before the gap, its details name the first and the last missing row, and their signature holds: Ed25519 over
  "taskruns-restore-v1\n" + canonical(details without signature, with chain, seq and prev_hash of the row).
  Anchors of the missing rows must be those that it knew: `superseded` names the newest, `superseded_count` counts all.
Format 1 has no trailer: nothing in it proves that its end was not cut off, so it is never clean.
"""

import argparse
import base64
import hashlib
import io
import json
import sqlite3
import sys
from bisect import bisect
from collections import Counter
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

try:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    public_key, CHECKS_SIGNATURES = cache(Ed25519PublicKey.from_public_bytes), True
except ImportError:
    CHECKS_SIGNATURES = False
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
Types = dict[str, type]
ANCHOR: Types = dict.fromkeys(("chain", "hash", "signed_at", "key_id", "signature"), str) | {"seq": int}
MANIFEST: Types = {"chain": str, "first_seq": int, "last_seq": int, "filtered": bool, "public_keys": dict}
MANIFEST |= {"exported_at": str, "exported_by": str}
TRAILER: Types = {"events": int, "anchors": int, "digest": str, "key_id": str, "signature": str}
ANCHOR_LINE = b'{"anchor"'  # how the panel begins the line of an anchor
ORDER = ("manifest", "event", "anchor", "trailer")
CLOCKS = 60  # seconds; the clocks of two hosts may differ by less
LONGEST = 2**22  # bytes of a line; the panel writes shorter ones
ZEROS = "0" * 64
Json = dict[str, Any]
Keys = dict[str, bytes]  # key id -> raw public key
Anchors = Iterable[Json]
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def canonical(value: Json) -> bytes:
    return _ENCODER.encode(value).encode("utf-8", "surrogatepass")


def canonical_bytes(kind: str, value: Json, without: str) -> bytes:
    """What is hashed or signed. `kind`: audit, anchor, export, restore or backup."""
    version = 2 if kind == "export" else 1
    members = {name: value[name] for name in value if name != without}
    return f"taskruns-{kind}-v{version}\n".encode() + canonical(members)


def event_hash(event: Json) -> str:
    return hashlib.sha256(canonical_bytes("audit", event, "hash")).hexdigest()


def has_types(value: Any, types: Types) -> bool:
    return isinstance(value, dict) and {name: type(each) for name, each in value.items()} == types


def is_anchor(line: Any) -> bool:
    return has_types(line, ANCHOR) and -(2**63) < line["seq"] < 2**63


def signature_holds(signed: Json, keys: Keys, kind: str = "anchor") -> bool:
    try:
        key, signature = public_key(keys[signed["key_id"]]), base64.b64decode(signed["signature"])
        key.verify(signature, canonical_bytes(kind, signed, "signature"))
        return bool(base64.b64encode(signature).decode() == signed["signature"])  # one text for each signature
    except Exception:  # noqa: BLE001 - any error means an invalid signature
        return False


def restore_statement(event: Json) -> Json:
    """What the signature in the details of a row system.restored covers, with that signature."""
    return {**event["details"], **{name: event[name] for name in ("chain", "seq", "prev_hash")}}


def lost_rows(event: Json, keys: Keys) -> tuple[int, int] | None:
    """The first and the last row that a restore lost before this row, if it is a validly signed row of a restore."""
    try:
        details, is_restore = event["details"], (event["event"], event["outcome"]) == ("system.restored", "done")
        first, last = details["missing_from"], details["missing_to"]
        if not is_restore or type(first) is not int or last != event["seq"] - 1:
            return None
        is_signed = not CHECKS_SIGNATURES or signature_holds(restore_statement(event), keys, "restore")
        return (first, last) if is_signed else None
    except UNREADABLE:
        return None


def unknown_anchors(details: Json, lost: list[Json]) -> list[Json]:
    """Those of these anchors of lost rows that the restore did not know: it names the newest, and counts all."""
    try:
        latest, count = later(details["restored_at"], CLOCKS), details["superseded_count"]
        named = [(each["seq"], each["hash"], each["key_id"]) for each in details["superseded"]]
        unnamed_up_to = named[0][0] if count > len(named) > 0 else 0
        others = [each for each in lost if (each["seq"], each["hash"], each["key_id"]) not in named]
        late = [each for each in lost if each["signed_at"] > latest]
        unknown = [each for each in others if each["seq"] > unnamed_up_to and each["signed_at"] <= latest]
        return late + unknown or others[max(count - len(named), 0) :]
    except UNREADABLE:  # signed with a key that leaked
        return lost


def keys_of(encoded: Iterable[str]) -> Keys:
    raw = [base64.b64decode(key, validate=True) for key in encoded]
    return {hashlib.sha256(k).hexdigest()[:16]: k for k in raw if not CHECKS_SIGNATURES or public_key(k) is not None}


def printable(text: str) -> str:
    """What the terminal may show: a forged row must not control it."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def later(at: str, seconds: int) -> str:
    """A time of the panel's, moved by `seconds`. Another text stays as it is."""
    try:
        return f"{datetime.fromisoformat(at) + timedelta(seconds=seconds):%Y-%m-%dT%H:%M:%S.%fZ}"
    except (ValueError, OverflowError):
        return at


class Fault(NamedTuple):
    chain: str
    kind: str  # edited, missing, inserted, reordered, bad link, bad anchor signature, anchor not met, bad restore
    seq: int
    text: str

    def __str__(self) -> str:
        return printable(f"{self.chain} row {self.seq}: {self.kind}: {self.text}")


# --- The check of a chain, the same for an export and for the database


class ChainChecker:
    """Call `row()` for every row of one chain in order, then `end()`. `anchors` in order; `whole`: not filtered.
    The chain may start after row 1: `start` is then its first number, `before` the hash of the row before it.
    """

    def __init__(
        self, chain: str, keys: Keys, anchors: Anchors = (), *, whole: bool = True, start: int = 1, before: str = ZEROS
    ) -> None:
        self.chain, self.whole, self.rows, self.expected, self._start = chain, whole, 0, start, start
        self.anchors = 0  # valid ones
        self.newer = 0  # newer than the export
        self.signed = start - 1  # the highest row with a valid anchor
        self._keys, self._fault = keys, partial(Fault, chain)
        self.last: str | None = before  # the previous row's hash; None if that row is edited
        self.until: tuple[int, str] | None = None  # an export's last row and time: newer anchors do not count
        self._anchors, self._gaps, self._unmet = iter(anchors), list[tuple[int, int]](), dict[int, list[Json]]()
        self._next = next(self._anchors, None)
        self.notes = list[str]()  # gaps that a restore made and acknowledged

    def row(self, event: Json) -> Iterator[Fault]:
        self.rows, stored = self.rows + 1, event.get("hash")
        seq = event["seq"] if type(event.get("seq")) is int else self.expected
        if self.whole and seq > self.expected:
            yield from self._restored(event, seq)
        yield from self._anchors_to(seq)
        if self.whole and seq != self.expected:
            yield from self._misplaced(seq)
        try:
            is_good = event["seq"] is seq and event["chain"] == self.chain and event_hash(event) == stored
        except UNREADABLE:
            is_good = False
        if not is_good:
            yield self._fault("edited", seq, "its hash does not match, or it is of another chain")
        elif self.whole and seq == self.expected and event.get("prev_hash") != self.last is not None:
            yield self._fault("bad link", seq, f"it does not have the hash of row {seq - 1}: one of them was changed")
        if seq >= self.expected:
            self.expected, self.last = seq + 1, stored if is_good else None
        if any(signed["hash"] != stored for signed in self._unmet.pop(seq, ())):
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
            elif seq >= self._start:
                self.anchors, self.signed = self.anchors + 1, seq
                self._unmet.setdefault(seq, []).append(anchor)

    def _restored(self, event: Json, seq: int) -> Iterator[Fault]:
        """The row after a gap. If a restore wrote it, for just this gap, the lost rows and their anchors are no faults.
        Nor do they count as rows without an anchor.
        """
        first, last, signed = self.expected, seq - 1, self.signed
        yield from self._anchors_to(last)
        if event.get("event") != "system.restored":
            return
        if lost_rows(event, self._keys) != (first, last) or self.last not in (None, event.get("prev_hash")):
            yield self._fault("bad restore", seq, "no valid signature acknowledges the gap before this row")
            return
        rows = f"row {first}" if first == last else f"rows {first}-{last}"
        day = str(event["details"].get("restored_at"))[:10]
        self.notes.append(f"{self.chain}: gap acknowledged: {rows} lost by the restore of {day}")
        lost = [anchor for number in sorted(self._unmet) if number >= first for anchor in self._unmet.pop(number)]
        if lost:
            self.notes.append(f"{self.chain}: {len(lost)} anchors of these lost rows were set aside")
        for anchor in unknown_anchors(event["details"], lost):
            text = f"the restore of row {seq} did not know it, or it was signed later: rows were cut off"
            yield self._fault("anchor not met", anchor["seq"], text)
        self.expected, self.signed = seq, signed + last - first + 1

    def _misplaced(self, seq: int) -> Iterator[Fault]:
        """The number is not the expected one: the row begins a gap, fills one, or repeats a number."""
        if seq > self.expected:
            self._gaps.append((self.expected, seq - 1))
            return
        place = bisect(self._gaps, (seq, sys.maxsize)) - 1  # the gaps are in order
        first, last = self._gaps[place] if place >= 0 else (0, -1)
        if not first <= seq <= last:
            yield self._fault("inserted", seq, "a second row has this number" if seq > 0 else "numbers start at 1")
        else:
            parts = (first, seq - 1), (seq + 1, last)
            self._gaps[place : place + 1] = [part for part in parts if part[0] <= part[1]]
            yield self._fault("reordered", seq, f"it comes after row {self.expected - 1}")


# --- Reading lines in bounded memory


def raw_lines(path: Path, digest: Any = None) -> Iterator[tuple[int, bytes]]:
    """Each line with its number, truncated after LONGEST bytes. `digest` then covers all bytes before that line."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(LONGEST + 1):
            yield (number := number + 1), raw
            while raw:
                if digest is not None:
                    digest.update(raw)
                raw = b"" if raw.endswith(b"\n") else file.readline(LONGEST + 1)


def load(raw: bytes) -> Any:
    """JSON as the panel writes it: no fractions, no duplicate names, integers of at most 64 bits. Raises UNREADABLE."""
    if len(raw) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST} bytes")
    return _DECODER.decode(raw.decode())


def _once(pairs: list[tuple[str, Any]]) -> Json:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("an object has the same name twice: two readers could see different rows")
    return found


def _int64(digits: str) -> int:
    return int(digits) if len(digits) <= 20 and abs(int(digits)) < 2**63 else _no_number(digits)


def _no_number(digits: str) -> NoReturn:
    raise ValueError(f"the panel writes no number like {digits[:30]}")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_once, parse_int=_int64, parse_float=_no_number, parse_constant=_no_number
)


class Line(NamedTuple):
    """A line of an export: its only member, and its bytes."""

    kind: str
    value: Any
    raw: bytes


def line_of(raw: bytes) -> Line:
    """Raises one of UNREADABLE."""
    if raw.endswith(b"\r\n") or (not raw.endswith(b"\n") and len(raw) <= LONGEST):
        raise ValueError("its line end was changed or cut off")
    found = load(raw)
    if not isinstance(found, dict) or len(found) != 1 or (kind := next(iter(found))) not in ORDER:
        raise ValueError(f"it must be an object with one member: {', '.join(ORDER)}")
    return Line(kind, found[kind], raw)


def loaded(raw: bytes) -> Json:
    """The object in the line, or an empty one."""
    try:
        return dict(load(raw))
    except UNREADABLE:
        return {}


# --- Exports


class Export:
    """One file and its manifest. `problem`: why the first line is no manifest. Nothing else can then be checked."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise OSError(f"{path} is not a file. A pipe cannot be checked: it is read twice")
        self.path, self.problem, self.keys = path, "", Keys()
        _number, raw = next(raw_lines(path), (1, b""))
        try:
            kind, value, _raw = line_of(raw)
            if kind != "manifest":
                raise ValueError("the first line must be the manifest")
            self.keys = keys_of(value["public_keys"].values())
            self._check(value)
        except UNREADABLE as error:
            self.problem = f"{path} line 1: bad manifest: {error}" if raw else f"{path}: the file is empty"
            return
        self.chain, self.first, self.last = value["chain"], value["first_seq"] or 1, value["last_seq"] or 0
        self.is_whole, self.exported_at = not value["filtered"], value["exported_at"]
        self.format, self.prev_hash = value.get("format", 1), value.get("prev_hash")

    def _check(self, manifest: Json) -> None:
        """Raises one of UNREADABLE if the panel cannot have written this manifest."""
        whole, optional = manifest["filtered"] is not True, {"format": int, "prev_hash": str}
        types = MANIFEST | {name: optional[name] for name in optional.keys() & manifest.keys()}
        if not whole and manifest["first_seq"] is manifest["last_seq"] is None:  # a filter that nothing matches
            types |= {"first_seq": type(None), "last_seq": type(None)}
        if not has_types(manifest, types) or manifest.get("format", 2) != 2:
            raise ValueError("its fields are not those of format 1 or 2")
        if list(self.keys) != list(manifest["public_keys"]):
            raise ValueError("it names a key by another key's id")
        if whole and (manifest["first_seq"] < 1 or (manifest["first_seq"] > 1) != ("prev_hash" in manifest)):
            raise ValueError("it starts after row 1 without the prev_hash of an earlier export")


class Verification:
    """Checks files that continue each other. `found` counts faults, `unproved` lists what no trusted key signed."""

    def __init__(self, exports: list[Export], anchor_file: Path | None, pinned: Keys) -> None:
        self.exports, self.pinned, self.found, self.unproved = exports, pinned, 0, list[str]()
        self.keys = pinned or {name: key for export in exports for name, key in export.keys.items()}
        self.trusted = dict(pinned)
        self.outside = self.unreadable = 0  # anchors of --anchors that are compared, and lines that are none
        oldest, is_whole = exports[0], all(export.is_whole for export in exports)
        start, before = oldest.first if is_whole else 1, oldest.prev_hash or ZEROS
        anchors = self._anchors(anchor_file)
        self.checker = ChainChecker(oldest.chain, self.keys, anchors, whole=is_whole, start=start, before=before)
        self.checker.until = (exports[-1].last, exports[-1].exported_at)

    def report(self, fault: object) -> None:
        self.found += 1
        print(printable(str(fault)))

    def _anchors(self, anchor_file: Path | None) -> Iterator[Json]:
        """All anchors of the chain by row. Also trusts each key of the exports that signed one in --anchors.

        Anchors are at the end of each file, so each file is read twice.
        """
        chain = self.exports[0].chain
        kept = sqlite3.connect("")  # sorts the anchors in a temporary file, to save memory
        kept.execute("CREATE TABLE anchor (seq INTEGER, text, outside, PRIMARY KEY (seq, text)) WITHOUT ROWID")

        def keep(anchor: Any, *, outside: bool = False) -> bool:
            if is_mine := is_anchor(anchor) and anchor["chain"] == chain:
                row = (anchor["seq"], canonical(anchor), outside)
                kept.execute("INSERT OR REPLACE INTO anchor VALUES (?, ?, ?)", row)
            return is_mine

        for export in self.exports:
            for _number, raw in raw_lines(export.path):
                if raw.startswith(ANCHOR_LINE):
                    keep(loaded(raw).get("anchor"))
        for number, raw in raw_lines(anchor_file) if anchor_file else ():
            if raw.strip() and not (anchor := loaded(raw)):
                sys.stderr.write(f"line {number} of {anchor_file} cannot be read: cut short by a crash, or edited\n")
                self.unreadable += 1
            elif raw.strip() and keep(anchor, outside=True) and not self.pinned and signature_holds(anchor, self.keys):
                self.trusted[anchor["key_id"]] = self.keys[anchor["key_id"]]
        is_whole = all(export.is_whole for export in self.exports)
        bounds = (self.exports[0].first, self.exports[-1].last) if is_whole else (-(2**63), 2**63 - 1)
        count = kept.execute("SELECT count(*) FROM anchor WHERE outside AND seq BETWEEN ? AND ?", bounds)
        self.outside = count.fetchone()[0]
        return (json.loads(text) for (text,) in kept.execute("SELECT text FROM anchor ORDER BY seq, text"))

    def run(self) -> None:
        for number, export in enumerate(self.exports):
            if len(self.exports) > 1 and not export.is_whole:
                self.report(f"{export.path}: a filtered export continues no other file: check it alone")
            elif number and (export.chain, export.first) != (self.checker.chain, self.checker.expected):
                self.report(f"{export.path}: it does not continue the file before it at row {self.checker.expected}")
            elif number and export.prev_hash != self.checker.last is not None:
                self.report(f"{export.path}: its prev_hash is not the hash of the file before it")
            self._check_lines(export)
        last = self.exports[-1].last
        for fault in self.checker.end(last, last):
            self.report(fault)

    def _check_lines(self, export: Export) -> None:
        """Check every line of a file, and hand the events to the checker."""
        digest, count, stage = hashlib.sha256(), Counter[str](), 0
        for number, raw in raw_lines(export.path, digest):
            where = f"{export.path} line {number}"
            if count["trailer"]:
                self.report(f"{where}: it comes after the trailer")
                break
            try:
                line = line_of(raw)
            except UNREADABLE as error:
                self.report(f"{where}: it cannot be read: {error}")
                continue
            count[line.kind] += 1
            if (line.kind == "manifest") != (number == 1) or ORDER.index(line.kind) < stage:
                self.report(f"{where}: out of order: {line.kind} after {ORDER[stage]}")
            stage = max(stage, ORDER.index(line.kind))
            for fault in self._faults_of(export, line, count, digest):
                self.report(fault if isinstance(fault, Fault) else f"{where}: {fault}")
        if export.format == 1:
            self.unproved.append(f"{export.path} has format 1: {self._proved_by_format_1()}")
        elif not count["trailer"]:
            self.report(f"{export.path}: no trailer: the download broke off, or the end was cut off")

    def _faults_of(self, export: Export, line: Line, count: Counter[str], digest: Any) -> Iterator[Fault | str]:
        value = line.value
        if line.kind == "event":
            yield from self.checker.row(value if isinstance(value, dict) else {})
        elif line.kind == "anchor":
            if not (is_anchor(value) and value["chain"] == export.chain and line.raw.startswith(ANCHOR_LINE)):
                yield "it is not an anchor of this chain"
        elif line.kind == "trailer":
            if export.format == 1 or not has_types(value, TRAILER):
                yield "it is not a trailer of this format"
            else:
                yield from self._trailer_faults(export, line, count, digest.hexdigest())

    def _trailer_faults(self, export: Export, line: Line, count: Counter[str], digest: str) -> Iterator[str]:
        value, key = line.value, line.value["key_id"]
        if canonical({"trailer": value}) + b"\n" != line.raw:
            yield "the line was edited: it is not in canonical form"
        if (value["events"], value["anchors"]) != (count["event"], count["anchor"]):
            yield f"wrong counts: {value['events']} events and {value['anchors']} anchors were written"
        if value["digest"] != digest:
            yield "wrong digest: a line was edited, added or removed"
        if key not in self.keys:
            yield f"bad trailer signature: its key {key} is {'not pinned' if self.pinned else 'unknown'}"
        elif CHECKS_SIGNATURES and not signature_holds(value, self.keys, "export"):
            yield f"bad trailer signature: the key {key} did not sign it"
        elif key not in self.trusted:
            self.unproved.append(f"{export.path} is signed by the key {key}, which nothing outside it vouches for")

    def _proved_by_format_1(self) -> str:
        if self.checker.whole and self.keys and self.keys.keys() <= self.trusted.keys():
            return f"rows up to {self.checker.signed} are proved, not that these are all, and not the manifest"
        return "no signature proves its rows"


def check(paths: list[Path], anchor_file: Path | None, pinned: Keys) -> int:
    """Print each fault, and what was checked and proved. Returns the exit code."""
    exports = [Export(path) for path in paths]
    if problems := [printable(export.problem) for export in exports if export.problem]:
        print(*problems, f"{len(problems)} faults", sep="\n")
        return 1
    verification = Verification(exports, anchor_file, pinned)
    verification.run()
    checker, vouched = verification.checker, ", ".join(verification.trusted)
    if checker.whole and exports[0].first > 1:
        print(f"starts with row {exports[0].first}: the rows before it are not in these files")
    alone = "" if checker.whole else ", each on its own: filtered export"
    print(f"{checker.rows} rows of {checker.chain!a} checked{alone}")
    print(*map(printable, checker.notes), sep="\n", end="\n" if checker.notes else "")
    print(f"{checker.anchors} anchors, signatures {'' if CHECKS_SIGNATURES else 'not '}checked")
    print(f"newer than this export, not compared: {checker.newer} anchors")
    if anchor_file:
        print(f"outside anchors {'compared' if checker.whole else 'of this log'}: {verification.outside}")
    if verification.unreadable:
        print(f"lines of {printable(str(anchor_file))} that cannot be read: {verification.unreadable}")
    print("keys pinned" if pinned else f"key {vouched}: trusted, it signed --anchors" if vouched else "no key pinned")
    if verification.found:
        print(f"{verification.found} faults")
        return 1
    if not CHECKS_SIGNATURES:
        print("could not run: no faults, but signatures cannot be checked. Install the package cryptography.")
        return 2
    if anchor_file and checker.rows and not (verification.outside or checker.newer or verification.unproved):
        print("could not run: no faults, but --anchors has no anchor of these rows. Give a whole copy of the anchors.")
        return 2
    print(*map(printable, verification.unproved), sep="\n", end="\n" if verification.unproved else "")
    print("clean" if not verification.unproved else "not fully proved" if vouched else "nothing proved")
    return 3 if verification.unproved else 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check audit exports of Taskruns.")
    parser.add_argument("exports", type=Path, nargs="+", metavar="FILE", help="an export, and those that continue it")
    parser.add_argument("--anchors", type=Path, help="anchors kept outside the database, one JSON object per line")
    parser.add_argument("--public-key", action="append", default=[], help="base64 of a key you trust; repeatable")
    given = parser.parse_args(arguments)
    if given.public_key and not CHECKS_SIGNATURES:
        parser.exit(2, "could not run: --public-key needs the package cryptography. Install it.\n")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        return check(given.exports, given.anchors, keys_of(given.public_key))
    except (OSError, sqlite3.Error, MemoryError, *UNREADABLE) as error:
        parser.exit(2, f"could not run: an export, the anchors or a key cannot be read: {error!a}\n")


if __name__ == "__main__":
    sys.exit(main())
