"""Fixtures of single cancels: each test that asks for `htmx` runs with htmx and with a plain form."""

import pytest


@pytest.fixture(params=[True, False], ids=["htmx", "plain"])
def htmx(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
