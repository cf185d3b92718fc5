"""Security headers on every url, and pages that work within the Content-Security-Policy."""

import re
from typing import Any

import pytest
from django.http import HttpRequest, HttpResponse
from django.test import Client
from django.urls import reverse

from taskruns.middleware import NeverStored
from taskruns.models import Credential, Run, Team, User
from tests.access.browsers import Browsers, undone
from tests.access.fence import assert_fenced, missing_from
from tests.clients import ClientOf
from tests.factories import actor, make_channel, make_token
from tests.stage import Stage, batches_of
from tests.urlconf import url_names, wanted

pytestmark = [pytest.mark.slow, pytest.mark.once]


@pytest.fixture
def paths(team: Team, run: Run, credential: Credential, vera: User) -> dict[str, str]:
    """One path for each url name, with existing ids where the page needs them."""
    known = {
        "slug": team.slug,
        "run_id": run.pk,
        "task_id": run.task_id,
        "credential_id": credential.pk,
        "channel_id": (channel := make_channel(team)).pk,
        "rule_id": channel.rules.get().pk,
        "user_id": vera.pk,
        "invitation_id": run.pk,
        "token": "no-token",
        "token_id": make_token(team)[0].pk,
        "view_id": run.pk,
        "batch_id": batches_of(team, run, actor(vera))["batch-confirm"].pk,
        "arize_id": run.arize_id,
        "kind": "csv",
        "person_id": vera.pk,
        "session_id": 1,
        "factor_id": 1,
        "uidb36": "abc",
        "key": "def",
    }
    return {name: reverse(name, kwargs={part: known[part] for part in wanted(name)}) for name in url_names()}


@pytest.mark.parametrize("who", ["anonymous", "otto", "vera", "mona", "adam"])
def test_every_answer_of_every_url_is_fenced_and_never_stored(
    who: str, paths: dict[str, str], cast: dict[str, User | None], client_of: ClientOf
):
    """Also those that never reach a view of ours: errors, sign-out, redirects."""
    browsers = Browsers({who: cast[who]}, client_of)
    faults = []
    for path in (*paths.values(), "/nowhere/", "/teams/ops-south/runs/"):
        for method in ("GET", "POST", "PUT"):
            with undone():
                answer = browsers[who].generic(method, path)
            faults += [(method, path, header) for header in missing_from(answer)]
            if "no-store" not in answer.get("Cache-Control", ""):
                faults.append((method, path, "may be stored"))
    assert not faults, "\n".join(map(str, faults))


def test_pages_are_never_cached(paths: dict[str, str], mona: User, client_of: ClientOf):
    for name in ("home", "teams", "board", "board-table", "run", "credentials", "members", "audit", "team-settings"):
        assert "no-store" in client_of(mona).get(paths[name])["Cache-Control"], name


def test_error_pages_send_the_security_headers(
    team: Team, mona: User, client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError

    client = client_of(mona)
    client.raise_request_exception = False
    missing, foreign_host = client.get("/nowhere/"), client.get("/", headers={"host": "evil.example"})
    monkeypatch.setattr("taskruns.pages.board.board", fail)
    broken = client.get("/teams/ops-north/runs/")
    assert [answer.status_code for answer in (missing, foreign_host, broken)] == [404, 400, 500]
    for answer in (missing, foreign_host, broken):
        assert_fenced(answer)


def test_pages_need_no_inline_code_or_other_hosts(paths: dict[str, str], mona: User, client_of: ClientOf):
    """No inline script, style or handler, and nothing from another host."""
    seen = 0
    for path in paths.values():
        page = client_of(mona).get(path, follow=True).getvalue().decode()
        seen += "<script" in page
        assert not re.findall(r"<script(?![^>]*\ssrc=)[^>]*>", page)
        assert not re.findall(r"<style|\sstyle=|\son[a-z]+=|\shx-on|javascript:", page)
        assert not re.findall(r"""(?:src|href|action)=["'](?:https?:)?//""", page)
    assert seen > 5


def test_https_site_sends_hsts_with_every_answer(settings: Any, team: Team):
    assert "Strict-Transport-Security" not in Client().get("/accounts/login/")
    settings.SECURE_HSTS_SECONDS = 31_536_000
    for path in ("/accounts/login/", "/teams/ops-north/runs/", "/nowhere/"):
        assert Client().get(path)["Strict-Transport-Security"].startswith("max-age=31536000")


def test_foreign_host_name_is_refused(db: None):
    assert Client().get("/accounts/login/", headers={"host": "evil.example"}).status_code == 400
    assert Client().get("/accounts/login/", headers={"host": "localhost:8000"}).status_code == 200


def test_pages_outside_the_gate_are_never_stored(stage: Stage):
    """They name the person in their header too."""
    client = stage.client("mona")
    client.raise_request_exception = False
    paths = ("/nowhere/", "/accounts/logout/", "/accounts/login/", "/teams/ops-north/runs/?status=nonsense")
    invitation = reverse("invitation", args=[stage.token])
    answers = {path: client.get(path) for path in (*paths, invitation, "/teams/ops-south/runs/", "/accounts/confirm/")}
    answers["forged"] = Client(enforce_csrf_checks=True).post("/accounts/login/")
    answers["too large"] = client.post("/runs/", "x" * 1_000_001, "text/plain")
    answers["host"] = client.get("/", headers={"host": "evil.example"})
    assert any("mona@example.com" in answer.content.decode() for answer in answers.values()), "the control"
    for path, answer in answers.items():
        assert {"no-store", "private"} <= set(answer["Cache-Control"].split(", ")), path


def test_static_files_may_be_stored():
    middleware = NeverStored(lambda _: HttpResponse(headers={"Cache-Control": "max-age=60, public"}))
    assert middleware(HttpRequest())["Cache-Control"] == "max-age=60, public"
