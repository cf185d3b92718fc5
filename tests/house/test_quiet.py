"""Logs: one JSON object per line, each with an event. Typed text cannot forge a line, and no secret is logged."""

import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from django.conf import settings as django_settings
from django.db import DatabaseError
from django.http import HttpResponse
from django.test import Client
from gunicorn.config import Config

from config.gunicorn_logs import JsonLogger
from config.logs import OF_CLIENT, OF_MESSAGE, cut, redact_tokens
from taskruns.models import AuditEvent, Credential, Run, Team, User
from taskruns.services.tokens.secret import new_secret
from tests.clients import ClientOf, click_cancel
from tests.factories import CANARY, PASSWORD
from tests.secret_search import Witness, found
from tests.wire import run_url, wire_run

FORGED = 'why\r\n{"event": "forged", "level": "info"}\n\x1b[2J\x1b[31m\u2028{"event": "forged"}\u2029\x85\x0b"}\x00'
BROKEN = "broken on purpose"
Lines = Callable[[], list[dict[str, Any]]]


@pytest.fixture
def stderr() -> Iterator[io.StringIO]:
    """The stream of this deployment's log handler."""
    handlers = [handler for handler in logging.getLogger().handlers if type(handler) is logging.StreamHandler]
    (handler,) = handlers
    written = io.StringIO()
    before = handler.setStream(written)
    yield written
    handler.setStream(before)


@pytest.fixture
def lines(stderr: io.StringIO) -> Lines:
    """Returns what was logged since the last call. Each line must be one JSON object with an event."""

    def read() -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in stderr.getvalue().split("\n") if line]
        stderr.seek(0)
        stderr.truncate()
        for entry in entries:
            assert {"event", "level", "logger", "timestamp"} <= set(entry)
            assert isinstance(entry["event"], str)
        return entries

    return read


def fail(*_args: Any, **_kwargs: Any) -> None:
    raise RuntimeError(BROKEN)


def no_database(*_args: Any, **_kwargs: Any) -> None:
    raise DatabaseError(BROKEN)


# --- Reference ids

Ask = Callable[[Client, pytest.MonkeyPatch], HttpResponse]
ERRORS: dict[str, tuple[int, Ask]] = {
    "a foreign host": (400, lambda client, _: client.get("/", headers={"host": "evil.example"})),
    "a filter": (400, lambda client, _: client.get("/teams/ops-north/runs/?status=nonsense")),
    "too many fields": (400, lambda client, _: client.get("/runs/?" + "a=1&" * 5_001)),
    "no right": (403, lambda client, _: client.get("/teams/ops-north/archive/")),
    "no token": (403, lambda _, __: Client(enforce_csrf_checks=True).post("/accounts/login/")),
    "not found": (404, lambda client, _: client.get("/nowhere/")),
    "too long": (413, lambda client, _: client.post("/runs/", "x" * 1_000_001, "text/plain")),
    "a mistake": (500, lambda client, patch: patched(client, patch, fail)),
    "no database": (503, lambda client, patch: patched(client, patch, no_database)),
}


def patched(client: Client, patch: pytest.MonkeyPatch, wrong: Callable[..., None]) -> HttpResponse:
    patch.setattr("taskruns.pages.board.board", wrong)
    answer: Any = client.get("/teams/ops-north/runs/")
    return answer  # type: ignore[no-any-return]


@pytest.mark.parametrize(("status", "ask"), ERRORS.values(), ids=ERRORS)
def test_the_reference_on_an_error_page_is_in_the_log(
    status: int, ask: Ask, team: Team, mona: User, client_of: ClientOf, lines: Lines, monkeypatch: pytest.MonkeyPatch
):
    client = client_of(mona)
    client.raise_request_exception = False
    client.get("/runs/")  # ignore what an earlier request left behind
    earlier = {entry.get("request_id") for entry in lines()}
    answer = ask(client, monkeypatch)
    assert answer.status_code == status
    shown = re.search(r"Reference for your administrator: <code>([^<]+)</code>", answer.content.decode())
    assert shown
    assert shown[1] not in earlier
    logged = [entry for entry in lines() if entry.get("request_id") == shown[1]]
    assert logged
    if status >= 500:
        assert any(BROKEN in entry.get("exception", "") for entry in logged)
    assert BROKEN not in answer.content.decode()


# --- Forged lines


def test_typed_text_stays_one_log_line(
    run: Run, oli: User, client_of: ClientOf, arize: Any, lines: Lines, monkeypatch: pytest.MonkeyPatch
):
    arize.post(run_url(run, "/cancel"), json=wire_run(run, "CANCELLED"))
    click_cancel(client_of(oli), run, reason=FORGED.replace("\x00", ""))
    client_of(oli).get("/runs/", {"q": FORGED}, headers={"User-Agent": FORGED.replace("\x00", "")})
    client_of(oli).get("/teams/x%0d%0a%7B%22event%22:%22forged%22%7D/")
    client_of(oli).post("/accounts/login/", {"login": FORGED, "password": FORGED})
    structlog.get_logger("taskruns.tests").warning("typed", reason=FORGED)
    entries = lines()
    assert entries
    assert "forged" not in {entry["event"] for entry in entries}
    (typed,) = [entry for entry in entries if entry["event"] == "typed"]
    assert typed["reason"] == FORGED
    row = AuditEvent.objects.get(event="run.cancel", outcome="requested")
    assert row.reason.startswith("why {")
    assert row.reason.isprintable()
    assert row.reason.splitlines() == [row.reason]


def test_a_log_line_has_no_raw_control_character(stderr: io.StringIO):
    """Terminals and tools that split at U+2028 also see one line."""
    structlog.get_logger("taskruns.tests").warning("typed", reason=FORGED)
    logged = stderr.getvalue()
    assert "forged" in logged
    assert logged.rstrip("\n").splitlines() == [logged.rstrip("\n")]
    assert logged.rstrip("\n").isprintable()


# --- Secrets


@pytest.mark.parametrize("debug", [False, True], ids=["DEBUG off", "DEBUG on"])
def test_no_secret_is_logged_when_a_request_fails(
    *,
    debug: bool,
    credential: Credential,
    mona: User,
    settings: Any,
    lines: Lines,
    monkeypatch: pytest.MonkeyPatch,
):
    """A request with a session, a form token and an Authorization header fails in a view."""
    settings.DEBUG = debug
    client = Witness(enforce_csrf_checks=True)
    client.get("/accounts/login/")
    token = client.cookies["csrftoken"].value
    signed_in = client.post(
        "/accounts/login/", {"login": mona.email, "password": PASSWORD, "csrfmiddlewaretoken": token}
    )
    assert signed_in.status_code == 302
    token, session = client.cookies["csrftoken"].value, client.cookies["sessionid"].value
    monkeypatch.setattr("taskruns.services.credentials.actions.record", fail)
    own = "Bearer somebodys-own-9f8e7d6c5b"
    credential.delete()  # it has the same key
    form = {"name": "Second", "endpoint": credential.endpoint, "key": CANARY, "csrfmiddlewaretoken": token}
    form |= {"anyway": "1"}  # without a test
    answer = client.post("/teams/ops-north/credentials/new/", form, headers={"Authorization": own})
    assert answer.status_code == 500
    logged = json.dumps(lines())
    assert BROKEN in logged
    page = answer.content.decode()
    assert (BROKEN in page) == debug
    ours = [django_settings.SECRET_KEY, *django_settings.ENCRYPTION_KEYS.values(), CANARY, PASSWORD]
    assert {secret: found(secret, [logged, page]) for secret in ours} == {secret: [] for secret in ours}
    for of_request in (session, own.split()[1]):
        assert of_request not in logged
    assert token not in logged


def test_tokens_in_paths_are_redacted(lines: Lines, db: None):
    for path in (
        "/invitations/s3cr3t-token-1/",
        "/accounts/oidc/x/login/callback/?state=s3cr3t-token-2&code=s3cr3t-token-3&scope=openid",
        "/accounts/password/reset/key/1a-s3cr3t-token-5/",
        "/nowhere/?token=s3cr3t-token-4",
        "/accounts/login/?next=%2Finvitations%2Fs3cr3t-token-6%2F&x=1",
        "/accounts/login/?next=%2Faccounts%2Fpassword%2Freset%2Fkey%2F1a-s3cr3t-token-7%2F",
    ):
        Client().get(path)
    logged = json.dumps(lines())
    assert "s3cr3t" not in logged
    assert "scope=openid" in logged
    assert "/invitations/..." in logged
    assert redact_tokens(None, "", {"event": "x?code=abc", "n": 1}) == {"event": "x?code=...", "n": 1}


def test_a_scripts_token_in_a_header_that_gunicorn_cannot_read_is_not_logged(lines: Lines):
    secret = new_secret()
    JsonLogger(Config()).warning("Invalid request from ip=::1: Invalid HTTP Header: 'Authorization Bearer %s'", secret)
    logged = json.dumps(lines())
    assert "Authorization Bearer tr_..." in logged
    assert secret[3:11] not in logged


def test_gunicorns_own_log_lines_are_json(lines: Lines):
    JsonLogger(Config()).error("Worker (pid:%s) was sent SIGKILL!", 42)
    (entry,) = lines()
    assert (entry["event"], entry["logger"]) == ("Worker (pid:42) was sent SIGKILL!", "gunicorn.error")


# --- Long values


def test_no_value_of_a_client_fills_the_log(mona: User, client_of: ClientOf, lines: Lines):
    long = "x" * 7_000
    everything = {"User-Agent": long, "Referer": f"http://localhost/{long}", "Content-Length": "9" * 7_000}
    client_of(mona).get(f"/runs/{long}?q={long}", headers=everything)
    client_of(mona).post(f"/runs/{long}", headers={"User-Agent": long})
    client_of(mona).get("/runs/", headers={"Host": f"{long}.example"})
    client_of(mona).generic(long.upper(), "/runs/", headers={"User-Agent": long})
    logged = lines()
    agents = [entry["user_agent"] for entry in logged if entry.get("user_agent")]
    assert "x" * 200 in " ".join(agents), "the control: it is logged"
    assert max(map(len, agents)) == OF_CLIENT
    values = {key: value for entry in logged for key, value in entry.items() if isinstance(value, str)}
    assert len(values["request"]) <= OF_CLIENT
    whole = {key: value for key, value in values.items() if key != "exception"}
    assert not {key: len(value) for key, value in whole.items() if len(value) > OF_MESSAGE}
    assert max(map(len, values["exception"].split("\n"))) == OF_MESSAGE, "the foreign host name"


def test_tracebacks_keep_all_their_lines():
    long, trace = "x" * 7_000, "line\n" * 7_000
    found = cut(None, "", {"event": long, "exception": trace, "user_agent": long, "code": 200})
    assert found == {
        "event": f"{long[: OF_MESSAGE - 1]}…",
        "exception": trace,
        "user_agent": f"{long[: OF_CLIENT - 1]}…",
        "code": 200,
    }
