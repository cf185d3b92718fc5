"""A deployment with a database of its own, whose commands run as processes."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests import forked_command
from tests.e2e.databases import own_database

Template = Path | str  # an SQLite file, or the name of a PostgreSQL database


@dataclass
class Deployment:
    """`anchors`: its AUDIT_ANCHOR_FILE, which several deployments may share."""

    url: str
    directory: Path
    anchors: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        own = {"DATABASE_URL": self.url, "DATA_DIR": str(self.directory), "AUDIT_ANCHOR_FILE": str(self.anchors)}
        return kept | own | {"QUEUE_URL": f"sqlite:///{self.directory}/queue.sqlite3"} | self.variables

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        command = ["manage.py", *arguments]
        return forked_command.run(command, env=self.environment, given=given, timeout=120)

    def done(self, *arguments: str, given: str = "") -> str:
        """Its output. The command must exit with 0 and say nothing on stderr."""
        ended = self.run(*arguments, given=given)
        assert (ended.returncode, ended.stderr) == (0, ""), ended.stdout + ended.stderr
        return ended.stdout

    def program(self, text: str) -> str:
        """What a Python program with the settings of this deployment prints."""
        env = self.environment | {"DJANGO_SETTINGS_MODULE": "config.settings"}
        ended = forked_command.run(["-c", text], env=env, timeout=120)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def refused(self, code: int, *arguments: str) -> str:
        """Its only line on stderr."""
        ended = self.run(*arguments)
        assert (ended.returncode, ended.stderr.count("\n")) == (code, 1), ended.stdout + ended.stderr
        return ended.stderr.removeprefix("CommandError: ").strip()


# The commands of an operator, in one process.
_FILL = """
import io, os, sys
import django
django.setup()
from django.core.management import call_command
def command(*arguments, given=""):
    sys.stdin = io.StringIO(given)
    call_command(*arguments, stdout=io.StringIO())
command("create_team", "Ops North")
command("create_team", "Ops South")
member = ("ops-north", "mona@example.com", "--role=manager", "--create", "--password-stdin")
command("add_member", *member, given="correct horse battery\\n")
key = ("ops-north", "Production", "--endpoint=https://api.arize.com", "--key-stdin")
command("add_credential", *key, given="ak-canary-7QzN4vXw81LrT0pKe6Yb\\n")
token = ("ops-north", "Airflow", "--role=operator", "--owner=mona@example.com", "--credential=Production")
command("create_token", *token)
for chain in ("site", "ops-north", "ops-south"):
    command("export_audit", chain)
"""


def copy_of(filled_file: Path, folder: Path) -> Deployment:
    """With a copy of the file, and of the anchors beside it."""
    shutil.copytree(filled_file.parent, folder)
    return Deployment(f"sqlite:///{folder}/{filled_file.name}", folder, folder / "anchors.jsonl")


@contextmanager
def empty_deployment(directory: Path, anchors: Path, *, template: str = "", **variables: str) -> Iterator[Deployment]:
    """Without tables; on SQLite without a file."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with own_database(directory, template=template) as url:
        yield Deployment(url, directory, anchors, variables)


@contextmanager
def migrated_deployment(directory: Path, anchors: Path, template: Template, **variables: str) -> Iterator[Deployment]:
    """With tables, without rows."""
    name = template if isinstance(template, str) else ""
    with empty_deployment(directory, anchors, template=name, **variables) as made:
        if isinstance(template, Path):
            shutil.copy(template, made.url.removeprefix("sqlite:///"))
        yield made


@contextmanager
def filled_deployment(directory: Path, anchors: Path, template: Template, **variables: str) -> Iterator[Deployment]:
    """Migrated, with two teams, a member and an API key. The newest rows of its log are anchored."""
    with migrated_deployment(directory, anchors, template, **variables) as made:
        made.program(_FILL)
        yield made
