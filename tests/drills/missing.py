"""What a drill needs from this machine."""

import os
import shutil

import psycopg

# A PostgreSQL server on which the drills may create databases and roles.
SERVER = os.environ.get("DRILLS_DATABASE", "postgres://postgres@127.0.0.1:5432/postgres")


class CannotRun(Exception):
    """The text says what is missing."""


def program(name: str, package: str = "") -> str:
    """The path of a program. Debian's servers are in /usr/sbin, which is not in everyone's PATH."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        raise CannotRun(f"{name} is not installed (apt-get install {package or name})")
    return found


def server() -> str:
    """The url of the PostgreSQL server."""
    try:
        psycopg.connect(SERVER, connect_timeout=5).close()
    except psycopg.Error as error:
        raise CannotRun(f"DRILLS_DATABASE names no PostgreSQL server that can be used ({error})") from None
    return SERVER
