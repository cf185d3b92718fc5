"""The drill `backup` on PostgreSQL, with two roles: pg_dump and pg_restore as the owner of the tables."""

from collections.abc import Callable
from pathlib import Path

from tests.drills.backup import Databases, rehearse
from tests.drills.postgresql import another_database, two_roles

WHAT = "the same on PostgreSQL: back up under load, restore as a drill, and verify both logs"
WITHIN = 600.0


def run(directory: Path, proved: Callable[[str], None]) -> None:
    with two_roles(directory) as roles, another_database(roles) as drill:
        rehearse(directory, Databases(roles.url("app"), roles.url("owner"), drill, roles.grant), proved)
