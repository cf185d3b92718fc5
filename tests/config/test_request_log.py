"""One log line a request, and none for the polls of open pages unless they fail."""

import logging
from typing import Any

import pytest
from django.test import Client

from taskruns.models import Run, User
from tests.clients import ClientOf

TABLE = "/teams/ops-north/runs/table/"
POLL = {"HX-Request": "true"}


@pytest.fixture
def client(oli: User, run: Run, client_of: ClientOf) -> Client:
    return client_of(oli)


@pytest.fixture
def lines(caplog: Any) -> Any:
    """The lines of requests since the last call."""

    def read() -> list[dict[str, Any]]:
        found = [line.msg for line in caplog.records if isinstance(line.msg, dict)]
        caplog.clear()
        return [line for line in found if line["event"].startswith("request_")]

    read()
    return read


def test_a_request_is_one_line_when_it_is_finished(client: Client, lines: Any) -> None:
    client.get("/teams/ops-north/runs/")
    (line,) = lines()
    assert (line["event"], line["code"], line["level"]) == ("request_finished", 200, "info")
    assert line["address"] == "127.0.0.1"
    assert 0 <= line["duration_ms"] < 60_000


def test_the_address_is_the_verified_one(client: Client, lines: Any) -> None:
    client.get("/teams/ops-north/runs/", headers={"X-Forwarded-For": "203.0.113.9"}, REMOTE_ADDR="192.0.2.1")
    (line,) = lines()
    assert line["address"] == "192.0.2.1"
    assert "203.0.113.9" not in str(line)


def test_a_request_that_fails_has_its_duration_too(client: Client, lines: Any, monkeypatch: Any) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("taskruns.views.board.render", fail)
    client.raise_request_exception = False
    assert client.get("/teams/ops-north/runs/").status_code == 500
    (line,) = lines()
    assert (line["event"], line["code"]) == ("request_failed", 500)
    assert {"duration_ms", "address", "exception"} <= line.keys()


def test_polls_are_not_logged_unless_they_fail(client: Client, lines: Any) -> None:
    answer = client.get(TABLE, headers=POLL)
    assert answer.status_code == 200
    assert client.get(TABLE, headers=POLL | {"If-None-Match": answer["ETag"]}).status_code == 304
    assert lines() == []
    assert client.get(f"{TABLE}?status=nonsense", headers=POLL).status_code == 400
    assert client.get("/teams/ops-south/runs/table/", headers=POLL).status_code == 404
    assert [line["code"] for line in lines()] == [400, 404]


def test_an_act_with_htmx_is_logged(client: Client, lines: Any) -> None:
    client.post("/teams/ops-north/batches/", headers=POLL)
    assert len(lines()) == 1


def test_at_debug_polls_are_logged(client: Client, lines: Any) -> None:
    log = logging.getLogger("django_structlog")
    level = log.level
    log.setLevel(logging.DEBUG)
    try:
        assert client.get(TABLE, headers=POLL).status_code == 200
    finally:
        log.setLevel(level)
    (line,) = lines()
    assert (line["event"], line["level"]) == ("request_finished", "debug")
