"""`verifier.py` as an external auditor uses it: a copy in an empty directory, an export, and Python."""

import base64
import gzip
import json
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from taskruns import verifier
from taskruns.audit import EventType, record
from taskruns.audit.anchors import anchor_changed
from taskruns.models import AuditAnchor, Run, Team, User
from taskruns.services.audit.rows import ANCHOR, stream_values
from tests.factories import actor

from .exports import BY, OURS, Auditor, encoded, exported, line, parsed

LAST = 7  # the row of the export itself
Alone = Callable[..., tuple[int, str]]


@pytest.fixture
def export(team: Team, run: Run, oli: User) -> bytes:
    for number in range(LAST - 1):
        record(EventType.RUN_CANCEL, "requested", by=actor(oli), team=team, run=run, reason=f"東京 {number}")
    return exported(team)


@pytest.fixture
def alone(tmp_path: Path) -> Alone:
    """Runs a copy of the verifier in a process of its own. Returns its exit code and output."""
    shutil.copy(verifier.__file__, tmp_path / "verifier.py")

    def run(export: bytes, *options: str, python: tuple[str, ...] = ("-I",), **more: Any) -> tuple[int, str]:
        (tmp_path / "export.jsonl").write_bytes(export)
        command = [sys.executable, *python, "verifier.py", "export.jsonl", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False, **more)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_clean_export_is_clean_with_the_panels_key(export: bytes, alone: Alone):
    code, said = alone(export, "--public-key", OURS)
    assert (code, said.splitlines()) == (
        0,
        [
            f"{LAST} rows of '{parsed(export)[0]['manifest']['chain']}' checked",
            "1 anchors, signatures checked",
            "newer than this export, not compared: 0 anchors",
            "keys pinned",
            "clean",
        ],
    )


def test_without_a_trusted_key_nothing_is_proved(export: bytes, alone: Alone):
    code, said = alone(export)
    *_, pinned, why, result = said.splitlines()
    key = parsed(export)[-1]["trailer"]["key_id"]
    assert (code, pinned, result) == (3, "no key pinned", "nothing proved")
    assert why == f"export.jsonl is signed by the key {key}, which nothing outside it vouches for"


def test_without_cryptography_it_could_not_run(export: bytes, alone: Alone):
    without = ("-I", "-S")
    code, said = alone(export, python=without)
    assert code == 2
    assert "signatures not checked" in said
    assert said.splitlines()[-1] == (
        "could not run: no faults, but signatures cannot be checked. Install the package cryptography."
    )
    code, said = alone(export, "--public-key", OURS, python=without)
    assert (code, said) == (2, "could not run: --public-key needs the package cryptography. Install it.\n")
    lines = parsed(export)
    lines[3]["event"]["reason"] = "another"
    code, said = alone(encoded(lines), python=without)
    assert (code, "row 3: edited" in said, "wrong digest" in said) == (1, True, True)


def test_only_a_pinned_key_is_trusted(export: bytes, auditor: Auditor):
    theirs = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    code, said = auditor(export, pin=theirs)
    assert code == 1
    assert f"row {LAST}: bad anchor signature" in said
    assert "bad trailer signature" in said
    assert auditor(export, pin=OURS)[0] == 0


def test_two_keys_can_be_pinned(export: bytes, alone: Alone):
    theirs = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    assert alone(export, "--public-key", theirs, "--public-key", OURS)[0] == 0


def test_anchors_kept_outside_vouch_for_the_key(export: bytes, auditor: Auditor):
    anchor = parsed(export)[-2]["anchor"]
    code, said = auditor(export, pin=None, anchors=line(anchor))
    assert (code, f"key {anchor['key_id']}: trusted, it signed --anchors" in said) == (0, True), said
    code, said = auditor(export, pin=None, anchors=line(anchor | {"chain": "site"}))
    assert (code, "no key pinned" in said) == (3, True), "anchors of another chain"
    code, said = auditor(export, pin=None, anchors=line(anchor | {"signature": "AAAA"}))
    assert (code, "no key pinned" in said) == (1, True), "a key does not sign by being named"


def test_external_anchors_find_a_tail_cut_before_the_export(export: bytes, team: Team, auditor: Auditor):
    """The forger has the signing key and exports fewer rows than were anchored before."""
    later = parsed(exported(team))[-2]["anchor"]
    later["signed_at"] = "2020-01-01T00:00:00.000000Z"
    code, said = auditor(export, anchors=line(later))
    assert (code, f"row {LAST + 1}: bad anchor signature" in said) == (1, True), "the control: an edited anchor"
    older = parsed(export)[-2]["anchor"]
    lines = parsed(export)
    lines[0]["manifest"]["last_seq"] = LAST - 1
    del lines[LAST : LAST + 2]
    code, said = auditor(encoded(lines), anchors=line(older))
    assert code == 1
    assert f"row {LAST}: anchor not met: the signed row is gone" in said


def test_anchors_signed_after_an_export_are_ignored(export: bytes, team: Team, auditor: Auditor):
    later = parsed(exported(team))[-2]["anchor"]
    code, said = auditor(export, anchors=line(later))
    assert (code, "newer than this export, not compared: 1 anchors" in said) == (0, True)
    lines = parsed(export)
    lines[0]["manifest"]["exported_at"] = "2999-01-01T00:00:00.000000Z"
    code, said = auditor(encoded(lines), anchors=line(later))
    assert (code, f"row {LAST + 1}: anchor not met" in said) == (1, True), "the control: it was there at the time"


def test_an_anchor_of_the_next_row_is_signed_after_the_export(team: Team, auditor: Auditor, monkeypatch: Any):
    """Another process writes and anchors a row before the first line of the export is sent."""
    monkeypatch.setattr(
        sys.modules["taskruns.services.audit.export"],
        "anchor_changed",
        lambda: (record(EventType.TEAM_CHANGE, "done", by=BY, team=team), anchor_changed()),
    )
    export = exported(team)
    (later,) = AuditAnchor.objects.filter(seq=2)
    code, said = auditor(export, anchors=b"".join(map(line, stream_values(AuditAnchor.objects.all(), ANCHOR))))
    assert (later.seq, code, "not compared: 1 anchors" in said) == (2, 0, True), said


def test_a_filtered_export_is_checked_row_by_row(export: bytes, team: Team, auditor: Auditor):
    some = exported(team, "q=東京 3")
    assert [next(iter(each)) for each in parsed(some)] == ["manifest", "event", "anchor", "anchor", "trailer"]
    code, said = auditor(some)
    assert (code, "1 rows" in said, "each on its own: filtered export" in said) == (0, True, True), said
    assert auditor(exported(team, "q=nowhere"))[0] == 0
    assert auditor(some, pin=None)[0] == 3


def test_an_unknown_key_is_reported(export: bytes, auditor: Auditor):
    lines = parsed(export)
    lines[0]["manifest"]["public_keys"] = {}
    code, said = auditor(encoded(lines), pin=None)
    assert code == 1
    assert f"row {LAST}: bad anchor signature: the key is unknown; see AUDIT_PUBLIC_KEYS" in said


def test_torn_anchor_lines_are_reported_and_others_count(export: bytes, auditor: Auditor):
    anchor = json.dumps(parsed(export)[-2]["anchor"]).encode()
    anchors = b'{"chain": "si\n' + anchor + b"\n\xff\x00\n\n"
    code, said = auditor(export, pin=None, anchors=anchors)
    assert code == 0
    assert re.findall(r"line (\d) of anchors.jsonl cannot be read", said) == ["1", "3"]


@pytest.mark.parametrize("name", ["empty", "another log's", "compressed", "UTF-16", "older rows"])
def test_a_file_without_anchors_of_these_rows_is_not_clean(name: str, export: bytes, team: Team, auditor: Auditor):
    anchor = line(parsed(export)[-2]["anchor"])
    held = {
        "empty": b"",
        "another log's": line(parsed(export)[-2]["anchor"] | {"chain": "site"}),
        "compressed": gzip.compress(anchor),
        "UTF-16": anchor.decode().encode("utf-16"),
        "older rows": anchor,
    }[name]
    checked = exported(team, after=LAST) if name == "older rows" else export
    code, said = auditor(checked, anchors=held)
    assert (code, "outside anchors compared: 0" in said.splitlines()) == (2, True), said
    assert "could not run: no faults, but --anchors has no anchor of these rows" in said
    assert ("lines of anchors.jsonl that cannot be read: " in said) is (name in {"compressed", "UTF-16"})
    code, said = auditor(export, anchors=anchor + b"{torn\n")
    assert (code, "outside anchors compared: 1" in said.splitlines()) == (0, True), said
    assert "lines of anchors.jsonl that cannot be read: 1" in said.splitlines()


STRANGE_ROWS: dict[str, Any] = {
    "a number": 1,
    "a list": [],
    "nothing": {},
    "a number that is a text": {"seq": "3", "hash": "", "chain": "site"},
    "a number that is none": {"seq": None},
    "a hash that is a list": {"seq": 3, "hash": []},
}


@pytest.mark.parametrize("name", STRANGE_ROWS)
def test_an_invalid_row_is_edited_at_its_place(name: str, export: bytes, auditor: Auditor):
    lines = parsed(export)
    lines[3]["event"] = STRANGE_ROWS[name]
    code, said = auditor(encoded(lines))
    assert (code, "row 3: edited" in said) == (1, True)
    assert said.splitlines()[-1] == "2 faults", "the row and the digest"


@pytest.mark.parametrize(
    "options",
    [
        ["--anchors", "nowhere.jsonl"],
        ["--anchors", "."],
        ["--public-key", "abc"],
        ["--public-key", "AAAA"],
        ["--public-key", ""],
        ["nowhere.jsonl"],
        ["."],
        ["/dev/stdin"],
    ],
)
def test_unusable_options_are_one_line_and_exit_2(options: list[str], export: bytes, alone: Alone):
    code, said = alone(export, *options)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("could not run: ")


@pytest.mark.slow
def test_a_huge_line_needs_little_memory(export: bytes, alone: Alone, tmp_path: Path):
    """A gigabyte without a line break, in a sparse file, both as an export and as the anchors."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (400_000_000, 400_000_000))

    with (tmp_path / "huge").open("wb") as file:
        file.write(line(parsed(export)[-2]["anchor"]))
        file.truncate(1_000_000_000)
    code, said = alone(export, "--public-key", OURS, "--anchors", "huge", preexec_fn=limited)
    assert (code, "clean\nline 2 of huge cannot be read" in said) == (0, True), said
    with (tmp_path / "huge").open("wb") as file:
        file.write(export)
        file.truncate(1_000_000_000)
    (tmp_path / "huge").replace(tmp_path / "other.jsonl")
    code, said = alone(export, "other.jsonl", "--public-key", OURS, preexec_fn=limited)
    assert (code, "comes after the trailer" in said) == (1, True), said


def test_a_shuffled_export_does_not_stop_the_verifier(export: bytes, alone: Alone):
    """Every second row, then the rows between them in reverse: each fills one of many gaps."""
    order = [*range(1, 100_000, 2), *range(99_998, 0, -2)]
    rows = b"".join(b'{"event":{"seq":%d}}\n' % seq for seq in order)
    code, said = alone(export.splitlines(keepends=True)[0] + rows, "--public-key", OURS)
    assert (code, said.count(": reordered: ")) == (1, 49_999)


def test_an_ascii_terminal_is_no_error(export: bytes, alone: Alone):
    changed = export.replace(b'"chain":"team:', '"chain":"東:'.encode())
    code, said = alone(changed, "--public-key", OURS, python=("-X", "utf8=0"), env={"LC_ALL": "C", "PYTHONUTF8": "0"})
    assert (code, said.splitlines()[-1].endswith("faults")) == (1, True), said


def test_the_verifier_is_short_and_standalone():
    text = Path(verifier.__file__).read_text()
    assert text.count("\n") <= 550, "an auditor reads it in ten minutes"
    assert "taskruns." not in text
    assert "django" not in text
