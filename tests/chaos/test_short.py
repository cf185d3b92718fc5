"""A short chaos run: real processes, killed and disturbed for some seconds, and no promise broken."""

import os

import pytest

from tests.chaos.driver import Setting, carry_out
from tests.chaos.judge import judge, table
from tests.chaos.plan import Plan

pytestmark = [pytest.mark.slow, pytest.mark.database]

SEED = 1
SECONDS = 10
# What it cannot try on SQLite, or in so short a time.
UNTRIED = {
    "an unknown outcome becomes known when the run has ended",
    "healthy keys are read while others hang",
}


def test_a_short_chaos_run_breaks_no_promise():
    server = os.environ.get("DATABASE_URL", "")
    database = server if server.startswith("postgres") else ""
    plan = Plan(SEED, SECONDS, has_postgres=bool(database))
    findings = judge(carry_out(Setting(plan, database=database, settle=30, is_hurried=True)))
    shown = "\n".join(table(findings))
    assert [found.promise for found in findings if found.broken] == [], shown
    assert {found.promise for found in findings if not found.tries} <= UNTRIED, shown
