"""The cast and the stage.

vera  is a viewer of Ops North: she sees its runs.
oli   is an operator of Ops North: he cancels runs at 3 a.m.
mona  is a manager of Ops North: keys, members, audit log.
otto  is a manager of Ops South: in Ops North he is an outsider, for whom the team does not exist.
ada   is an auditor of the whole site: she reads everything and changes nothing.
adam  is a site admin: he creates teams and cancels no run.
"""

import gc
import math
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import responses
from django.db import connection, transaction
from django.test.client import closing_iterator_wrapper
from huey.contrib.djhuey import HUEY

from taskruns.audit import EventType
from taskruns.audit.append_only import APPEND_ONLY_TABLES, make_append_only
from taskruns.audit.events import allowed_details
from taskruns.jobs import _Rest
from taskruns.models import Credential, Run, SiteRole, Task, Team, TeamRole, User
from taskruns.models.cache import CacheEntry
from taskruns.services import background
from taskruns.services.background import Background, run_quietly
from tests import forked_command
from tests.clients import ClientOf, signed_in
from tests.database_refusals import lift_triggers
from tests.databases import locked, own_database, process_of
from tests.factories import make_credential, make_run, make_task, member, person
from tests.outbound.raw_server import Server
from tests.processes import free_ports
from tests.stage import Stage, set_stage

# Arize's own clients need environments of their own: `make test-clients` names the folder.
collect_ignore = ["real_clients"]

_OF_BACKGROUND = {"submit": Background.submit, "start": Background.start}
RECORD = import_module("taskruns.audit.record")  # the package exports the function of the same name


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use the database in DATABASE_URL. The others need no second run on another server."""
    for item in items:
        asks = {"db", "transactional_db"} & set(getattr(item, "fixturenames", ()))
        if "file_db" in getattr(item, "fixturenames", ()):
            assert "db" in asks, f"{item.nodeid} must request db, which rolls back its changes"
        if asks or item.get_closest_marker("django_db"):
            item.add_marker("database")


def pytest_collection_finish() -> None:
    """Imported modules live until the end: exclude them from every garbage collection. And collect less often: each
    request makes thousands of objects, nearly none of them in cycles.
    """
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Close the downloads that a test did not read to the end, as a server does.

    Otherwise the garbage collection closes them, perhaps within a query, and psycopg then waits for itself.
    """
    streams: list[Any] = []

    def kept(*arguments: Any) -> Any:
        streams.append(closing_iterator_wrapper(*arguments))
        return streams[-1]

    with mock.patch("django.test.client.closing_iterator_wrapper", kept):
        try:
            return (yield)
        finally:
            for stream in streams:
                stream.close()


@pytest.fixture(autouse=True)
def _the_database_has_the_tests_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen time does not stop the clock of PostgreSQL."""
    monkeypatch.setattr("taskruns.models.jobs.has_clock", lambda: False)


@pytest.fixture(autouse=True)
def _the_queue_does_not_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error in an earlier test, messages would be left out for ten seconds."""
    monkeypatch.setattr("taskruns.jobs._queue_rest", _Rest())


@pytest.fixture(autouse=True)
def _rounds_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock of a simulated round stands still, however busy the machine is."""
    monkeypatch.setattr("taskruns.services.mirror.reader.LONGEST_ROUND", math.inf)


@pytest.fixture(autouse=True)
def _no_detail_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """In production, a detail that its event does not list is hidden. In tests it is an error."""

    def refuse(event: EventType, outcome: str, details: dict[str, Any]) -> dict[str, Any]:
        assert not details.keys() - allowed_details(event, outcome), f"{event} does not list all of {sorted(details)}"
        return details

    monkeypatch.setattr(RECORD, "_listed", refuse)


@pytest.fixture(autouse=True)
def _nothing_runs_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread would write outside of the test's transaction, and after its end."""
    monkeypatch.setattr(Background, "submit", lambda _self, job: run_quietly(job))
    monkeypatch.setattr(Background, "start", lambda self: run_quietly(self._regular))


@pytest.fixture
def in_background(_nothing_runs_in_the_background: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For tests of the threads themselves. They end with the test, and so do their connections."""
    for name, method in _OF_BACKGROUND.items():
        monkeypatch.setattr(Background, name, method)
    monkeypatch.setattr(background, "IDLE", 0.0)
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(10)


@pytest.fixture
def any_details(_no_detail_is_hidden: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that record details with any name."""
    monkeypatch.setattr(RECORD, "_listed", lambda _event, _outcome, details: details)


@pytest.fixture(scope="session")
def run_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A temporary folder that all processes of the run share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if process_of(request.config) else folder


@pytest.fixture(scope="session")
def django_db_setup(
    request: pytest.FixtureRequest, run_folder: Path, django_test_environment: None, django_db_blocker: Any
) -> Iterator[None]:
    """Instead of pytest-django's own, which migrates a database in each process."""
    with ExitStack() as database:
        with django_db_blocker.unblock():
            database.enter_context(own_database(run_folder, process_of(request.config)))
        yield
        with django_db_blocker.unblock():
            database.close()


@pytest.fixture(scope="session")
def migrated_file(run_folder: Path) -> Path:
    """An SQLite file after `manage.py migrate`, with the secrets of `tests/settings.py`. For tests to copy."""
    file, unfinished = run_folder / "migrated.sqlite3", run_folder / "unfinished.sqlite3"
    own = {"DATABASE_URL": f"sqlite:///{unfinished}", "DJANGO_SETTINGS_MODULE": "config.settings"}
    with locked(run_folder):
        if not file.exists():
            migrate = ["manage.py", "migrate", "--verbosity", "0"]
            forked_command.run(migrate, env=os.environ | own, timeout=300).check_returncode()
            unfinished.rename(file)
    return file


@pytest.fixture(scope="module")
def file_db(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """For rows that all tests of one file share: the database in a transaction that ends with the file.

    Each test must request `db` too, which rolls back the changes of the test alone. Not for `committed` tests.
    """
    with django_db_blocker.unblock():
        around = transaction.atomic()
        around._from_testcase = True  # type: ignore[attr-defined]  # else no test could open a durable transaction
        with around:
            yield
            transaction.set_rollback(True)


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
    return signed_in


@pytest.fixture
def credential(team: Team) -> Credential:
    return make_credential(team)


@pytest.fixture
def task(team: Team, credential: Credential) -> Task:
    return make_task(team, credential)


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


@pytest.fixture(scope="module")
def file_stage(file_db: None) -> Stage:
    """The rows of `stage`, made once for all tests of a file. Such a file overrides `stage`."""
    team = Team.objects.create(slug="ops-north", name="Ops North")
    credential = make_credential(team)
    return set_stage(team, make_run(make_task(team, credential)), credential, responses.RequestsMock())


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
    post_migrate after the flush creates them again. The table of the cache is not Django's own, so it is emptied here.
    """
    make_append_only(connection)
    yield
    CacheEntry.objects.all().delete()
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
