"""Exports as bytes, changed by an attacker, and the verifier that must notice."""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.conf import settings
from django.http import QueryDict

from taskruns import verifier
from taskruns.audit import Actor
from taskruns.audit.signing_keys import public_keys
from taskruns.forms import AuditFilter
from taskruns.models import Team
from taskruns.pages.audit.page import EVENTS, OUTCOMES
from taskruns.services import audit

Lines = list[dict[str, Any]]
BY = Actor(type="user", id="7", label="ada@example.com")
ZEROS = "0" * 64


def base64_of(key: Ed25519PrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes_raw()).decode()


def id_of(key: Ed25519PrivateKey) -> str:
    return hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest()[:16]


PANELS = Ed25519PrivateKey.from_private_bytes(settings.AUDIT_SIGNING_KEY)
OURS = base64.b64encode(next(iter(public_keys().values()))).decode()
OWN = Ed25519PrivateKey.from_private_bytes(b"a key that a forger made himself")  # of 32 bytes


def exported(team: Team | None, query: str = "", *, after: int = 0) -> bytes:
    wanted = AuditFilter.parse(QueryDict(query), events=EVENTS, outcomes=OUTCOMES)
    chosen = audit.export(team, by=BY, kind="jsonl", wanted=wanted, after=after)
    return "".join(audit.jsonl_lines(chosen)).encode()


def parsed(export: bytes) -> Lines:
    return [json.loads(line) for line in export.splitlines()]


def line(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def encoded(lines: Iterable[Any]) -> bytes:
    return b"".join(map(line, lines))


def hashed(event: dict[str, Any]) -> dict[str, Any]:
    """The row with the hash of what it says now."""
    columns = line({name: value for name, value in event.items() if name != "hash"}).rstrip(b"\n")
    return event | {"hash": hashlib.sha256(b"taskruns-audit-v1\n" + columns).hexdigest()}


def relinked(lines: Lines) -> Lines:
    """All rows with hashes and links computed again, as anyone can."""
    previous, again = ZEROS, []
    for each in lines:
        if "event" in each:
            again.append({"event": hashed(each["event"] | {"prev_hash": previous})})
            previous = again[-1]["event"]["hash"]
        else:
            again.append(each)
    return again


def signature(kind: str, statement: dict[str, Any], key: Ed25519PrivateKey) -> str:
    text = kind.encode() + b"\n" + line(statement).rstrip(b"\n")
    return base64.b64encode(key.sign(text)).decode()


def signed(lines: Lines, key: Ed25519PrivateKey) -> bytes:
    """The lines under a new trailer, whose counts and digest are right."""
    rest = [each for each in lines if "trailer" not in each]
    body = encoded(rest)
    trailer: dict[str, Any] = {
        "events": sum("event" in each for each in rest),
        "anchors": sum("anchor" in each for each in rest),
        "digest": hashlib.sha256(body).hexdigest(),
        "key_id": id_of(key),
    }
    return body + line({"trailer": trailer | {"signature": signature("taskruns-export-v2", trailer, key)}})


def forged(lines: Lines, key: Ed25519PrivateKey) -> bytes:
    """The export rebuilt with this key: links, anchors, the manifest's keys and the trailer."""
    lines = relinked(lines)
    lines[0]["manifest"]["public_keys"] = {id_of(key): base64_of(key)}
    hashes = {each["event"]["seq"]: each["event"]["hash"] for each in lines if "event" in each}
    for each in lines:
        if "anchor" in each:
            anchor = each["anchor"] | {"hash": hashes[each["anchor"]["seq"]], "key_id": id_of(key)}
            del anchor["signature"]
            each["anchor"] = anchor | {"signature": signature("taskruns-anchor-v1", anchor, key)}
    return signed(lines, key)


class Auditor:
    """Runs the verifier on exports in an empty directory."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self._capsys = directory, capsys

    def __call__(self, *exports: bytes, pin: str | None = OURS, anchors: bytes | None = None) -> tuple[int, str]:
        """Exit code and output. `pin`: the key that the auditor trusts."""
        options = ["--public-key", pin] if pin else []
        if anchors is not None:
            (self.directory / "anchors.jsonl").write_bytes(anchors)
            options += ["--anchors", str(self.directory / "anchors.jsonl")]
        for number, export in enumerate(exports):
            (self.directory / f"{number}.jsonl").write_bytes(export)
        paths = [str(self.directory / f"{number}.jsonl") for number in range(len(exports))]
        self._capsys.readouterr()
        try:
            code = verifier.main([*paths, *options])
        except SystemExit as ended:
            code = int(str(ended.code))
        said = self._capsys.readouterr()
        return code, (said.out + said.err).replace(f"{self.directory}/", "")
