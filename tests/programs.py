"""Programs that tests need and that Python's packages do not bring: Chromium, redis-server."""

import os
from typing import NoReturn

import pytest


def cannot_run(sentence: str) -> NoReturn:
    """Skip the test, but fail it in CI, where everything must run."""
    if any(os.environ.get(name, "").lower() not in {"", "0", "false"} for name in ("REQUIRE_BROWSER", "CI")):
        pytest.fail(sentence)
    pytest.skip(sentence)
