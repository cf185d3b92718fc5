"""The short id of a run, which rows and pages show instead of Arize's long one."""

from base64 import b64encode

import pytest

from taskruns.pages.values import short_id


def encoded(text: str) -> str:
    return b64encode(text.encode()).decode()


def test_the_number_in_an_arize_id_is_its_short_id() -> None:
    assert short_id("VGFza1J1bjo5OTpxUndY") == "99"
    assert short_id(encoded("TaskRun:123456789:aBcD")) == "123456789"


@pytest.mark.parametrize(
    "arize_id",
    [
        "run-00000001",
        encoded("OnlineTask:45:qRwX"),
        encoded("TaskRun:none:qRwX"),
        encoded("TaskRun:12"),
        encoded("TaskRun:" + "9" * 21 + ":q"),
        "VGFza1J1bjo5OTpxUndY*",
        "Läufe-00000007",
    ],
)
def test_other_ids_are_shown_by_their_end(arize_id: str) -> None:
    assert short_id(arize_id) == arize_id[-8:]


def test_runs_with_ids_that_begin_and_end_alike_are_told_apart() -> None:
    first, second = encoded("TaskRun:1:qRwX"), encoded("TaskRun:2:qRwX")
    assert short_id(first) != short_id(second)
