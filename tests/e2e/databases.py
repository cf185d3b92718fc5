"""A new database for each stack: a file, or a database on the server in DATABASE_URL."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
from psycopg import sql


@contextmanager
def own_database(directory: Path, *, template: str = "") -> Iterator[str]:
    """Yield its url, and drop it afterwards. `template`: the PostgreSQL database to copy."""
    if not os.environ.get("DATABASE_URL", "").startswith("postgres"):
        yield f"sqlite:///{directory / 'taskruns.sqlite3'}"
        return
    name = f"taskruns_e2e_{secrets.token_hex(6)}"
    create_database(name, template=template)
    try:
        yield url_on_server(name)
    finally:
        drop_database(name)


def url_on_server(name: str) -> str:
    return urlunsplit(urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}"))


def create_database(name: str, *, template: str = "") -> None:
    if template:
        _execute("CREATE DATABASE {} TEMPLATE {}", name, template)
    else:
        _execute("CREATE DATABASE {}", name)


def drop_database(name: str) -> None:
    """The processes have exited, but the server may still hold their connections."""
    _execute("DROP DATABASE {} WITH (FORCE)", name)


def _execute(statement: str, *names: str) -> None:
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*map(sql.Identifier, names)))
