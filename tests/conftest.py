"""The cast and the stage.

vera  is a viewer of Ops North: she sees its runs.
oli   is an operator of Ops North: he cancels runs at 3 a.m.
mona  is a manager of Ops North: keys, members, audit log.
otto  is a manager of Ops South: in Ops North he is an outsider, for whom the team does not exist.
ada   is an auditor of the whole site: she reads everything and changes nothing.
adam  is a site admin: he creates teams and cancels no run.
"""

import gc
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import pytest
import responses
from django.db import connection
from django.test import Client
from huey.contrib.djhuey import HUEY

from taskruns.audit import EventType
from taskruns.audit.append_only import APPEND_ONLY_TABLES, make_append_only
from taskruns.audit.events import allowed_details
from taskruns.models import Credential, Run, SiteRole, Task, Team, TeamRole, User
from taskruns.services.people import factors
from tests.clients import ClientOf, show_factor
from tests.database_refusals import lift_triggers
from tests.factories import make_credential, make_run, member, person
from tests.outbound.raw_server import Server
from tests.processes import free_ports
from tests.stage import Stage, set_stage
from tests.wire import ENDPOINT

RECORD = import_module("taskruns.audit.record")  # the package exports the function of the same name


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the database in DATABASE_URL. The others need no second run on another server."""
    for item in items:
        asks = {"db", "transactional_db"} & set(getattr(item, "fixturenames", ()))
        if asks or item.get_closest_marker("django_db"):
            item.add_marker("database")


def pytest_collection_finish() -> None:
    """Imported modules live until the end: exclude them from every garbage collection."""
    gc.freeze()


@pytest.fixture(autouse=True)
def _plain_http_only_to_the_fake_arize(settings: Any) -> None:
    settings.ARIZE_ENDPOINTS = (ENDPOINT,)


@pytest.fixture(autouse=True)
def _keep_runs_of_fixed_dates(settings: Any) -> None:
    """The fake runs have fixed dates and must not become too old for the mirror."""
    settings.RUN_RETENTION_DAYS = 36_500


@pytest.fixture(autouse=True)
def _no_detail_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """In production, a detail that its event does not list is hidden. In tests it is an error."""

    def refuse(event: EventType, outcome: str, details: dict[str, Any]) -> dict[str, Any]:
        assert not details.keys() - allowed_details(event, outcome), f"{event} does not list all of {sorted(details)}"
        return details

    monkeypatch.setattr(RECORD, "_listed", refuse)


@pytest.fixture
def any_details(_no_detail_is_hidden: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that record details with any name."""
    monkeypatch.setattr(RECORD, "_listed", lambda _event, _outcome, details: details)


@pytest.fixture
def team(db: None) -> Team:
    return Team.objects.create(slug="ops-north", name="Ops North")


@pytest.fixture
def other_team(db: None) -> Team:
    return Team.objects.create(slug="ops-south", name="Ops South")


@pytest.fixture
def vera(team: Team) -> User:
    return member(team, "vera@example.com", TeamRole.VIEWER)


@pytest.fixture
def oli(team: Team) -> User:
    return member(team, "oli@example.com", TeamRole.OPERATOR)


@pytest.fixture
def mona(team: Team) -> User:
    return member(team, "mona@example.com", TeamRole.MANAGER)


@pytest.fixture
def otto(other_team: Team) -> User:
    return member(other_team, "otto@example.com", TeamRole.MANAGER)


@pytest.fixture
def ada(db: None) -> User:
    return person("ada@example.com", site_role=SiteRole.AUDITOR)


@pytest.fixture
def adam(db: None) -> User:
    return person("adam@example.com", site_role=SiteRole.ADMIN)


@pytest.fixture
def cast(vera: User, oli: User, mona: User, otto: User, ada: User, adam: User) -> dict[str, User | None]:
    return {
        "anonymous": None,
        "vera": vera,
        "oli": oli,
        "mona": mona,
        "otto": otto,
        "ada": ada,
        "adam": adam,
    }


@pytest.fixture
def client_of() -> ClientOf:
    def sign_in(user: User | None) -> Client:
        client = Client()
        if user is not None:
            client.force_login(user, backend="allauth.account.auth_backends.AuthenticationBackend")
            if factors.has_second(user):
                show_factor(client, user)
        return client

    return sign_in


@pytest.fixture
def credential(team: Team) -> Credential:
    return make_credential(team)


@pytest.fixture
def task(team: Team, credential: Credential) -> Task:
    return Task.objects.create(
        team=team,
        endpoint=ENDPOINT,
        arize_id="T25saW5lVGFzazo0NTpxUndY",
        credential=credential,
        name="Answer relevance evaluation",
        type="template_evaluation",
        space_name="support-bot",
    )


@pytest.fixture
def run(task: Task) -> Run:
    return make_run(task)


@pytest.fixture
def arize() -> Iterator[responses.RequestsMock]:
    with responses.RequestsMock(assert_all_requests_are_fired=False) as double:
        yield double


@pytest.fixture
def stage(team: Team, run: Run, credential: Credential, arize: responses.RequestsMock) -> Stage:
    return set_stage(team, run, credential, arize)


@pytest.fixture
def empty_queue(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Also keeps the database connection open: a worker closes it after each job, but a test still needs it."""
    monkeypatch.setattr("huey.contrib.djhuey.close_old_connections", lambda: None)
    HUEY.storage.flush_all()
    yield
    HUEY.storage.flush_all()


@pytest.fixture
def committed(transactional_db: None) -> Iterator[None]:
    """For tests that must really commit (threads, several connections).

    The tables are emptied after the test, which the append-only triggers would refuse. So they are dropped here, and
    post_migrate after the flush creates them again.
    """
    make_append_only(connection)
    yield
    with connection.cursor() as cursor:
        for table in APPEND_ONLY_TABLES:
            lift_triggers(cursor, table)


@pytest.fixture
def server() -> Iterator[Callable[..., Server]]:
    """`server(serve)` starts a server on a real socket; see `Server`."""
    opened: list[Server] = []

    def start(serve: Any, **kwargs: Any) -> Server:
        opened.append(Server(serve, **kwargs))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


@pytest.fixture
def free_port() -> int:
    """A free local port."""
    return free_ports(1)[0]
