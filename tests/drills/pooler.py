"""docs/networks.md, "Database poolers": PgBouncer in transaction mode, with few connections."""

import csv
import io
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import psycopg

from config.processes import stop
from tests.drills.browser import Browser, Load, people_at_work
from tests.drills.document import NOBODY
from tests.drills.missing import program
from tests.drills.panel import TEAMS, Panel, as_account, running, simulated_arize
from tests.drills.postgresql import TwoRoles, two_roles
from tests.processes import free_ports, wait_for

WHAT = "export and sign in through PgBouncer in transaction mode, two teams at once"
WITHIN = 300.0
RUNS = 3_000  # in each team, so that each export is read in several parts
EXPORTS, SIGN_INS = 25, 5  # for each team; one person may export 30 times in ten minutes
MANAGERS = {"ops-north": "mona", "ops-south": "otto"}
POOL = 6
_ROW = re.compile(r'<tr id="run-([0-9a-f-]{36})"')


def run(directory: Path, proved: Callable[[str], None]) -> None:
    with (
        simulated_arize(directory) as arize,
        two_roles(directory) as database,
        pgbouncer(directory, database) as at,
    ):
        queue = {"QUEUE_URL": f"sqlite:///{directory / 'queue.sqlite3'}"}
        panel = Panel(directory, database_url=database.url("app", at=at), arize=arize.url, WEB_WORKERS="2", **queue)
        panel.manage("migrate", "--verbosity", "0", MIGRATE_DATABASE_URL=database.url("owner"))
        database.grant()
        panel.fill()
        for team in TEAMS:
            panel.manage("fill_runs", team, "--runs", str(RUNS))
        _check_the_pool(database)
        with running(panel):  # no worker: the runs stay as they are
            expected = {team: _exported(_manager(panel, team), team) for team in TEAMS}
            assert min(len(ids) for ids in expected.values()) >= RUNS
            assert not expected[TEAMS[0]] & expected[TEAMS[1]]
            _export_at_once(panel, expected)
            proved(f"{2 * EXPORTS} exports of two teams at once: each whole, and none with a row of the other team")
            _sign_in_at_once(panel)
            proved(f"{2 * SIGN_INS} people signed in at once")
        with running(panel, "worker-1"):
            proved("a worker works through the pooler: /readyz answers ok")
        said = panel.manage("verify_audit")
        assert said.rstrip().endswith("clean"), said
        proved("the audit log, written through the pooler, is clean")


def _manager(panel: Panel, team: str) -> Browser:
    browser = Browser(panel.url)
    assert browser.sign_in(f"{MANAGERS[team]}@demo.example", panel.password) == 302
    return browser


def _exported(browser: Browser, team: str) -> frozenset[str]:
    answer = browser.get(f"/teams/{team}/runs/export.csv")
    assert answer.status_code == 200, f"{answer.status_code} {answer.text[:300]}"
    rows = [row["panel_id"] for row in csv.DictReader(io.StringIO(answer.content.decode("utf-8-sig")))]
    assert len(rows) == len(set(rows)), "a row came twice"
    return frozenset(rows)


def _export_at_once(panel: Panel, expected: dict[str, frozenset[str]]) -> None:
    """One export of each team at a time, as many as the panel allows, while others read the boards of both teams."""
    exporters, readers = ({team: _manager(panel, team) for team in TEAMS} for _ in range(2))

    def export(team: str) -> None:
        for _ in range(EXPORTS):
            got = _exported(exporters[team], team)
            assert not got & expected[_other(team)], "rows of the other team"
            assert got == expected[team], f"{len(got)} rows instead of {len(expected[team])}"

    def read(team: str) -> None:
        shown = set(_ROW.findall(readers[team].get(f"/teams/{team}/runs/").text))
        assert shown, "a board without rows"
        assert shown <= expected[team], "rows of the other team"

    acts = [partial(read, team) for team in TEAMS]
    with people_at_work(Load(), acts), ThreadPoolExecutor(len(TEAMS)) as pool:
        list(pool.map(export, TEAMS))


def _other(team: str) -> str:
    return next(other for other in TEAMS if other != team)


def _sign_in_at_once(panel: Panel) -> None:
    """As many at once as one web process checks."""
    with ThreadPoolExecutor(len(TEAMS)) as pool:
        list(pool.map(partial(_manager, panel), TEAMS * SIGN_INS))


def _check_the_pool(database: TwoRoles) -> None:
    """The control: everything above must really go through a few connections of the pooler."""
    with psycopg.connect(database.url("owner")) as connection:
        query = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s"
        (found,) = connection.execute(query, [f"{database.name}_app"]).fetchone() or (0,)
    assert 0 < found <= POOL, found


@contextmanager
def pgbouncer(directory: Path, database: TwoRoles) -> Iterator[str]:
    """Its host:port."""
    executable = program("pgbouncer")
    (port,) = free_ports(1)
    directory.chmod(0o711)  # PgBouncer refuses to run as root
    folder = directory / "pgbouncer"
    folder.mkdir()
    host, server_port = database.at.rsplit(":", 1)
    (folder / "users.txt").write_text(f'"{database.name}_app" "{database.passwords["app"]}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host={host} port={server_port}\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = scram-sha-256\nauth_file = {folder}/users.txt\n"
        f"pool_mode = transaction\ndefault_pool_size = {POOL}\nmax_client_conn = 300\n"
    )
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    with (directory / "pgbouncer.log").open("ab") as output:
        process = subprocess.Popen(
            [executable, str(folder / "pgbouncer.ini")],
            stdout=output, stderr=output, **as_account(NOBODY), start_new_session=True,
        )  # fmt: skip
    at = f"127.0.0.1:{port}"
    try:
        log = directory / "pgbouncer.log"
        wait_for(lambda: _answers(database.url("app", at=at)), f"PgBouncer\n{log.read_text()}")
        yield at
    finally:
        stop([process])


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=3, prepare_threshold=None).close()
    except psycopg.Error:
        return False
    return True
