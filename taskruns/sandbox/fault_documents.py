"""Reads the documents that `POST /sandbox/faults` takes. `server.py` is their reference."""

import math
import re

from taskruns.sandbox.faults import ErrorAnswer, Fault, MalformedAnswer, Match
from taskruns.sandbox.fields import Fields, read_fields
from taskruns.sandbox.problems import Problem
from taskruns.sandbox.runs import CancelEffect

_BEFORE_AFTER = ("before", "after")
_OFTEN = ("count", "share", "per_second")
_ANSWER_ONLY = ("headers", "title", "detail", "body")
_KNOWN = (
    *("method", "path", "path_regex", "key"),
    *("latency_ms", "latency_at", "status", *_ANSWER_ONLY, "answer", "answer_at", "cut", "hang"),
    *("cancel", "cancel_takes_seconds"),
    *_OFTEN,
)
# What the server itself must say about its answer.
_FRAMING = {"content-length", "transfer-encoding", "connection"}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_LONGEST_LATENCY_MS = 600_000
_LONGEST_CANCEL_S = 31 * 86_400
_HTML = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><h1>502 Bad Gateway</h1></body>\r\n</html>\r\n"
_ANSWERS: dict[str, ErrorAnswer | MalformedAnswer] = {
    "html": ErrorAnswer(502, headers={}, title=None, detail=None, body=_HTML),
    "malformed": MalformedAnswer(),
}
_CANCELS = {
    "ignored": CancelEffect(after_ms=None),
    "only_claimed": CancelEffect(after_ms=None, claimed=True),
}


def read_faults(document: object) -> list[Fault]:
    """One fault, or `{"faults": [...]}`. Raises Problem 400, and then none of them counts."""
    if isinstance(document, dict) and "faults" in document:
        several = read_fields(document, known=("faults",)).document["faults"]
        if not isinstance(several, list):
            raise Problem(400, "faults must be a list.")
        return [_read_fault(one) for one in several]
    return [_read_fault(document)]


def _read_fault(document: object) -> Fault:
    fields = read_fields(document, known=_KNOWN)
    fault = Fault(
        match=_read_match(fields),
        latency_ms=fields.whole("latency_ms", least=0, most=_LONGEST_LATENCY_MS) or 0,
        latency_at=fields.choice("latency_at", _BEFORE_AFTER) or "before",
        wrong=_read_wrong(fields),
        answer_at=fields.choice("answer_at", _BEFORE_AFTER) or "before",
        cut=fields.choice("cut", _BEFORE_AFTER),
        hang=fields.choice("hang", _BEFORE_AFTER),
        cancel=_read_cancel(fields),
        count=fields.whole("count", least=1, most=1_000_000),
        share=fields.number("share", least=0, most=1),
        per_second=fields.number("per_second", least=0.01, most=10_000),
        document=_redacted(fields),
    )
    _demand_sense(fault, fields)
    return fault


def _demand_sense(fault: Fault, fields: Fields) -> None:
    endings = [fault.wrong, fault.cut, fault.hang]
    if not (fault.latency_ms or fault.cancel or any(endings)):
        raise Problem(
            400,
            "A fault needs at least one of latency_ms, status, answer, cut, hang, cancel, cancel_takes_seconds "
            "and per_second.",
        )
    if len([ending for ending in endings if ending]) > 1:
        raise Problem(400, "A fault has one of status, answer, cut and hang: the others leave no such answer.")
    if fault.cancel and ("before" in {fault.cut, fault.hang} or fault.forestalls_work):
        raise Problem(400, "A fault that changes a cancel must let it be done: cut, hang or answer after it.")
    if "answer_at" in fields.document and fault.wrong is None:
        raise Problem(400, "answer_at needs a status or an answer.")
    if fault.share is not None and (fault.count is not None or fault.per_second is not None):
        raise Problem(400, "A fault has either a share, or a count or a per_second.")


def _read_match(fields: Fields) -> Match:
    method = fields.text("method")
    return Match(
        method=method and method.upper(),
        path=fields.text("path"),
        path_regex=_read_regex(fields.text("path_regex")),
        key=fields.text("key"),
    )


def _read_regex(text: str | None) -> re.Pattern[str] | None:
    try:
        return None if text is None else re.compile(text)
    except (re.error, RecursionError, OverflowError):
        raise Problem(400, "path_regex is not a regular expression.") from None


def _read_wrong(fields: Fields) -> ErrorAnswer | MalformedAnswer | None:
    named = fields.choice("answer", _ANSWERS)
    error = _read_error(fields)
    if named is None:
        return error or _read_refusal(fields)
    if error is not None:
        raise Problem(400, "A fault has either a status or an answer.")
    return _ANSWERS[named]


def _read_error(fields: Fields) -> ErrorAnswer | None:
    status = fields.whole("status", least=200, most=599)
    if status is None:
        if any(name in fields.document for name in _ANSWER_ONLY):
            raise Problem(400, f"{', '.join(_ANSWER_ONLY)} need a status.")
        return None
    return ErrorAnswer(
        status=status,
        headers=_read_headers(fields),
        title=fields.text("title"),
        detail=fields.text("detail"),
        body=fields.text("body"),
    )


def _read_refusal(fields: Fields) -> ErrorAnswer | None:
    """What exceeds a rate and is not told what else happens is refused with a 429."""
    per_second = fields.number("per_second", least=0.01, most=10_000)
    members = fields.document.keys()
    if per_second is None or members & {"latency_ms", "cut", "hang", "cancel", "cancel_takes_seconds"}:
        return None
    wait = {"Retry-After": str(math.ceil(1 / per_second))}
    return ErrorAnswer(429, wait, title=None, detail=f"More than {per_second:g} requests a second.", body=None)


def _read_cancel(fields: Fields) -> CancelEffect | None:
    named = fields.choice("cancel", _CANCELS)
    seconds = fields.number("cancel_takes_seconds", least=0, most=_LONGEST_CANCEL_S)
    if named is not None and seconds is not None:
        raise Problem(400, "A fault has either a cancel or a cancel_takes_seconds.")
    if seconds is not None:
        return CancelEffect(after_ms=int(seconds * 1000))
    return None if named is None else _CANCELS[named]


def _read_headers(fields: Fields) -> dict[str, str]:
    headers = fields.texts("headers")
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value) or name.lower() in _FRAMING:
            raise Problem(400, f"The header {name!r} cannot be sent.")
    return headers


def _redacted(fields: Fields) -> dict[str, object]:
    return {name: "…" if name == "key" else value for name, value in fields.document.items()}
