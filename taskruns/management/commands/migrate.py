from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.management.commands.migrate import Command as MigrateCommand
from django.db import DEFAULT_DB_ALIAS, connections


class Command(MigrateCommand):
    """Django's own command, as the owner of the tables if MIGRATE_DATABASE_URL names one."""

    def handle(self, *args: Any, **options: Any) -> None:
        with _as_owner():
            super().handle(*args, **options)


@contextmanager
def _as_owner() -> Iterator[None]:
    owner = settings.MIGRATE_DATABASE
    if owner is None:
        yield
        return
    connection = connections[DEFAULT_DB_ALIAS]
    if connection.vendor != "postgresql":
        raise ImproperlyConfigured("MIGRATE_DATABASE_URL is for PostgreSQL only, and DATABASE_URL names SQLite.")
    usual = dict(connection.settings_dict)
    connection.close()
    connection.settings_dict.update({name: owner[name] for name in ("NAME", "USER", "PASSWORD", "HOST", "PORT")})
    connection.settings_dict["OPTIONS"] = owner.get("OPTIONS", {})
    try:
        yield
    finally:
        connection.close()
        connection.settings_dict.update(usual)
