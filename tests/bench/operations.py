"""What an operator does with a large panel: back up, restore, move to the other database, read /metrics, ask `doctor`.

BENCH_RUNS: runs, and rows of the audit log, by default a million of each. Commands run as processes of their own. On
PostgreSQL everything also moves to SQLite and back; on SQLite there is nothing to move to.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction
from django.db.migrations.recorder import MigrationRecorder
from django.test import Client

from config.processes import ROOT, base_environment
from taskruns.models import AuditEvent, Run, Team
from taskruns.services import mirror
from taskruns.services.backups import Archive
from tests.bench.audit_rows import fill
from tests.bench.table import Figure, median_ms
from tests.e2e.databases import own_database

MANY = int(os.environ.get("BENCH_RUNS", "1000000"))
TIMES = 20
TOKEN = "a-token-of-the-benchmark"
SECRETS = ("SECRET_KEY", "ENCRYPTION_KEYS", "AUDIT_SIGNING_KEY")
DEAD = ("database", "queue", "proxy", "single sign-on", "Arize", "mail")
RUNS = Run._meta.db_table
COPIED = (RUNS, AuditEvent._meta.db_table)
PARTS = 20
TIMES_OF_RUN = ("sorted_at", "created_at", "run_started_at", "run_finished_at", "ended_at")
# A moment some seconds earlier, and a new id.
SHIFTED = {
    "sqlite": ("strftime('%%Y-%%m-%%d %%H:%%M:%%f000', {name}, '-{seconds} seconds')", "lower(hex(randomblob(16)))"),
    "postgresql": ("{name} - interval '{seconds} seconds'", "gen_random_uuid()"),
}


def measure() -> list[Figure]:
    team = Team.objects.create(slug="bench-operations", name="Bench")
    _fill_runs(team)
    fill(f"team:{team.pk}", rows=MANY)
    _without_admin()
    figures = []
    with tempfile.TemporaryDirectory(prefix="taskruns-bench-") as directory:
        folder = Path(directory)
        moves = _moves(folder) if connection.vendor == "postgresql" else ()
        for figure in chain(_metrics(), _restore(folder), moves, _doctor(folder)):
            sys.stderr.write(f"{figure.what}: {figure.value:.1f} {figure.unit} ({figure.reference:.1f})\n")
            figures.append(figure)
    return figures


def _fill_runs(team: Team) -> None:
    """One part run by run, and copies of it made by the database, further and further in the past."""
    for _done in mirror.fill_runs(team, runs=MANY // PARTS):
        pass
    moment, new_id = SHIFTED[connection.vendor]
    for part in range(1, PARTS):
        columns = {name: name for name in _columns(RUNS)}
        columns |= {f'"{name}"': moment.format(name=name, seconds=part * MANY // PARTS * 30) for name in TIMES_OF_RUN}
        columns |= {'"id"': new_id, '"arize_id"': f"arize_id || '/{part}'"}
        with transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {RUNS} ({', '.join(columns)}) SELECT {', '.join(columns.values())} FROM {RUNS} "
                "WHERE arize_id NOT LIKE '%%/%%' AND team_id = %s",
                [team.pk.hex if connection.vendor == "sqlite" else team.pk],
            )
            cursor.execute(
                f"INSERT INTO taskruns_runsearch (run_id, team_id, text) SELECT made.id, made.team_id, "
                f"search.text || '/{part}' FROM taskruns_runsearch search JOIN {RUNS} old ON old.id = search.run_id "
                f"JOIN {RUNS} made ON made.team_id = old.team_id AND made.endpoint = old.endpoint "
                f"AND made.arize_id = old.arize_id || '/{part}'"
            )
    if Run.objects.filter(team=team).count() != MANY:
        raise RuntimeError("BENCH_RUNS must be a multiple of 20")


def _without_admin() -> None:
    """Only the settings of the benchmarks have Django's admin, so only their database has its table."""
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE django_admin_log")
    MigrationRecorder.Migration.objects.filter(app="admin").delete()


def _metrics() -> Iterator[Figure]:
    settings.METRICS_TOKEN = TOKEN
    client = Client()

    def read(_number: int) -> None:
        answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
        if answer.status_code != 200 or b"taskruns_audit_rows_total" not in answer.content:
            raise RuntimeError(answer.status_code)

    def count(_number: int) -> None:
        if Run.objects.count() < MANY:
            raise RuntimeError("runs are missing")

    plain = median_ms(count, range(3))
    what = f"/metrics of {MANY:,} runs and audit rows (p50)"
    yield Figure(what, median_ms(read, range(TIMES)), "ms", plain, "SELECT count(*) of the runs", "<= 100 ms")


def _restore(folder: Path) -> Iterator[Figure]:
    backup = folder / "backup.tar.gz"
    seconds = _seconds(folder, _own_url(), "backup", str(backup))
    plain = _plain_load(folder, backup)
    size = backup.stat().st_size / 2**20
    what = f"backup of {MANY:,} runs and audit rows ({size:.0f} MB)"
    reference = "a plain copy of the file" if connection.vendor == "sqlite" else "pg_restore alone"
    yield Figure(what, seconds, "s", plain, reference)
    with _new_database(folder / "restored") as target:
        seconds = _seconds(folder, target, "restore", str(backup))
    yield Figure(f"restore of {MANY:,} runs and audit rows, verified", seconds, "s", plain, reference, "<= 600 s")


def _plain_load(folder: Path, backup: Path) -> float:
    """Seconds that the rows alone take, without a check, a record or a verification."""
    dump = folder / "dump"
    Archive(backup).unpack(dump, lambda _length: None)
    begin = time.perf_counter()
    if connection.vendor == "sqlite":
        shutil.copyfile(dump, folder / "copy")
        with (folder / "copy").open("rb") as copy:
            os.fsync(copy.fileno())
    else:
        with _new_database(folder / "plain") as target:
            program = ["pg_restore", "--no-owner", "--single-transaction", f"--dbname={target}"]
            subprocess.run([*program, str(dump)], check=True)
    seconds = time.perf_counter() - begin
    dump.unlink()
    (folder / "copy").unlink(missing_ok=True)
    return seconds


def _moves(folder: Path) -> Iterator[Figure]:
    plain = _insert_select()
    reference = f"INSERT .. SELECT of {' and '.join(COPIED)}"
    file = folder / "moved" / "taskruns.sqlite3"
    file.parent.mkdir(mode=0o700)
    sqlite = f"sqlite:///{file}"
    _seconds(folder, sqlite, "migrate", "--verbosity", "0")
    seconds = _seconds(folder, _own_url(), "move_to", sqlite)
    yield Figure(f"move_to SQLite of {MANY:,} runs and audit rows", seconds, "s", plain, reference)
    with _new_database(folder / "target") as target:
        _seconds(folder, target, "migrate", "--verbosity", "0")
        seconds = _seconds(folder, sqlite, "move_to", target)
    what = f"move_to PostgreSQL of {MANY:,} runs and audit rows, verified"
    yield Figure(what, seconds, "s", plain, reference, "<= 900 s")


def _insert_select() -> float:
    """Seconds that PostgreSQL takes to copy the two largest tables within the database, with all their indexes."""
    begin = time.perf_counter()
    with connection.cursor() as cursor:
        for table in COPIED:
            cursor.execute(f"CREATE TABLE bench_copy (LIKE {table} INCLUDING ALL)")
            columns = ", ".join(_columns(table))
            cursor.execute(f"INSERT INTO bench_copy ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {table}")
            cursor.execute("DROP TABLE bench_copy")
    return time.perf_counter() - begin


def _columns(table: str) -> list[str]:
    model = {model._meta.db_table: model for model in (Run, AuditEvent)}[table]
    return [connection.ops.quote_name(field.column) for field in model._meta.concrete_fields if not field.generated]


def _doctor(folder: Path) -> Iterator[Figure]:
    """With every server that it asks refusing, and with every one taking connections and never answering."""
    bare = _seconds(folder, _own_url(), "version")
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        refusing = free.getsockname()[1]
    with closing(socket.create_server(("127.0.0.1", 0), backlog=64)) as server:
        for what, port in (("refuses", refusing), ("is silent", server.getsockname()[1])):
            dead = _dead(port)
            seconds = _seconds(folder, f"postgres://me@127.0.0.1:{port}/x", "doctor", named=DEAD, **dead)
            yield Figure(f"doctor while everything {what}", seconds, "s", bare, "manage.py version", "<= 10 s")


def _dead(port: int) -> dict[str, str]:
    """Silent or refusing: queue, proxy, single sign-on, Arize and mail."""
    at = f"127.0.0.1:{port}"
    return {
        "QUEUE_URL": f"redis://{at}/0",
        "EGRESS_PROXY": f"http://{at}",
        "OIDC_ISSUER": f"http://{at}",
        "OIDC_CLIENT_ID": "panel",
        "OIDC_CLIENT_SECRET": "a secret of the benchmark",
        "ARIZE_ENDPOINTS": f"http://{at}",
        "EMAIL_URL": f"smtp://{at}",
    }


def _seconds(folder: Path, database: str, *arguments: str, named: tuple[str, ...] = (), **variables: str) -> float:
    """Seconds of a command on this database. It must succeed, or fail with a line for each of the `named` parts."""
    data = folder / "data"
    data.mkdir(mode=0o700, exist_ok=True)
    kept = {name: os.environ[name] for name in SECRETS}
    own = {"ENV_FILE": "", "DATA_DIR": str(data), "DATABASE_URL": database}
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=base_environment() | kept | own | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - begin
    lines = done.stdout.splitlines()
    missing = [name for name in named if not any(re.match(f"fail +{name}", line) for line in lines)]
    if missing or done.returncode != (1 if named else 0):
        raise RuntimeError(f"{arguments[0]} ended with {done.returncode}: {missing} {done.stdout}{done.stderr}")
    return seconds


@contextmanager
def _new_database(folder: Path) -> Iterator[str]:
    folder.mkdir(mode=0o700)
    with own_database(folder) as url:
        yield url


def _own_url() -> str:
    at = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{at['NAME']}"
    return f"postgres://{at['USER']}:{at['PASSWORD']}@{at['HOST']}:{at['PORT'] or 5432}/{at['NAME']}"
