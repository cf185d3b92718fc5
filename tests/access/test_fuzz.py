"""Random requests to every url by everyone: no 500, nothing from another team, no change without a token.

Requests combine what the pages offer (urls, field names, choices) with random values. Set FUZZ_EXAMPLES for a longer
run. Failures are printed with the way to reproduce them.
"""

import html
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote, unquote

import pytest
from django.http import HttpResponse
from django.test import Client
from django.urls import get_resolver
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskruns.models import Credential, Run, SavedView, Status, Task, Team, TeamRole, User
from tests.access.browsers import undone
from tests.access.odd_text import ODD
from tests.factories import CANARY, PASSWORD, make_channel, make_credential, make_run, make_token, member, person
from tests.stage import Stage
from tests.stored import dump
from tests.urlconf import url_names
from tests.wire import ENDPOINT

pytestmark = pytest.mark.slow

PEOPLE = ("", "vera", "oli", "mona", "otto", "ada", "adam", "nora")
STRICT = ("mona", "oli", "adam")  # the people with most rights
SEES_ALL = {"ada", "adam"}
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "60"))
FOREIGN, OWN = "Zweckverband-Sued", "Hafenkontor-Nord"  # a word in every text of the other team, and of one's own
# Tables that a GET may change: sessions, the audit log, its counters, heartbeats.
CHANGED_BY_READING = (
    "taskruns_personsession",
    "taskruns_audit",
    "taskruns_anonymoustally",
    "taskruns_persontally",
    "taskruns_heartbeat",
)
HTML_NAME = re.compile(r'<(?:input|select|textarea|button)\b[^>]*?\bname="([^"]+)"')
HTML_VALUE = re.compile(r'<(?:input|option|button)\b[^>]*?\bvalue="([^"]{1,300})"')


@dataclass
class World:
    stage: Stage
    people: dict[str, User | None]
    ids: dict[str, list[str]]
    urls: dict[str, tuple[str, list[str]]]
    fields: list[str] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    clients: dict[tuple[str, ...], tuple[Client, str]] = field(default_factory=dict)

    def client(self, who: str, **options: Any) -> Client:
        """One browser for each person, always with the cookies from right after sign-in."""
        key = (who, *options)
        if key not in self.clients:
            client = Client(raise_request_exception=False, **options)
            user = self.people[who]
            if user is not None:
                client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
            self.clients[key] = (client, client.cookies.output(header="", sep=";"))
        client, cookies = self.clients[key]
        client.cookies = SimpleCookie(cookies)
        return client

    def sign_all_in(self) -> None:
        """Sign in outside of any block that is rolled back."""
        for who in self.people:
            self.client(who)
        for who in STRICT:
            self.client(who, enforce_csrf_checks=True)


def belongings(team: Team, word: str) -> dict[str, str]:
    """One object of each kind, with the team's word in every text that a page could show."""
    Team.objects.filter(pk=team.pk).update(name=f"{word} team")
    key = make_credential(team, name=f"{word} key", spaces=[{"id": f"{word}-space", "name": f"{word} space"}])
    named = {"arize_id": f"{word}-task", "name": f"{word} task", "type": "code_evaluation"}
    task = Task.objects.create(team=team, endpoint=ENDPOINT, credential=key, **named)
    run = make_run(task, arize_id=f"{word}-run", failure_reason=f"{word} reason")
    make_run(task, status=Status.FAILED, arize_id=f"{word}-old", failure_reason=f"{word} reason")
    manager = member(team, f"{word.lower()}@example.com", TeamRole.MANAGER)
    shared = {"query": "status=failed", "is_shared": True}
    view = SavedView.objects.create(team=team, owner=manager, name=f"{word} view", **shared)
    channel = make_channel(team, name=f"{word} channel")
    return {
        "channel_id": str(channel.pk),
        "rule_id": str(channel.rules.get().pk),
        "run_id": str(run.pk),
        "task_id": str(task.pk),
        "credential_id": str(key.pk),
        "user_id": str(manager.pk),
        "view_id": str(view.pk),
        "token_id": str(make_token(team, name=f"{word} token", maker=manager)[0].pk),
        "slug": team.slug,
        "arize_id": run.arize_id,
    }


@pytest.fixture
def world(stage: Stage, other_team: Team) -> World:
    own, foreign = belongings(stage.team, OWN), belongings(other_team, FOREIGN)
    people: dict[str, User | None] = {"": None, **stage.people}
    people |= {"otto": member(other_team, "otto@example.com", TeamRole.MANAGER), "nora": person("nora@example.com")}
    resolver = get_resolver()
    ids = {name: [str(value)] for name, value in stage.ids.items()}
    for name in own:
        ids.setdefault(name, []).extend([own[name], foreign[name]])
    urls = {name: resolver.reverse_dict.getlist(name)[0][0][0] for name in url_names()}
    found = World(stage, people, ids, urls)
    found.sign_all_in()
    if not OFFERED:
        OFFERED.extend(offered(found))
    found.fields, found.values = OFFERED
    return found


OFFERED: list[list[str]] = []


def offered(world: World) -> tuple[list[str], list[str]]:
    """The field names and choices of every page that anyone can open. Collected once."""
    fields, values = {"next", "cursor", "_method", "csrfmiddlewaretoken"}, set()
    for who in ("", *STRICT):
        for name, (route, wanted) in world.urls.items():
            path = "/" + route % {key: quote(known(world, key)[0], safe="") for key in wanted}
            with undone():
                page = world.client(who).get(path)
                if not name.endswith("logout") and "html" in page.get("Content-Type", ""):
                    text = html.unescape(page.getvalue().decode())
                    fields |= set(HTML_NAME.findall(text))
                    values |= set(HTML_VALUE.findall(text))
    assert {"login", "password", "key", "reason", "role", "status", "q", "sort"} <= fields
    return sorted(fields), sorted(values)


def known(world: World, key: str) -> list[str]:
    return world.ids.get(key) or world.ids["run_id"]


# --- Random requests

nonsense = st.one_of(
    st.sampled_from(list(ODD.values())),
    st.text(max_size=40),
    st.text(st.characters(categories=["Cc", "Cf", "Zl", "Zp", "Nd", "So"]), max_size=12),
    st.integers().map(str),
    st.datetimes().map(str),
    st.uuids().map(str),
    st.binary(max_size=12).map(lambda raw: raw.decode("latin-1")),
)


@dataclass(frozen=True)
class Shot:
    method: str
    path: str
    query: dict[str, list[str]]
    form: dict[str, list[str]]
    headers: dict[str, str]
    raw: bytes | None
    kind: str

    def at(self, client: Client) -> HttpResponse:
        query = "&".join(f"{quote(name)}={quote(value)}" for name, all_ in self.query.items() for value in all_)
        path = f"{self.path}?{query}" if query else self.path
        if self.method == "POST" and self.raw is None:
            answer: Any = client.post(path, self.form, headers=self.headers)
        else:
            answer = client.generic(self.method, path, self.raw or b"", self.kind, headers=self.headers)
        return answer  # type: ignore[no-any-return]


HEADERS = {
    "HX-Request": st.just("true"),
    "HX-Target": st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=20),
    "HX-Current-URL": st.sampled_from(
        ["http://localhost:8000/teams/ops-north/runs/", "//evil.example", "\x7f", "http://[::1"]
    ),
    "If-None-Match": st.sampled_from(['"x"', "W/", "*", "\xff"]),
    "X-HTTP-Method-Override": st.sampled_from(["DELETE", "POST", "GET"]),
    "X-Forwarded-For": st.sampled_from(["127.0.0.1", "::1, x", "\xff"]),
    "Range": st.sampled_from(["bytes=0-", "bytes=9-1", "x"]),
    "Accept": st.sampled_from(["application/json", "*/*;q=x", ""]),
}


# Whose slug is combined with whose ids: one's own, another team's, or random ones.
OWN_ID, FOREIGN_ID, ANY_ID = 1, -1, None
MIXTURES = ((OWN_ID, OWN_ID), (OWN_ID, FOREIGN_ID), (FOREIGN_ID, OWN_ID), (FOREIGN_ID, FOREIGN_ID), (ANY_ID, ANY_ID))


def named_part(world: World, key: str, whose: int | None) -> st.SearchStrategy[str]:
    values = known(world, key)
    if whose is None:
        return st.one_of(st.sampled_from(values), nonsense)
    return st.just(values[whose if len(values) > 1 else 0])


def shots(world: World, methods: tuple[str, ...]) -> st.SearchStrategy[Shot]:
    value = st.one_of(st.sampled_from([*world.values, *(id_ for all_ in world.ids.values() for id_ in all_)]), nonsense)
    field = st.one_of(st.sampled_from(world.fields), st.text(max_size=8))
    pairs = st.dictionaries(field, st.lists(value, min_size=1, max_size=2), max_size=6)

    @st.composite
    def one(draw: Callable[..., Any]) -> Shot:
        route, wanted = world.urls[draw(st.sampled_from(sorted(world.urls)))]
        where, what = draw(st.sampled_from(MIXTURES))
        parts = {key: draw(named_part(world, key, where if key == "slug" else what)) for key in wanted}
        return Shot(
            method=draw(st.sampled_from(methods)),
            path="/" + route % {key: quote(part, safe="/" if key == "arize_id" else "") for key, part in parts.items()},
            query=draw(pairs),
            form=draw(pairs),
            headers=draw(st.fixed_dictionaries({}, optional=HEADERS)),
            raw=draw(st.none() | st.binary(max_size=60)),
            kind=draw(st.sampled_from(["application/json", "multipart/form-data; boundary=x", "text/plain", ""])),
        )

    return one()


def fuzzing(test: Callable[[Any], None], strategy: st.SearchStrategy[Any], examples: int) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    bounded = settings(max_examples=examples, deadline=None, database=None, suppress_health_check=checks)
    bounded(given(strategy)(test))()


@pytest.mark.parametrize("who", PEOPLE, ids=[who or "anonymous" for who in PEOPLE])
def test_random_requests_never_fail_or_leak_another_team(who: str, world: World):
    hidden = {"": (FOREIGN, OWN), "nora": (FOREIGN, OWN), "otto": (OWN,)}.get(who, (FOREIGN,))
    hidden = () if who in SEES_ALL else hidden
    met: set[int] = set()

    def shoot(shot: Shot) -> None:
        with undone():
            answer = shot.at(world.client(who))
            page = answer.getvalue().decode("latin-1")
        met.add(answer.status_code)
        # An unreachable Arize is reported with a 5xx, and is not the panel's fault.
        unreached = {503: "/by-arize-id/", 502: "/cancel/"}
        assert answer.status_code < 500 or unreached.get(answer.status_code, "no path") in shot.path
        assert not [secret for secret in (CANARY, PASSWORD) if secret in page]
        sent = repr(shot).encode("unicode_escape").decode()
        # A page may repeat what the person sent. An invitation link may show the team's name.
        invited_to = {OWN} if world.stage.token in unquote(shot.path) else set()
        assert not [word for word in hidden if word in page and word not in sent and word not in invited_to]

    fuzzing(shoot, shots(world, ("GET", "POST", "POST", "HEAD", "PUT")), EXAMPLES)
    assert len(met) > 1


PAGES = ("runs/", "runs/table/", "credentials/", "members/", "audit/", "settings/", "views/", "runs/export.csv")


def test_insiders_do_see_the_hidden_words(world: World):
    """The control: insiders see the words on pages of every kind."""
    seen = {FOREIGN: 0, OWN: 0}
    for who, word, slug in (("otto", FOREIGN, "ops-south"), ("mona", OWN, "ops-north")):
        for page in PAGES:
            with undone():
                seen[word] += word in world.client(who).get(f"/teams/{slug}/{page}").getvalue().decode()
    assert min(seen.values()) >= 6


def test_nothing_is_changed_without_a_token(world: World):
    """Tried by the people with most rights, with forms that are often valid."""
    changed: list[int] = []

    def shoot(shot: Shot) -> None:
        for who in STRICT:
            client = world.client(who, enforce_csrf_checks=True)
            before = dump(without=lambda table: table.startswith(CHANGED_BY_READING))
            with undone():
                answer = shot.at(client)
                after = dump(without=lambda table: table.startswith(CHANGED_BY_READING))
            assert answer.status_code in {400, 403, 404, 405}
            assert after == before
            changed.append(answer.status_code)
        assert world.stage.posts_to_arize == 0

    fuzzing(shoot, shots(world, ("POST", "POST", "PUT", "DELETE", "PATCH")), max(10, EXAMPLES // 4))
    assert 403 in changed


def test_reading_changes_nothing_in_a_team(world: World):
    """GET and HEAD with any parameters change at most attention, audit rows and, for a run by Arize id, call counts."""

    def having() -> list[Any]:
        counted = {"recent_calls"}
        kept = [field.attname for field in Credential._meta.concrete_fields if field.name not in counted]
        return [
            list(Credential.objects.order_by("pk").values(*kept)),
            list(SavedView.objects.order_by("pk").values()),
            list(Run.objects.order_by("pk").values_list("pk", "status", "cancellations__id")),
            sorted(Team.objects.values_list("slug", "name", "archived_at")),
            sorted(User.objects.values_list("email", "password", "is_active", "site_role")),
            sorted(Team.objects.values_list("memberships__user", "memberships__role"), key=repr),
        ]

    def shoot(shot: Shot) -> None:
        with undone():
            before = having()
            for who in ("mona", "adam"):
                shot.at(world.client(who))
            assert having() == before
        assert world.stage.posts_to_arize == 0

    fuzzing(shoot, shots(world, ("GET", "GET", "HEAD")), max(10, EXAMPLES // 2))


def test_fuzzing_detects_a_500(world: World, monkeypatch: pytest.MonkeyPatch):
    """The control of the first test: it detects pages that fail."""

    def breaks(*_args: Any, **_kwargs: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr("taskruns.access.gate.access_to", breaks)
    with pytest.raises(AssertionError):
        test_random_requests_never_fail_or_leak_another_team("mona", world)
