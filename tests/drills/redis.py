"""A Redis server with a password, as in `deploy/compose/secrets.sh`."""

import secrets
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from config.processes import stop
from tests.drills.missing import program
from tests.processes import free_ports, wait_for


@contextmanager
def redis_with_password(directory: Path) -> Iterator[str]:
    """Its QUEUE_URL."""
    (port,) = free_ports(1)
    password = secrets.token_hex(16)
    settings = directory / "redis.conf"
    settings.write_text(f'requirepass {password}\nbind 127.0.0.1\nport {port}\nsave ""\nappendonly no\n')
    with (directory / "redis.log").open("ab") as output:
        command = [program("redis-server"), str(settings)]
        process = subprocess.Popen(command, cwd=directory, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_for(lambda: _asks_for_password(port), "Redis", within=20)
        yield f"redis://:{password}@127.0.0.1:{port}/0"
    finally:
        stop([process])


def _asks_for_password(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(100).startswith(b"-NOAUTH")
    except OSError:
        return False
