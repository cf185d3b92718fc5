"""Make the database refuse rows, and drop the append-only triggers, for tests."""

from typing import Any

from django.db import connection


def lift_triggers(cursor: Any, table: str) -> None:
    if connection.vendor == "postgresql":
        for kind in ("append_only", "thinning"):
            cursor.execute(f"DROP TRIGGER IF EXISTS {table}_{kind} ON {table}")
        return
    for kind in ("update", "delete", "replace"):
        cursor.execute(f"DROP TRIGGER IF EXISTS {table}_no_{kind}")


def refuse_inserts(table: str, *, unless: str = "1 = 0") -> None:
    """Make the database refuse new rows of the table, except those that meet the condition on NEW."""
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute(
                "CREATE OR REPLACE FUNCTION refuse_in_test() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'refused by the test'; END $$"
            )
            cursor.execute(
                f"CREATE TRIGGER refused_in_test BEFORE INSERT ON {table} FOR EACH ROW "
                f"WHEN (NOT ({unless})) EXECUTE FUNCTION refuse_in_test()"
            )
            return
        cursor.execute(
            f"CREATE TRIGGER refused_in_test BEFORE INSERT ON {table} WHEN NOT ({unless}) "
            "BEGIN SELECT RAISE(ABORT, 'refused by the test'); END"
        )


def accept_inserts(table: str) -> None:
    with connection.cursor() as cursor:
        on = f" ON {table}" if connection.vendor == "postgresql" else ""
        cursor.execute(f"DROP TRIGGER refused_in_test{on}")
