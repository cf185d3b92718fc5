"""Mistakes planted into real processes: the judge reports the promises that they break."""

import os

import pytest

from tests.chaos.driver import Setting, carry_out
from tests.chaos.judge import judge, table
from tests.chaos.plan import Kind, Plan

pytestmark = pytest.mark.slow

ONLY_CLICKS = frozenset(Kind) - {Kind.CLICK, Kind.CLICK_TOGETHER, Kind.BIRTH, Kind.OUTSIDE}


def test_mistakes_in_real_processes_are_reported():
    """The panel sends a cancel before its row, and then once more, and calls everything confirmed."""
    server = os.environ.get("DATABASE_URL", "")
    database = server if server.startswith("postgres") else ""
    plan = Plan(1, 6, without=ONLY_CLICKS)
    setting = Setting(plan, database=database, settle=6, is_hurried=True, settings="tests.chaos.planted")
    findings = judge(carry_out(setting))
    broken = {found.promise for found in findings if found.broken}
    assert {"no POST without its committed row", "every outcome is true"} <= broken, "\n".join(table(findings))
