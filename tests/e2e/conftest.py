"""Fixtures of the browser tests: Chromium, the processes of two panels, and signed-in browsers."""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.e2e.stack import Stack, running_stack
from tests.e2e.visitors import ARGUMENTS, CHROMIUM, Visit, Visitor
from tests.programs import cannot_run

# Seconds. After ten minutes the panel asks for the password again before it invites or adds a key.
IS_RECENT = 300


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        sentence = f"There is no {CHROMIUM}: browser tests need Chromium (Debian: apt-get install chromium)."
        cannot_run(sentence)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def stack(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With Arize's current format: upper case."""
    with running_stack(tmp_path_factory.mktemp("stack")) as started:
        yield started


@pytest.fixture(scope="module")
def old_stack(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """With Arize's old format: lower case, some members missing. Tests may stop and kill its processes."""
    with running_stack(tmp_path_factory.mktemp("old-stack"), wire="lower", spare=6) as started:
        yield started


@pytest.fixture(scope="session")
def _signed_in() -> dict[tuple[str, str], tuple[float, Any]]:
    """Cookies of people who have already signed in, and since when, because sign-in is slow by design."""
    return {}


Arrive = Callable[..., Visitor]


@pytest.fixture(scope="session")
def _arrive(browser: Browser, _signed_in: dict[tuple[str, str], tuple[float, Any]]) -> Arrive:
    def arrive(stack: Stack, name: str = "", **options: Any) -> Visitor:
        since, known = _signed_in.get((stack.url, name), (-math.inf, None))
        if time.monotonic() - since > IS_RECENT:
            known = None
        visitor = Visitor.arrive(stack, browser, storage_state=known, **options)
        if name and known is None:
            visitor.sign_in(name)
            visitor.page.wait_for_url("**/runs/")
            _signed_in[stack.url, name] = (time.monotonic(), visitor.context.storage_state())
        return visitor

    return arrive


@pytest.fixture
def visit(_arrive: Arrive) -> Iterator[Visit]:
    """`visit(stack, "oli")` returns a new signed-in browser. Any trouble (see `Visitor`) fails the test."""
    visitors: list[Visitor] = []

    def arrive(*whose: Any, **options: Any) -> Visitor:
        visitors.append(_arrive(*whose, **options))
        return visitors[-1]

    yield arrive
    for visitor in visitors:
        visitor.context.close()
    assert [visitor.troubles for visitor in visitors if visitor.troubles] == []


@pytest.fixture(scope="module")
def reader(_arrive: Arrive, stack: Stack) -> Iterator[Callable[[str], Visitor]]:
    """`reader("oli")` returns the same browser for all tests of a file that only read pages: a new one takes long.

    Each test must set `troubles` to an empty list, and look at it at its end.
    """
    readers: dict[str, Visitor] = {}

    def of(name: str) -> Visitor:
        if name not in readers:
            readers[name] = _arrive(stack, name)
        return readers[name]

    yield of
    for visitor in readers.values():
        visitor.context.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Add the logs of the processes to the report of a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.failed:
        for name in ("stack", "old_stack"):
            if name in getattr(item, "funcargs", {}):
                report.sections.append((f"processes of {name}", item.funcargs[name].logs()))
