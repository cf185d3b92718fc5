"""A database with the two roles of `deploy/compose/roles.sh`, on the server of the drills."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from config.processes import base_environment
from tests.drills.document import run_shell
from tests.drills.missing import program, server
from tests.paths import ROOT


@dataclass(frozen=True)
class TwoRoles:
    name: str  # of the database; its roles are NAME_owner and NAME_app
    passwords: dict[str, str]
    at: str  # host:port

    def url(self, role: str, *, at: str = "", with_password: bool = True) -> str:
        password = f":{self.passwords[role]}" if with_password else ""
        return f"postgres://{self.name}_{role}{password}@{at or self.at}/{self.name}"

    def grant(self) -> None:
        """The statements of `deploy/grants.sql`."""
        with psycopg.connect(self.url("owner"), autocommit=True) as connection:
            connection.execute((ROOT / "deploy/grants.sql").read_text().replace("taskruns_app", f"{self.name}_app"))


@contextmanager
def two_roles(directory: Path) -> Iterator[TwoRoles]:
    """Dropped at the end."""
    program("psql", "postgresql-client")
    url = server()
    host, port = urlsplit(url).hostname or "127.0.0.1", urlsplit(url).port or 5432
    roles = TwoRoles(
        f"taskruns_drill_{secrets.token_hex(4)}",
        {role: secrets.token_hex(16) for role in ("owner", "app")},
        f"{host}:{port}",
    )
    for role, password in roles.passwords.items():
        (directory / f"{role}_password").write_text(password)
    try:
        _create(roles, directory, url)
        yield roles
    finally:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(roles.name)))
            for role in roles.passwords:
                name = sql.Identifier(f"{roles.name}_{role}")
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(name))


@contextmanager
def another_database(roles: TwoRoles) -> Iterator[str]:
    """The owner's URL of an empty database of the same owner. Dropped at the end."""
    name = f"{roles.name}_drill"
    with psycopg.connect(server(), autocommit=True) as connection:
        owner = sql.Identifier(f"{roles.name}_owner")
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), owner))
    try:
        yield roles.url("owner").removesuffix(roles.name) + name
    finally:
        with psycopg.connect(server(), autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def _create(roles: TwoRoles, directory: Path, url: str) -> None:
    """With the script of compose.yaml, and names of this drill."""
    text = (ROOT / "deploy/compose/roles.sh").read_text()
    text = text.replace("/run/secrets", str(directory))
    text = text.replace("taskruns_owner", f"{roles.name}_owner").replace("taskruns_app", f"{roles.name}_app")
    text = text.replace("DATABASE taskruns ", f"DATABASE {roles.name} ")
    split = urlsplit(url)
    environment = base_environment() | {
        "PGHOST": split.hostname or "",
        "PGPORT": str(split.port or 5432),
        "POSTGRES_USER": split.username or "",
        "PGPASSWORD": split.password or "",
    }
    run_shell(text, folder=directory, environment=environment, what="deploy/compose/roles.sh")
