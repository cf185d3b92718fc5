"""The real web processes, on the tests' own database."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import requests

from config.processes import base_environment, launch, stop
from tests.batches.worker_stack import database_url
from tests.processes import free_ports, wait_for

LOG = "web.log"


@contextmanager
def web(directory: Path, *, arize: str, more: Mapping[str, str], with_worker: bool = False) -> Iterator[str]:
    """Their address. `more`: further variables."""
    (port,) = free_ports(1)
    base = f"http://localhost:{port}"
    environment = base_environment() | {
        **{name: os.environ[name] for name in ("SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY")},
        "ENV_FILE": "",
        "SITE_URL": base,
        "REQUIRE_MFA": "off",
        "DATA_DIR": str(directory),
        "DATABASE_URL": database_url(),
        "QUEUE_URL": f"sqlite:///{directory / 'queue.sqlite3'}",
        "ARIZE_ENDPOINTS": arize,
        **more,
    }
    names = ("web", "worker") if with_worker else ("web",)
    processes = [launch(name, environment=environment, log=directory / LOG) for name in names]
    try:
        wait_for(lambda: _is_up(base), "the web processes", within=60)
        yield base
    finally:
        stop(processes)


def _is_up(base: str) -> bool:
    try:
        return requests.get(f"{base}/healthz", timeout=5).ok
    except (requests.ConnectionError, requests.Timeout):
        return False
