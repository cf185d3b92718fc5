"""The typed errors: messages, redaction, Retry-After."""

from datetime import UTC, datetime

import pytest

from taskruns.arize import errors
from taskruns.arize.values import one_line
from taskruns.outbound.retry_after import read_retry_after

KEY = "ak-canary-7f3d9b2e51c84a60"
NOW = datetime(2026, 8, 1, 12, 0, 0, tzinfo=UTC)


def test_every_error_has_its_own_message():
    kinds = {*errors.ERRORS.values(), errors.NotSent, errors.NoAnswer, errors.ServerError}
    kinds |= {errors.Unreadable, errors.UnexpectedAnswer}
    assert len({str(kind(status=500)) for kind in kinds}) == len(kinds) == 12


def test_key_is_redacted_before_truncating():
    assert one_line("x" * 90 + " " + KEY, 100, KEY) == "x" * 90 + " [key]"
    assert KEY[:5] in one_line("x" * 90 + " " + KEY, 100, "")


@pytest.mark.parametrize(
    "body", [b"<h1>s3kr3t</h1>", b'"s3kr3t"', b'["s3kr3t"]', b'{"message": "s3kr3t"}', b"\xff", b""]
)
def test_only_a_problem_document_is_repeated(body: bytes):
    assert errors.read_problem(body) == errors.Problem()
    assert errors.read_problem(b'{"detail": "why"}').detail == "why", "the control"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("42", 42),
        (" 7 ", 7),
        ("0", 0),
        ("-5", 0),
        ("1.2", 2),
        ("9" * 400, None),
        ("999999999", 86_400),
        ("Sat, 01 Aug 2026 12:01:30 GMT", 90),
        ("Sat, 01 Aug 2026 11:00:00 GMT", 0),
        ("Sat, 01 Aug 2026 12:01:30", 90),
        ("Sat, 99 Aug 2026 12:01:30 GMT", None),
        ("Thu, 01 Jan 2026 00:00:00 +99999999999999", None),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("soon", None),
        ("nan", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_every_form(header, seconds):
    assert read_retry_after(header, now=NOW) == seconds
