"""Reading single values that Arize may send."""

import math
from datetime import UTC, datetime

import pytest

from taskruns.arize.values import MOST, read_count, read_text, read_timestamp


@pytest.mark.parametrize(
    ("sent", "moment"),
    [
        ("2026-03-07T10:30:01.000Z", datetime(2026, 3, 7, 10, 30, 1, tzinfo=UTC)),
        ("2026-03-07T10:30:01z", datetime(2026, 3, 7, 10, 30, 1, tzinfo=UTC)),
        ("2026-03-07 10:30:01", datetime(2026, 3, 7, 10, 30, 1, tzinfo=UTC)),
        ("2026-03-07T10:30:01.5+02:00", datetime(2026, 3, 7, 8, 30, 1, 500000, tzinfo=UTC)),
        ("2026-03-07T10:30:01-0530", datetime(2026, 3, 7, 16, 0, 1, tzinfo=UTC)),
        ("2026-03-07T10:30:01+02", datetime(2026, 3, 7, 8, 30, 1, tzinfo=UTC)),
        ("2026-03-07T10:30Z", datetime(2026, 3, 7, 10, 30, tzinfo=UTC)),
        ("2026-03-07t10:30+02:00", datetime(2026, 3, 7, 8, 30, tzinfo=UTC)),
        ("2026-03-07", datetime(2026, 3, 7, tzinfo=UTC)),
        ("20260307", datetime(2026, 3, 7, tzinfo=UTC)),
        ("20260307T103001Z", datetime(2026, 3, 7, 10, 30, 1, tzinfo=UTC)),
        ("20260307t103001.25-0530", datetime(2026, 3, 7, 16, 0, 1, 250000, tzinfo=UTC)),
        ("20260307T1030z", datetime(2026, 3, 7, 10, 30, tzinfo=UTC)),
        ("2026-03-07T10:30:60Z", datetime(2026, 3, 7, 10, 31, tzinfo=UTC)),
        ("2026-12-31T23:59:60.5Z", datetime(2027, 1, 1, 0, 0, 0, 500000, tzinfo=UTC)),
        ("2026-03-07T10:30:01.Z", datetime(2026, 3, 7, 10, 30, 1, tzinfo=UTC)),
        (" 2026-03-07 10:30:01 z ", datetime(2026, 3, 7, 10, 30, 1, tzinfo=UTC)),
        ("2026-03-07T10:30:01.123456789Z", datetime(2026, 3, 7, 10, 30, 1, 123456, tzinfo=UTC)),
        ("2026-03-07T10:30:01." + "9" * 5000 + "Z", datetime(2026, 3, 7, 10, 30, 1, 999999, tzinfo=UTC)),
    ],
)
def test_timestamp_is_read_as_utc(sent, moment):
    assert read_timestamp(sent) == moment
    assert read_timestamp(sent).tzinfo is UTC


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "soon",
        "2026-02-30T00:00:00Z",
        "2026-03-07T25:00:00Z",
        "2026-03-07T10:30:61Z",
        "2026-03-07T10:60:00Z",
        "2026-0307T10:30:01Z",
        "2026-03",
        "2026-03-07T",
        "2026-03-07T10",
        "2026-03-07Z",
        "9999-12-31T23:59:60Z",
        "2026-03-07T10:30:01+02:75",
        "2026-03-07T10:30:01+24:00",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-03-07T10:30:01Z<b>",
        "٢٠٢٦-03-07T10:30:01Z",
        1772879401,
        1772879401.5,
        True,
        None,
        {},
    ],
)
def test_invalid_timestamp_is_none(sent):
    assert read_timestamp(sent) is None


@pytest.mark.parametrize(
    ("sent", "count"),
    [
        (0, 0),
        (4850, 4850),
        (4850.0, 4850),
        ("4850", 4850),
        (" 007 ", 7),
        (-3, 0),
        (2**70, MOST),
        (1e300, MOST),
        ("9" * 5000, MOST),
        (str(MOST), MOST),
        (1.5, None),
        (math.nan, None),
        (math.inf, None),
        (True, None),
        ("4,850", None),
        ("-1", None),
        ("", None),
        (None, None),
        ([1], None),
    ],
)
def test_count_is_clamped_to_64_bits(sent, count):
    assert read_count(sent) == count
    assert not isinstance(read_count(sent), bool)


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ("a\0b", "ab"),
        ("a\ud800b", "a\ufffdb"),
        ("x" * 1_000_000, "x" * 1_000_000),
        (7, "7"),
        (0.5, "0.5"),
        ("", ""),
        (True, None),
        (math.nan, None),
        (10**400, None),
        ([], None),
        (None, None),
    ],
)
def test_text_is_storable(sent, text):
    assert read_text(sent) == text
