"""docs/operations.md, "Rotating encryption keys" and "Rotating the audit signing key", over two hosts."""

import base64
import json
import secrets
from collections.abc import Callable
from pathlib import Path

from cryptography.fernet import Fernet

from tests.drills.browser import Browser
from tests.drills.panel import TEAMS, Panel, names, running, simulated_arize
from tests.drills.postgresql import TwoRoles, two_roles
from tests.drills.redis import redis_with_password
from tests.sandbox.caller import Caller

WHAT = "rotate the ring and the signing key over two workers and two web processes, one process at a time"
WITHIN = 420.0
WORKERS = names("worker", 2)
# One cancel by each web process after each of the eight restarts, and some at the end.
RUNS = 40


def run(directory: Path, proved: Callable[[str], None]) -> None:
    with (
        simulated_arize(directory) as arize,
        redis_with_password(directory) as queue,
        two_roles(directory) as database,
    ):
        panel = two_hosts(directory, database, arize, queue)
        with running(panel, *WORKERS):
            operator = Operator(panel, arize)
            _rotate_ring(panel, operator, proved)
            _rotate_signing_key(panel, operator, proved)


def two_hosts(directory: Path, database: TwoRoles, arize: Caller, queue: str, **variables: str) -> Panel:
    """Migrated and filled, with runs to cancel."""
    url = {"database_url": database.url("app")}
    panel = Panel(directory, **url, arize=arize.url, webs=2, QUEUE_URL=queue, **variables)
    panel.manage("migrate", "--verbosity", "0", DATABASE_URL=database.url("owner"))
    database.grant()
    tasks = arize.tasks(limit=100)
    for number in range(RUNS):
        arize.add_runs(tasks[number % len(tasks)]["id"], status="running")
    panel.fill()
    return panel


class Operator:
    """Cancels one run through each web process. The API key must be decrypted for it."""

    def __init__(self, panel: Panel, arize: Caller) -> None:
        self._arize = arize
        self._browsers = [Browser(f"http://localhost:{port}") for port in panel.ports.values()]
        for browser in self._browsers:
            assert browser.sign_in("oli@demo.example", panel.password) == 302
        self._left = self._browsers[0].running_runs(TEAMS[0])
        assert len(self._left) >= RUNS / 2

    def cancels(self) -> None:
        for browser in self._browsers:
            run, arize_id = self._left.pop()
            answer = browser.cancel(TEAMS[0], run)
            assert answer.status_code == 200, answer.text[:500]
            assert self._arize.run(arize_id)["status"].lower() == "cancelled", answer.text[:500]


def _rotate_ring(panel: Panel, operator: Operator, proved: Callable[[str], None]) -> None:
    old = panel.environment["ENCRYPTION_KEYS"]
    new = f"2:{Fernet.generate_key().decode()}"
    operator.cancels()
    for ring, what in ((f"{old},{new}", "appended"), (f"{new},{old}", "put in front")):
        panel.environment["ENCRYPTION_KEYS"] = ring
        restarted = _restart_one_by_one(panel, operator)
        proved(f"with the new key {what}, every process worked after each of {restarted} restarts")
    said = panel.manage("reencrypt_credentials")
    assert "You can remove the other keys" in said, said
    operator.cancels()
    panel.environment["ENCRYPTION_KEYS"] = new
    _restart_one_by_one(panel, operator)
    panel.manage("refresh")
    proved("after reencrypt_credentials, nothing needs the old key")
    code, said = panel.try_to_manage("refresh", ENCRYPTION_KEYS=old)
    assert code == 2, said
    proved("a process with only the old key refuses to run")


def _restart_one_by_one(panel: Panel, operator: Operator) -> int:
    processes = [*WORKERS, *panel.ports]
    for name in processes:
        panel.restart(name)
        panel.wait_until_ready()
        operator.cancels()
    return len(processes)


def _rotate_signing_key(panel: Panel, operator: Operator, proved: Callable[[str], None]) -> None:
    (old,) = _public_keys(panel)
    panel.environment["AUDIT_SIGNING_KEY"] = base64.b64encode(secrets.token_bytes(32)).decode()
    panel.environment["AUDIT_PUBLIC_KEYS"] = old
    for name in (*WORKERS, *panel.ports):
        panel.restart(name)
    panel.wait_until_ready()
    operator.cancels()
    assert len(_public_keys(panel) - {old}) == 1
    said = panel.manage("verify_audit")
    assert said.rstrip().endswith("clean"), said
    proved("anchors of the old and of the new signing key verify together")
    code, said = panel.try_to_manage("verify_audit", AUDIT_PUBLIC_KEYS="")
    assert code != 0, said
    proved("without the old public key, the log does not verify")


def _public_keys(panel: Panel) -> set[str]:
    """As the first line of an export names them. The export anchors its own row."""
    first = panel.manage("export_audit", TEAMS[0]).splitlines()[0]
    return set(json.loads(first)["manifest"]["public_keys"].values())
