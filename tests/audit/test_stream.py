"""The rows of a chain in chunks: all of them, by number, and each chunk from a range of numbers."""

from typing import Any

import pytest
from django.db import connection
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext

from taskruns.models import AuditAnchor, Team
from taskruns.services.audit import rows
from taskruns.services.audit.rows import stream_values

CHUNK = 10
CHAINS = {
    "dense": range(1, 96),
    "a few": [1, 2, 3],
    "exactly one chunk": range(1, CHUNK + 1),
    "a gap": [*range(1, 16), *range(5_000, 5_016)],
    "a gap beyond every reach": [1, 2, 10**15, 10**15 + 1],
    "the largest number": [1, 2**63 - 1],
    "negative numbers": [-(10**9), -3, 0, 4],
    "one number many times": [1, *[2] * 35, 3],
    "sparse": range(1, 2_000, 41),
}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: Any) -> None:
    monkeypatch.setattr(rows, "CHUNK", CHUNK)
    monkeypatch.setattr(rows, "LONGEST_REACH", 8 * CHUNK)


def stored(numbers: Any) -> Any:
    QuerySet(AuditAnchor).bulk_create(
        AuditAnchor(chain="site", seq=seq, hash="", signed_at="2026-11-23T03:00:00Z", key_id=f"{key}", signature="")
        for key, seq in enumerate(numbers)
    )
    return AuditAnchor.objects.filter(chain="site")


@pytest.mark.parametrize("numbers", CHAINS.values(), ids=CHAINS)
def test_each_row_is_read_once_by_number(team: Team, numbers: Any) -> None:
    found = [row["seq"] for row in stream_values(stored(numbers), ("seq",))]
    assert found == sorted(numbers)


def test_a_chunk_of_a_dense_chain_reads_no_row_after_it(team: Team) -> None:
    chain = stored(range(1, 96))
    with CaptureQueriesContext(connection) as captured:
        assert len(list(stream_values(chain, ("seq",)))) == 95
    ends = ['"seq" < ' in query["sql"].partition("ORDER BY")[0] for query in captured]
    assert ends[1:10] == [True] * 9
    assert len(ends) <= 15, "and a few queries find the end"
