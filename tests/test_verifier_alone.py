"""`verifier.py` as an outside auditor has it: a copy in an empty directory, an export, and Python."""

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
from taskruns.audit.keys import public_keys
from taskruns.filters import AuditFilter
from taskruns.models import Run, Team, User
from taskruns.services import audit
from taskruns.verifier import event_hash

from .conftest import actor

Lines = list[dict[str, Any]]
LAST = 7  # the row of the export itself


@pytest.fixture
def export(team: Team, run: Run, oli: User) -> Lines:
    for number in range(LAST - 1):
        record(EventType.RUN_CANCEL, "requested", by=actor(oli), team=team, run=run, reason=f"東京 {number}")
    return exported(team, oli)


def exported(team: Team, oli: User, query: str = "") -> Lines:
    wanted = AuditFilter.parse(QueryDict(query), events=audit.EVENTS, outcomes=audit.OUTCOMES)
    chosen = audit.export(team, by=actor(oli), kind="jsonl", wanted=wanted)
    return [json.loads(line) for line in audit.jsonl_lines(chosen)]


@pytest.fixture
def auditor(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs the copy on these lines; gives its exit code and what it said."""
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
    code, said = auditor(export)
    assert (code, said.splitlines()[-1]) == (0, "clean")
    assert f"{LAST} rows of {export[0]['manifest']['chain']} checked" in said
    assert "1 anchors, signatures checked" in said
    assert "keys not pinned" in said


def test_without_cryptography_it_says_that_no_signature_was_checked(export: Lines, auditor: Any):
    without = ("-I", "-S")
    code, said = auditor(export, python=without)
    assert (code, said.splitlines()[-1]) == (0, "clean")
    assert "signatures not checked" in said
    export[-1]["anchor"]["signature"] = "AAAA"
    assert auditor(export, python=without)[0] == 0
    assert auditor(export)[0] == 1
    export[3]["event"]["reason"] = "another"
    code, said = auditor(export, python=without)
    assert code == 1
    assert "row 3: edited" in said


def test_a_pinned_key_is_the_only_one_believed(export: Lines, auditor: Any):
    ours = base64.b64encode(next(iter(public_keys().values()))).decode()
    theirs = base64.b64encode(Ed25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
    code, said = auditor(export, "--public-key", ours)
    assert (code, "keys pinned" in said, "not pinned" in said) == (0, True, False)
    assert auditor(export, "--public-key", theirs, "--public-key", ours)[0] == 0
    code, said = auditor(export, "--public-key", theirs)
    assert code == 1
    assert f"row {LAST}: bad anchor signature" in said


def test_a_forger_with_a_key_of_their_own_is_met_by_the_pin(export: Lines, auditor: Any):
    """They recompute the chain, sign it anew and put their key into the manifest."""
    ours = base64.b64encode(next(iter(public_keys().values()))).decode()
    key = Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes_raw()
    export[2]["event"]["reason"] = "another"
    recompute(export)
    anchor = export[-1]["anchor"]
    anchor |= {"hash": export[-2]["event"]["hash"], "key_id": verifier.key_id(raw)}
    anchor["signature"] = base64.b64encode(key.sign(verifier.anchor_statement(anchor))).decode()
    export[0]["manifest"]["public_keys"] = {verifier.key_id(raw): base64.b64encode(raw).decode()}
    assert auditor(export)[0] == 0
    assert auditor(export, "--public-key", ours)[0] == 1


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
def test_a_changed_export_is_found_out_with_the_place(name: str, export: Lines, auditor: Any):
    change, fault = CHANGES[name]
    change(export)
    code, said = auditor(export)
    assert code == 1
    assert fault in said
    assert said.splitlines()[-1].endswith("faults")


def test_anchors_from_outside_find_a_tail_that_was_cut_before_the_export(export: Lines, auditor: Any, tmp_path: Path):
    outside = tmp_path / "anchors.jsonl"
    anchor = export.pop()["anchor"]
    stranger = anchor | {"chain": "site", "seq": 99}
    outside.write_text("\n".join(json.dumps(line, indent=None) for line in (stranger, anchor)))
    assert auditor(export, "--anchors", str(outside))[0] == 0
    del export[LAST]
    export[0]["manifest"]["last_seq"] = LAST - 1
    assert auditor(export)[0] == 0
    code, said = auditor(export, "--anchors", str(outside))
    assert code == 1
    assert f"row {LAST}: anchor not met" in said


def test_of_a_filtered_export_it_checks_single_rows_and_says_so(export: Lines, team: Team, oli: User, auditor: Any):
    some = exported(team, oli, "q=東京 3")
    assert [next(iter(line)) for line in some][:3] == ["manifest", "event", "anchor"]
    code, said = auditor(some)
    assert code == 0
    assert "1 rows" in said
    assert "each for itself: filtered" in said
    some[1]["event"]["reason"] = "another"
    code, said = auditor(some)
    assert (code, "row 4: edited" in said) == (1, True)


MANIFEST = '{"manifest": {"chain": "site", "filtered": false, "last_seq": 1, "public_keys": {}}}\n'
GARBAGE = {
    "nothing": "",
    "no JSON": "hello\n",
    "no manifest": '{"event": {}}\n',
    "a list": "[]\n",
    "a number": "1\n",
    "a manifest of nothing": '{"manifest": {}}\n',
    "a manifest that is a list": '{"manifest": []}\n',
    "nested too deep": '{"manifest":' + "[" * 100_000,
    "a name twice": '{"manifest": {}, "manifest": {}}\n',
    "a key that is none": MANIFEST.replace("{}", '{"a": "AA=="}'),
    "an event that is none": MANIFEST + '{"event": 1}',
    "a number that is a text": MANIFEST + '{"event": {"seq": "1", "hash": "", "chain": "site"}}',
}


@pytest.mark.parametrize("name", GARBAGE)
def test_what_is_no_export_is_one_sentence_and_exit_2(name: str, auditor: Any):
    code, said = auditor(GARBAGE[name])
    assert code == 2
    assert said.startswith("could not run: ")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "options",
    [["--anchors", "nowhere.jsonl"], ["--anchors", "verifier.py"], ["--public-key", "abc"], ["--public-key", "AAAA"]],
)
def test_options_that_cannot_be_used_are_one_sentence_and_exit_2(options: list[str], export: Lines, auditor: Any):
    code, said = auditor(export, *options)
    assert (code, said.count("\n")) == (2, 1)
    assert said.startswith("could not run: ")
    assert auditor(export)[0] == 0


def test_a_name_that_comes_twice_in_a_row_is_refused(export: Lines, auditor: Any):
    """One reader would see the first value, this one the last."""
    text = "".join(json.dumps(line) + "\n" for line in export)
    twice = text.replace('"reason": ', '"reason": "forged", "reason": ', 1)
    assert auditor(text)[0] == 0
    assert auditor(twice)[0] == 2


def test_it_stays_short_enough_to_be_read_and_stands_alone():
    text = Path(verifier.__file__).read_text()
    assert text.count("\n") <= 200
    assert "taskruns." not in text
    assert "django" not in text
