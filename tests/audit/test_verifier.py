"""`verifier.py` as an external auditor uses it: a copy in an empty directory, an export, and Python."""

import base64
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.http import QueryDict

from taskruns import verifier
from taskruns.audit import EventType, record
from taskruns.audit.signing_keys import public_keys
from taskruns.forms import AuditFilter
from taskruns.models import Run, Team, User
from taskruns.pages.audit.page import EVENTS, OUTCOMES
from taskruns.services import audit
from taskruns.verifier import event_hash
from tests.factories import actor

Lines = list[dict[str, Any]]
OURS = base64.b64encode(next(iter(public_keys().values()))).decode()
LAST = 7  # the row of the export itself


@pytest.fixture
def export(team: Team, run: Run, oli: User) -> Lines:
    for number in range(LAST - 1):
        record(EventType.RUN_CANCEL, "requested", by=actor(oli), team=team, run=run, reason=f"東京 {number}")
    return exported(team, oli)


def exported(team: Team, oli: User, query: str = "") -> Lines:
    wanted = AuditFilter.parse(QueryDict(query), events=EVENTS, outcomes=OUTCOMES)
    chosen = audit.export(team, by=actor(oli), kind="jsonl", wanted=wanted)
    return [json.loads(line) for line in audit.jsonl_lines(chosen)]


@pytest.fixture
def auditor(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs the copy on these lines. Returns its exit code and output."""
    shutil.copy(verifier.__file__, tmp_path / "verifier.py")

    def run(lines: Lines | str, *options: str, python: tuple[str, ...] = ("-I",)) -> tuple[int, str]:
        text = lines if isinstance(lines, str) else "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "export.jsonl").write_text(text, encoding="utf-8")
        command = [sys.executable, *python, "verifier.py", "export.jsonl", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_clean_export_is_clean(export: Lines, auditor: Any):
    code, output = auditor(export)
    assert (code, output.splitlines()[-1]) == (0, "clean")
    assert f"{LAST} rows of '{export[0]['manifest']['chain']}' checked" in output
    assert "1 anchors, signatures checked" in output
    assert "keys not pinned" in output


def test_without_cryptography_it_says_signatures_were_not_checked(export: Lines, auditor: Any):
    without = ("-I", "-S")
    code, output = auditor(export, python=without)
    assert (code, output.splitlines()[-1]) == (0, "clean, but no signatures were checked")
    assert "signatures not checked" in output
    code, output = auditor(export, "--public-key", OURS, python=without)
    assert (code, output) == (2, "could not run: --public-key needs the package cryptography. Install it.\n")
    export[-1]["anchor"]["signature"] = "AAAA"
    assert auditor(export, python=without)[0] == 0
    assert auditor(export)[0] == 1
    export[3]["event"]["reason"] = "another"
    code, output = auditor(export, python=without)
    assert code == 1
    assert "row 3: edited" in output


def test_only_the_pinned_key_is_trusted(export: Lines, auditor: Any):
    theirs = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    code, output = auditor(export, "--public-key", OURS)
    assert (code, "keys pinned" in output, "not pinned" in output) == (0, True, False)
    assert auditor(export, "--public-key", theirs, "--public-key", OURS)[0] == 0
    code, output = auditor(export, "--public-key", theirs)
    assert code == 1
    assert f"row {LAST}: bad anchor signature" in output


def test_a_forgers_own_key_is_rejected_by_the_pin(export: Lines, auditor: Any):
    """The forger recomputes the chain, signs it again and puts their own key into the manifest."""
    key = Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes_raw()
    export[2]["event"]["reason"] = "another"
    recompute(export)
    anchor = export[-1]["anchor"]
    encoded = base64.b64encode(raw).decode()
    (name,) = verifier.keys_of([encoded])
    anchor |= {"hash": export[-2]["event"]["hash"], "key_id": name}
    anchor["signature"] = base64.b64encode(key.sign(verifier.canonical_bytes("anchor", anchor, "signature"))).decode()
    export[0]["manifest"]["public_keys"] = {name: encoded}
    assert auditor(export)[0] == 0
    assert auditor(export, "--public-key", OURS)[0] == 1


def recompute(lines: Lines) -> None:
    previous = "0" * 64
    for line in lines:
        if "event" in line:
            line["event"]["prev_hash"] = previous
            line["event"]["hash"] = previous = event_hash(line["event"])


def swap(lines: Lines) -> None:
    lines[3], lines[4] = lines[4], lines[3]


def insert(lines: Lines) -> None:
    lines.insert(4, {"event": lines[3]["event"] | {"reason": "another"}})


def edit(column: str) -> Callable[[Lines], None]:
    def change(lines: Lines) -> None:
        lines[3]["event"][column] = {"x": 1} if column == "details" else 4 if column == "schema" else "another"

    return change


COLUMNS = ("schema", "event_id", "at", "actor_label", "reason", "details", "prev_hash", "team_id", "outcome")
CHANGES: dict[str, tuple[Callable[[Lines], object], str]] = {
    **{f"edit {column}": (edit(column), "row 3: edited") for column in COLUMNS},
    "another column": (edit("extra"), "row 3: edited"),
    "delete the first": (lambda lines: lines.pop(1), "row 1: missing"),
    "delete one": (lambda lines: lines.pop(3), "row 3: missing"),
    "delete the last": (lambda lines: lines.pop(LAST), f"row {LAST}: missing"),
    "cut the tail": (lambda lines: lines.__delitem__(slice(4, LAST + 1)), "row 4: missing"),
    "swap": (swap, "row 3: reordered"),
    "insert": (insert, "row 3: inserted"),
    "recompute": (lambda lines: (edit("reason")(lines), recompute(lines)), f"row {LAST}: anchor not met"),
    "a manifest that promises less": (lambda lines: lines[0]["manifest"].update(last_seq=5), "row 6: inserted"),
    "a manifest that promises more": (lambda lines: lines[0]["manifest"].update(last_seq=9), "row 8: missing"),
    "another chain": (lambda lines: lines[0]["manifest"].update(chain="site"), "row 1: edited"),
    "an edited anchor": (lambda lines: lines[-1]["anchor"].update(seq=3), "row 3: bad anchor signature"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_export_is_found_with_its_row(name: str, export: Lines, auditor: Any):
    change, fault = CHANGES[name]
    change(export)
    code, output = auditor(export)
    assert code == 1
    assert fault in output
    assert output.splitlines()[-1].endswith("faults")


def test_external_anchors_find_a_tail_cut_before_the_export(export: Lines, auditor: Any, tmp_path: Path):
    outside = tmp_path / "anchors.jsonl"
    anchor = export.pop()["anchor"]
    stranger = anchor | {"chain": "site", "seq": 99}
    outside.write_text("\n".join(json.dumps(line, indent=None) for line in (stranger, anchor)))
    assert auditor(export, "--anchors", str(outside))[0] == 0
    del export[LAST]
    export[0]["manifest"]["last_seq"] = LAST - 1
    code, output = auditor(export, "--anchors", str(outside))
    assert code == 1
    assert f"row {LAST}: anchor not met: the signed row is gone" in output


def test_a_filtered_export_is_checked_row_by_row(export: Lines, team: Team, oli: User, auditor: Any):
    some = exported(team, oli, "q=東京 3")
    assert [next(iter(line)) for line in some][:3] == ["manifest", "event", "anchor"]
    code, output = auditor(some)
    assert code == 0
    assert "1 rows" in output
    assert "each on its own: filtered export" in output
    some[1]["event"]["reason"] = "another"
    code, output = auditor(some)
    assert (code, "row 4: edited" in output) == (1, True)


def cut_to(export: Lines, rows: int) -> None:
    """A forged export: this many rows, a matching manifest, and no anchor that contradicts it."""
    del export[rows + 1 :]
    export[0]["manifest"]["last_seq"] = rows


def forge(export: Lines) -> None:
    export.pop()
    export[3]["event"]["reason"] = "another"
    recompute(export)


@pytest.mark.parametrize("change", [forge, lambda export: cut_to(export, 4), lambda export: export.pop()])
def test_an_export_without_anchor_of_its_last_row_is_not_clean(export: Lines, auditor: Any, change: Any):
    change(export)
    code, output = auditor(export, "--public-key", OURS)
    last = export[0]["manifest"]["last_seq"]
    assert code == 1
    assert f"row {last}: anchor not met: no anchor in this export signs its last row" in output
    assert "0 anchors, signatures checked" in output
    assert output.splitlines()[-1] == "1 faults"


def test_an_empty_export_without_an_anchor_is_not_clean(export: Lines, auditor: Any):
    cut_to(export, 0)
    assert auditor(export)[0] == 1


def test_anchors_signed_after_an_export_are_ignored(export: Lines, team: Team, oli: User, auditor: Any, tmp_path: Path):
    later = exported(team, oli)[-1]["anchor"]
    (tmp_path / "anchors.jsonl").write_text(json.dumps(later) + "\n")
    code, output = auditor(export, "--anchors", "anchors.jsonl")
    assert (code, "newer than this export, not compared: 1 anchors" in output) == (0, True)
    export[0]["manifest"]["exported_at"] = "2999-01-01T00:00:00.000000Z"
    code, output = auditor(export, "--anchors", "anchors.jsonl")
    assert (code, f"row {LAST + 1}: anchor not met" in output) == (1, True), "the control: it was there at the time"


def test_an_unknown_key_is_reported(export: Lines, auditor: Any):
    export[0]["manifest"]["public_keys"] = {}
    code, output = auditor(export)
    assert code == 1
    assert f"row {LAST}: bad anchor signature: the key is unknown; see AUDIT_PUBLIC_KEYS" in output


def test_torn_anchor_lines_are_reported_and_others_count(export: Lines, auditor: Any, tmp_path: Path):
    anchor = json.dumps(export[-1]["anchor"])
    (tmp_path / "anchors.jsonl").write_bytes(b'{"chain": "si\n' + anchor.encode() + b"\n\xff\x00\n")
    cut_to(export, 4)
    code, output = auditor(export, "--anchors", "anchors.jsonl")
    assert code == 1
    assert "line 1 of anchors.jsonl cannot be read" in output
    assert "line 3 of anchors.jsonl cannot be read" in output
    assert f"row {LAST}: anchor not met" in output


STRANGE_ROWS: dict[str, Any] = {
    "a number": 1,
    "a list": [],
    "nothing": {},
    "a number as text": {"seq": "3", "hash": "", "chain": "site"},
    "a null number": {"seq": None},
    "a fraction": {"seq": 3.0},
    "a hash that is a list": {"seq": 3, "hash": []},
}


@pytest.mark.parametrize("name", STRANGE_ROWS)
def test_an_invalid_row_is_edited_at_its_place(name: str, export: Lines, auditor: Any):
    export[3]["event"] = STRANGE_ROWS[name]
    code, output = auditor(export)
    assert code == 1
    assert "row 3: edited" in output
    assert output.splitlines()[-1] == "1 faults"


def test_a_torn_line_is_edited_at_its_place(export: Lines, auditor: Any):
    lines = [json.dumps(line) for line in export]
    lines[3] = lines[3][:50]
    code, output = auditor("\n".join(lines))
    assert (code, "row 3: edited" in output) == (1, True)


def test_a_forged_row_cannot_control_the_terminal(export: Lines, auditor: Any):
    for line in export:
        (kind,) = line
        line[kind]["chain"] = "x\nclean\x1b[2J"
    code, output = auditor(export)
    assert code == 1
    assert "\x1b" not in output
    assert "clean" not in output.splitlines()


MANIFEST = (
    '{"manifest": {"chain": "site", "filtered": false, "first_seq": 1, "last_seq": 1, '
    '"exported_at": "", "public_keys": {}}}\n'
)
GARBAGE = {
    "nothing": "",
    "no JSON": "hello\n",
    "no manifest": '{"event": {}}\n',
    "a list": "[]\n",
    "a number": "1\n",
    "an empty manifest": '{"manifest": {}}\n',
    "a manifest that is a list": '{"manifest": []}\n',
    "nested too deeply": '{"manifest":' + "[" * 100_000,
    "a name twice": '{"manifest": {}, "manifest": {}}\n',
    "an invalid key": MANIFEST.replace("{}", '{"a": "AA=="}'),
    "a whole export that begins with row 2": MANIFEST.replace('"first_seq": 1', '"first_seq": 2'),
}


@pytest.mark.parametrize("name", GARBAGE)
def test_an_invalid_export_is_one_line_and_exit_2(name: str, auditor: Any):
    code, output = auditor(GARBAGE[name])
    assert code == 2
    assert output.splitlines()[-1].startswith("could not run: ")


@pytest.mark.parametrize(
    "options",
    [["--anchors", "nowhere.jsonl"], ["--public-key", "abc"], ["--public-key", "AAAA"]],
)
def test_unusable_options_are_one_line_and_exit_2(options: list[str], export: Lines, auditor: Any):
    code, output = auditor(export, *options)
    assert (code, output.count("\n")) == (2, 1)
    assert output.startswith("could not run: ")
    assert auditor(export)[0] == 0


def test_a_duplicate_name_in_a_row_is_refused(export: Lines, auditor: Any):
    """Some JSON readers take the first value, Python takes the last."""
    text = "".join(json.dumps(line) + "\n" for line in export)
    twice = text.replace('"reason": ', '"reason": "forged", "reason": ', 1)
    assert auditor(text)[0] == 0
    code, output = auditor(twice)
    assert code == 1
    assert "line 2 of export.jsonl cannot be read" in output
    assert "row 1: edited" in output


def test_the_verifier_is_short_and_standalone():
    text = Path(verifier.__file__).read_text()
    assert text.count("\n") <= 200
    assert "taskruns." not in text
    assert "django" not in text
