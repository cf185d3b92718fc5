"""Every way to forge, cut, flip, mix, reorder or double an export is found, or proves nothing. None is clean."""

import base64
import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from taskruns import verifier
from taskruns.audit import EventType, record
from taskruns.models import Team, TeamRole
from tests.access.browsers import undone
from tests.factories import actor, make_credential, make_run, make_task, member

from .exports import OURS, OWN, Auditor, Lines, encoded, exported, forged, hashed, line, parsed, relinked, signed

LAST = 7  # the row of the export itself
FILTER = "q=reason"


pytestmark = pytest.mark.usefixtures("db")


@pytest.fixture(scope="module")
def team(file_db: None) -> Team:
    return Team.objects.create(slug="ops-north", name="Ops North")


@pytest.fixture(scope="module")
def history(team: Team) -> None:
    run, oli = make_run(make_task(team, make_credential(team))), member(team, "oli@example.com", TeamRole.OPERATOR)
    for number in range(LAST - 1):
        record(EventType.RUN_CANCEL, "requested", by=actor(oli), team=team, run=run, reason=f"reason {number} 東京")


@pytest.fixture(scope="module")
def whole(history: None, team: Team) -> bytes:
    with undone():  # else each later export of the file would have the row of this one
        return exported(team)


@pytest.fixture(scope="module")
def filtered(history: None, team: Team) -> bytes:
    with undone():
        return exported(team, FILTER)


# --- Changes without a key: every auditor finds them, with and without a pinned key


def on_lines(change: Callable[[Lines], object]) -> Callable[[bytes], bytes]:
    def changed(export: bytes) -> bytes:
        lines = parsed(export)
        change(lines)
        return encoded(lines)

    return changed


def on_bytes(change: Callable[[list[bytes]], object]) -> Callable[[bytes], bytes]:
    def changed(export: bytes) -> bytes:
        lines = export.splitlines(keepends=True)
        change(lines)
        return b"".join(lines)

    return changed


def edit(number: int, kind: str, **changes: Any) -> Callable[[bytes], bytes]:
    return on_lines(lambda lines: lines[number][kind].update(changes))


def swap(lines: list[Any], one: int, other: int) -> None:
    lines[one], lines[other] = lines[other], lines[one]


def rehash(lines: Lines) -> None:
    lines[3]["event"] = hashed(lines[3]["event"] | {"reason": "another"})


def relink(lines: Lines) -> None:
    rehash(lines)
    lines[:] = relinked(lines)


ANCHOR, TRAILER = LAST + 1, LAST + 2  # their lines, counted from 0
BOMB = b'{"event":' + b"[" * 200_000 + b"]" * 200_000 + b"}\n"
LONG = b'{"event":{"reason":"' + b"x" * (verifier.LONGEST + 10) + b'"}}\n'
CHANGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "an edited row": (edit(3, "event", reason="another"), "row 3: edited"),
    "an edited row with a new hash": (on_lines(rehash), "row 4: bad link"),
    "a chain computed again": (on_lines(relink), f"row {LAST}: anchor not met"),
    "a column too many": (edit(3, "event", extra=1), "row 3: edited"),
    "the first row deleted": (on_lines(lambda lines: lines.pop(1)), "row 1: missing"),
    "a row deleted": (on_lines(lambda lines: lines.pop(3)), "row 3: missing"),
    "the last row deleted": (on_lines(lambda lines: lines.pop(LAST)), f"row {LAST}: missing"),
    "rows swapped": (on_lines(lambda lines: swap(lines, 3, 4)), "row 3: reordered"),
    "a row twice": (on_lines(lambda lines: lines.insert(4, lines[3])), "row 3: inserted"),
    "a row after the anchors": (on_lines(lambda lines: swap(lines, LAST, ANCHOR)), "out of order: event after anchor"),
    "a row that is no object": (on_lines(lambda lines: lines[3].update(event=[1])), "row 3: edited"),
    "the anchor deleted": (on_lines(lambda lines: lines.pop(ANCHOR)), "no anchor in this export signs its last row"),
    "the anchor of another row": (edit(ANCHOR, "anchor", seq=3), "row 3: bad anchor signature"),
    "an anchor of another chain": (edit(ANCHOR, "anchor", chain="site"), "not an anchor of this chain"),
    "an anchor with a member more": (edit(ANCHOR, "anchor", x=1), "not an anchor of this chain"),
    "an anchor that is none": (on_lines(lambda lines: lines[ANCHOR].update(anchor=7)), "not an anchor of this chain"),
    "an anchor spelt otherwise": (
        on_bytes(lambda lines: lines.__setitem__(ANCHOR, lines[ANCHOR].replace(b"{", b"{ ", 1))),
        "not an anchor of this chain",
    ),
    "an anchor twice": (on_lines(lambda lines: lines.insert(ANCHOR, lines[ANCHOR])), "wrong counts"),
    "a trailer that is none": (on_lines(lambda lines: lines[TRAILER].update(trailer=[])), "not a trailer"),
    "a trailer with a member more": (edit(TRAILER, "trailer", x=1), "not a trailer"),
    "a count that is true": (edit(TRAILER, "trailer", anchors=True), "not a trailer"),
    "a wrong count of events": (edit(TRAILER, "trailer", events=9), "wrong counts"),
    "a wrong count of anchors": (edit(TRAILER, "trailer", anchors=0), "wrong counts"),
    "a wrong digest": (edit(TRAILER, "trailer", digest="0" * 64), "wrong digest"),
    "a wrong key id": (edit(TRAILER, "trailer", key_id="0" * 16), "bad trailer signature"),
    "a wrong signature": (edit(TRAILER, "trailer", signature="AAAA"), "bad trailer signature"),
    "a signature that is no base64": (edit(TRAILER, "trailer", signature="ä"), "bad trailer signature"),
    "a trailer spelt otherwise": (
        on_bytes(lambda lines: lines.__setitem__(TRAILER, lines[TRAILER].replace(b":", b": "))),
        "not in canonical form",
    ),
    "no trailer": (on_bytes(lambda lines: lines.pop()), "no trailer: the download broke off"),
    "broken off in a row": (lambda export: export[: len(export) // 2], "no trailer: the download broke off"),
    "broken off before the line end": (lambda export: export[:-1], "line end was changed or cut off"),
    "two trailers": (on_bytes(lambda lines: lines.append(lines[-1])), "comes after the trailer"),
    "a row after the trailer": (on_bytes(lambda lines: lines.append(lines[2])), "comes after the trailer"),
    "a blank line after the trailer": (lambda export: export + b"\n", "comes after the trailer"),
    "a trailer too early": (on_bytes(lambda lines: swap(lines, 3, TRAILER)), "comes after the trailer"),
    "the manifest later": (on_bytes(lambda lines: swap(lines, 0, 1)), "line 1: bad manifest"),
    "no manifest": (on_bytes(lambda lines: lines.pop(0)), "line 1: bad manifest"),
    "the manifest twice": (on_bytes(lambda lines: lines.insert(1, lines[0])), "out of order: manifest"),
    "a manifest behind the rows": (on_bytes(lambda lines: lines.insert(4, lines[0])), "out of order: manifest"),
    "flipped to filtered": (edit(0, "manifest", filtered=True), "wrong digest"),
    "filtered, a row deleted": (
        on_lines(lambda lines: (lines[0]["manifest"].update(filtered=True), lines.pop(3))),
        "wrong digest",
    ),
    "filtered, a row hashed again": (
        on_lines(lambda lines: (lines[0]["manifest"].update(filtered=True), rehash(lines))),
        "wrong digest",
    ),
    "filtered that is a number": (edit(0, "manifest", filtered=0), "line 1: bad manifest"),
    "promises less": (edit(0, "manifest", last_seq=5), "row 6: inserted"),
    "promises more": (edit(0, "manifest", last_seq=9), "row 8: missing"),
    "the tail cut off": (
        on_lines(lambda lines: (lines.__delitem__(slice(5, ANCHOR + 1)), lines[0]["manifest"].update(last_seq=4))),
        "wrong digest",
    ),
    "starts later": (edit(0, "manifest", first_seq=3), "line 1: bad manifest"),
    "starts later, with a made-up link": (
        on_lines(
            lambda lines: (
                lines[0]["manifest"].update(first_seq=3, prev_hash=lines[3]["event"]["prev_hash"]),
                lines.__delitem__(slice(1, 3)),
            )
        ),
        "wrong digest",
    ),
    "another person exported it": (edit(0, "manifest", exported_by="eve@example.com"), "wrong digest"),
    "exported at another time": (edit(0, "manifest", exported_at="2999-01-01T00:00:00.000000Z"), "wrong digest"),
    "another chain": (edit(0, "manifest", chain="site"), "row 1: edited"),
    "a format to come": (edit(0, "manifest", format=3), "line 1: bad manifest"),
    "a member more in the manifest": (edit(0, "manifest", x=1), "line 1: bad manifest"),
    "a key under another id": (edit(0, "manifest", public_keys={"0" * 16: OURS}), "line 1: bad manifest"),
    "a key that is none": (edit(0, "manifest", public_keys={"0" * 16: "AA=="}), "line 1: bad manifest"),
    "a second member behind the row": (on_lines(lambda lines: lines[3].update(x=1)), "object with one member"),
    "a second member that others skip": (
        on_lines(lambda lines: lines.insert(4, {"event": lines[3]["event"], "anchor": {}})),
        "object with one member",
    ),
    "another member": (on_lines(lambda lines: lines.insert(4, {"note": {}})), "object with one member"),
    "an empty object": (on_lines(lambda lines: lines.insert(4, {})), "object with one member"),
    "a list": (on_bytes(lambda lines: lines.insert(4, b'["event"]\n')), "object with one member"),
    "a name twice in a row": (
        lambda export: export.replace(b'"reason":', b'"reason":"forged","reason":', 1),
        "the same name twice",
    ),
    "a line twice in one": (
        on_bytes(lambda lines: lines.__setitem__(3, b'{"event":{},' + lines[3][1:])),
        "the same name twice",
    ),
    "a blank line": (on_bytes(lambda lines: lines.insert(4, b"\n")), "line 5: it cannot be read"),
    "CRLF": (lambda export: export.replace(b"\n", b"\r\n"), "line end was changed"),
    "CRLF in one line": (
        on_bytes(lambda lines: lines.__setitem__(3, lines[3].replace(b"\n", b"\r\n"))),
        "line end was changed",
    ),
    "two lines in one": (on_bytes(lambda lines: lines.__setitem__(3, lines[3].rstrip())), "line 4: it cannot be read"),
    "a byte order mark": (lambda export: b"\xef\xbb\xbf" + export, "line 1: bad manifest"),
    "not UTF-8": (lambda export: export.replace("東".encode(), b"\xff", 1), "line 2: it cannot be read"),
    "UTF-16": (lambda export: export.decode().encode("utf-16"), "line 1: bad manifest"),
    "a space in a line": (
        on_bytes(lambda lines: lines.__setitem__(3, lines[3].replace(b"{", b"{ ", 1))),
        "wrong digest",
    ),
    "NaN": (lambda export: export.replace(b'"details":{}', b'"details":{"x":NaN}', 1), "no number like NaN"),
    "a fraction": (lambda export: export.replace(b'"schema":1', b'"schema":1.0', 1), "no number like 1.0"),
    "an exponent": (lambda export: export.replace(b'"schema":1', b'"schema":1e0', 1), "no number like 1e0"),
    "a huge number": (lambda export: export.replace(b'"seq":3', b'"seq":' + b"9" * 6_000, 1), "no number like 999"),
    "a number of 65 bits": (lambda export: export.replace(b'"seq":3', b'"seq":18446744073709551616'), "no number like"),
    "nested deeply": (on_bytes(lambda lines: lines.insert(4, BOMB)), "line 5: it cannot be read"),
    "nested deeply at first": (lambda export: BOMB + export, "line 1: bad manifest"),
    "a long line": (on_bytes(lambda lines: lines.insert(4, LONG)), "line 5: it cannot be read: it is longer"),
    "a long line without an end": (lambda export: export + LONG.rstrip(), "comes after the trailer"),
    "nothing": (lambda export: b"", "the file is empty"),
    "no export": (lambda export: b"hello\n", "line 1: bad manifest"),
    "an HTML page": (lambda export: b"<!doctype html>\n<p>Sign in\n", "line 1: bad manifest"),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("pin", [OURS, None], ids=["pinned", "not pinned"])
def test_a_changed_export_is_found_with_its_place(name: str, pin: str | None, whole: bytes, auditor: Auditor):
    change, word = CHANGES[name]
    changed = change(whole)
    assert changed != whole
    code, said = auditor(changed, pin=pin)
    assert (code, word in said) == (1, True), said
    assert said.splitlines()[-1].endswith(" faults")


@pytest.mark.parametrize("pin", [OURS, None], ids=["pinned", "not pinned"])
def test_the_control_an_export_as_the_panel_wrote_it(pin: str | None, whole: bytes, filtered: bytes, auditor: Auditor):
    expected = (0, "clean") if pin else (3, "nothing proved")
    for export in (whole, filtered):
        code, said = auditor(export, pin=pin)
        assert (code, said.splitlines()[-1]) == expected, said


@pytest.mark.parametrize("name", ["not filtered", "a row deleted", "a row hashed again", "a row added"])
@pytest.mark.parametrize("pin", [OURS, None], ids=["pinned", "not pinned"])
def test_a_changed_filtered_export_is_found(
    name: str, pin: str | None, filtered: bytes, whole: bytes, auditor: Auditor
):
    changes: dict[str, Callable[[Lines], object]] = {
        "not filtered": lambda lines: lines[0]["manifest"].update(filtered=False, first_seq=1),
        "a row deleted": lambda lines: lines.pop(3),
        "a row hashed again": rehash,
        "a row added": lambda lines: lines.insert(LAST, parsed(whole)[LAST]),
    }
    code, said = auditor(on_lines(changes[name])(filtered), pin=pin)
    assert (code, "wrong digest" in said) == (1, True), said


# --- Forgers with a key of their own, who can make everything fit


FORGERIES: dict[str, Callable[[Lines], bytes]] = {
    "the same rows": lambda lines: forged(lines, OWN),
    "an edited row": lambda lines: (lines[3]["event"].update(reason="x"), forged(lines, OWN))[1],
    "a new trailer only": lambda lines: signed(
        [{"manifest": lines[0]["manifest"] | {"public_keys": keys_and_own(lines)}}, *lines[1:]], OWN
    ),
    "flipped to filtered": lambda lines: signed(
        [
            {"manifest": lines[0]["manifest"] | {"filtered": True, "public_keys": keys_and_own(lines)}},
            *lines[1:3],
            {"event": hashed(lines[3]["event"] | {"reason": "x"})},
            *lines[5:],
        ],
        OWN,
    ),
}


def keys_and_own(lines: Lines) -> dict[str, str]:
    return lines[0]["manifest"]["public_keys"] | parsed(forged(lines, OWN))[0]["manifest"]["public_keys"]


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgers_own_key_proves_nothing(name: str, whole: bytes, auditor: Auditor):
    forgery = FORGERIES[name](parsed(whole))
    code, said = auditor(forgery, pin=None)
    assert (code, said.splitlines()[-1]) == (3, "nothing proved"), said
    code, said = auditor(forgery)
    assert (code, "bad trailer signature" in said and "not pinned" in said) == (1, True), said


def test_anchors_kept_outside_expose_a_forgers_chain(whole: bytes, auditor: Auditor):
    outside = line(parsed(whole)[ANCHOR]["anchor"])
    codes = {name: auditor(forge(parsed(whole)), pin=None, anchors=outside)[0] for name, forge in FORGERIES.items()}
    assert codes == {"the same rows": 1, "an edited row": 1, "a new trailer only": 3, "flipped to filtered": 3}
    code, said = auditor(whole, pin=None, anchors=outside)
    assert (code, said.splitlines()[-1]) == (0, "clean"), "the control"


def test_rows_made_up_after_the_last_outside_anchor_prove_nothing(history: None, team: Team, auditor: Auditor):
    """The forger keeps the true rows and the panel's key, adds rows and signs with a second key."""
    outside = line(parsed(exported(team))[-2]["anchor"])
    lines = parsed(exported(team))
    lines[LAST + 1]["event"]["reason"] = "made up"
    again = relinked(lines)
    own = {"manifest": lines[0]["manifest"] | {"public_keys": keys_and_own(lines)}}
    forgery = parsed(forged(lines, OWN))
    anchors = [each for each in lines if "anchor" in each][:-1] + [each for each in forgery if "anchor" in each][-1:]
    made_up = signed([own, *(each for each in again if "event" in each), *anchors], OWN)
    code, said = auditor(made_up, pin=None, anchors=outside)
    assert (code, "which nothing outside it vouches for" in said) == (3, True), said


def test_any_changed_byte_is_found(whole: bytes, auditor: Auditor):
    chance = random.Random(7)
    trailer = len(whole) - len(whole.splitlines(keepends=True)[-1])
    places = {*range(trailer, len(whole)), *chance.sample(range(trailer), 60)}
    for place in sorted(places):
        changed = whole[:place] + bytes([whole[place] ^ 1 << chance.randrange(8)]) + whole[place + 1 :]
        code, said = auditor(changed)
        assert code == 1, (place, said)


def test_a_second_text_of_the_same_signature_is_found(whole: bytes, auditor: Auditor):
    """Base64 has four unused bits before its padding."""
    lines = parsed(whole)
    text = lines[TRAILER]["trailer"]["signature"]
    other = next(
        changed
        for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
        if (changed := f"{text[:-3]}{letter}==") != text and base64.b64decode(changed) == base64.b64decode(text)
    )
    lines[TRAILER]["trailer"]["signature"] = other
    code, said = auditor(encoded(lines))
    assert (code, "bad trailer signature" in said) == (1, True)


# --- Several files


def test_files_that_continue_each_other_are_one_chain(history: None, team: Team, auditor: Auditor):
    first, second = exported(team), exported(team, after=LAST)
    third = exported(team, after=LAST + 1)
    assert parsed(second)[0]["manifest"]["prev_hash"] == parsed(first)[LAST]["event"]["hash"]
    code, said = auditor(first, second, third)
    assert (code, f"{LAST + 2} rows of" in said, "3 anchors" in said) == (0, True, True), said
    code, said = auditor(second, third)
    assert (code, f"starts with row {LAST + 1}: the rows before it are not in these files" in said) == (0, True), said
    assert auditor(second, pin=None)[0] == 3


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("turned round", f"does not continue the file before it at row {LAST + 2}"),
        ("one twice", f"does not continue the file before it at row {LAST + 1}"),
        ("one left out", f"does not continue the file before it at row {LAST + 1}"),
        ("of another chain", "does not continue the file before it"),
        ("a filtered one", "a filtered export continues no other file"),
        ("after a filtered one", "a filtered export continues no other file"),
    ],
)
def test_files_that_do_not_continue_each_other_are_faults(
    name: str, word: str, history: None, team: Team, auditor: Auditor
):
    first, second, third = exported(team), exported(team, after=LAST), exported(team, after=LAST + 1)
    some = exported(team, FILTER)
    files = {
        "turned round": (second, first),
        "one twice": (first, first),
        "one left out": (first, third),
        "of another chain": (first, exported(None)),
        "a filtered one": (first, some),
        "after a filtered one": (some, second),
    }[name]
    code, said = auditor(*files)
    assert (code, word in said) == (1, True), said


def test_a_second_file_of_another_history_is_found(history: None, team: Team, auditor: Auditor):
    """Both files have a good signature, but the panel's owner changed the rows between them."""
    first, second = parsed(exported(team)), exported(team, after=LAST)
    first[3]["event"]["reason"] = "another"
    other = forged(first, OWN)
    code, said = auditor(other, second, pin=None)
    assert (code, "its prev_hash is not the hash of the file before it" in said) == (1, True), said


def test_a_continued_export_is_linked_to_its_prev_hash(history: None, team: Team, auditor: Auditor):
    first = exported(team)
    lines = parsed(exported(team, after=LAST))
    lines[0]["manifest"]["prev_hash"] = "f" * 64
    code, said = auditor(signed(lines, OWN), pin=None)
    assert (code, f"row {LAST + 1}: bad link" in said) == (1, True), said
    assert auditor(first, exported(team, after=LAST))[0] == 0, "the control"


# --- Format 1, which earlier releases wrote


def as_format_1(export: bytes) -> Lines:
    lines = parsed(export)[:-1]
    del lines[0]["manifest"]["format"]
    return lines


@pytest.mark.parametrize(
    ("query", "pin", "sentence"),
    [
        ("", OURS, f"rows up to {LAST} are proved, not that these are all, and not the manifest"),
        ("", None, "no signature proves its rows"),
        (FILTER, OURS, "no signature proves its rows"),
        (FILTER, None, "no signature proves its rows"),
    ],
)
def test_format_1_is_read_and_never_clean(
    query: str, pin: str | None, sentence: str, history: None, team: Team, auditor: Auditor
):
    lines = as_format_1(exported(team, query))
    code, said = auditor(encoded(lines), pin=pin)
    assert (code, f"0.jsonl has format 1: {sentence}" in said) == (3, True), said
    lines[3]["event"]["reason"] = "another"
    code, said = auditor(encoded(lines), pin=pin)
    assert (code, "row 3: edited" in said) == (1, True), said


def test_an_export_turned_into_format_1_is_not_clean(history: None, team: Team, auditor: Auditor):
    """Cut to an older anchor, with a manifest that fits: only the trailer would have revealed it."""
    anchor = parsed(exported(team))[ANCHOR]
    lines = [*as_format_1(exported(team))[: LAST + 1], anchor]
    lines[0]["manifest"]["last_seq"] = LAST
    code, said = auditor(encoded(lines))
    assert (code, "not that these are all" in said) == (3, True), said


def test_a_format_1_file_has_no_trailer(whole: bytes, auditor: Auditor):
    lines = parsed(whole)
    del lines[0]["manifest"]["format"]
    code, said = auditor(encoded(lines))
    assert (code, "not a trailer of this format" in said) == (1, True), said


def test_format_1_can_be_continued_by_format_2(history: None, team: Team, auditor: Auditor):
    code, said = auditor(encoded(as_format_1(exported(team))), exported(team, after=LAST))
    assert (code, f"{LAST + 1} rows of" in said) == (3, True), said


def test_what_a_forged_row_says_cannot_control_the_terminal(whole: bytes, auditor: Auditor):
    lines = json.loads(json.dumps(parsed(whole)).replace(lines_chain(whole), r"x\nclean\u001b[2J"))
    code, said = auditor(encoded(lines))
    assert (code, "\x1b" in said, "clean" in said.splitlines()) == (1, False, False)


def lines_chain(export: bytes) -> str:
    return str(parsed(export)[0]["manifest"]["chain"])
