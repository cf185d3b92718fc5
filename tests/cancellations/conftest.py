import pytest


@pytest.fixture(params=[True, False], ids=["htmx", "plain"])
def htmx(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)
