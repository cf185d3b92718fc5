"""A test whose program is missing is skipped on a developer's machine, and fails in CI."""

import pytest

from tests.programs import cannot_run


@pytest.mark.parametrize("name", ["CI", "REQUIRE_BROWSER"])
def test_a_missing_program_fails_in_ci_and_skips_elsewhere(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("REQUIRE_BROWSER", raising=False)
    with pytest.raises(pytest.skip.Exception, match="redis-server"):
        cannot_run("redis-server is not installed")
    monkeypatch.setenv(name, "true" if name == "CI" else "1")
    with pytest.raises(pytest.fail.Exception, match="redis-server"):
        cannot_run("redis-server is not installed")
