"""Fixtures: the clients, and two panels, one beside an Arize that writes lower case."""

from collections.abc import Iterator

import pytest

from tests.e2e.stack import running_stack
from tests.real_clients.clients import AnyClient, all_clients
from tests.real_clients.panel import Panel

NAMES = ("sdk", "ax", "js", "airflow")
# So that the share of scripts in a key's calls limits no test but its own.
VARIABLES = {"ARIZE_CALLS_PER_MINUTE": "6000"}


@pytest.fixture(scope="session")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, AnyClient]]:
    found = all_clients(tmp_path_factory.mktemp("clients"))
    yield found
    for client in found.values():
        client.end()


@pytest.fixture(params=NAMES)
def client(request: pytest.FixtureRequest, clients: dict[str, AnyClient]) -> AnyClient:
    return clients[request.param]


@pytest.fixture(scope="session")
def panel(clients: dict[str, AnyClient], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    with running_stack(tmp_path_factory.mktemp("panel"), spare=4, variables=VARIABLES) as stack:
        yield Panel(stack)


@pytest.fixture(scope="session")
def old_panel(clients: dict[str, AnyClient], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Panel]:
    with running_stack(tmp_path_factory.mktemp("old-panel"), wire="lower", spare=4, variables=VARIABLES) as stack:
        yield Panel(stack)


@pytest.fixture(autouse=True)
def _no_fault_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    for name in {"panel", "old_panel"} & set(request.fixturenames):
        request.getfixturevalue(name).stack.arize.call("DELETE", "/sandbox/faults")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the logs of the processes to the report of a failure."""
    outcome = yield
    report = outcome.get_result()
    for name in {"panel", "old_panel"} & set(getattr(item, "funcargs", {})):
        if report.failed:
            report.sections.append((f"processes of {name}", item.funcargs[name].stack.logs()))
