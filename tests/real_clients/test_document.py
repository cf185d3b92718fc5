"""The examples of `docs/api.md` work as they are printed, with another host, token and id."""

import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from config.processes import base_environment
from tests.paths import ROOT
from tests.real_clients.clients import ENVIRONMENTS, airflow_variables
from tests.real_clients.panel import Panel

TEXT = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
BLOCKS = {
    (language, name): text
    for language, name, text in re.findall(r"^```(\w+) ([\w-]+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
}
USED = {
    *(("sh", name) for name in ("create-token", "curl", "curl-cancel", "sdk", "ax", "javascript", "airflow")),
    *(("python", "sdk"), ("python", "airflow"), ("toml", "ax"), ("js", "javascript")),
}


@dataclass
class Reader:
    """A reader who follows the document in an empty folder."""

    panel: Panel
    folder: Path
    run_id: str
    variables: dict[str, str]

    def block(self, language: str, name: str) -> str:
        """With this panel's address, which has no TLS."""
        here = BLOCKS[language, name].replace("taskruns.example.com", f"localhost:{self.panel.stack.port}")
        return here.replace("https", "http")

    def run(self, text: str, *, environment: str = "sdk") -> str:
        own = base_environment()
        own["PATH"] = f"{ENVIRONMENTS / environment / 'bin'}:{own['PATH']}"
        done = subprocess.run(
            ["/bin/sh", "-e", "-c", text],
            cwd=self.folder,
            env=own | {"HOME": str(self.folder), "COLUMNS": "300"} | self.variables,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run_program(self, before: str, name: str, text: str, *, environment: str = "sdk") -> str:
        """Run a program after the commands of a block."""
        (self.folder / name).write_text(text, encoding="utf-8")
        start = "node" if name.endswith(".mjs") else "python"
        return self.run(f"{before}\n{start} {name}", environment=environment)


@pytest.fixture
def reader(panel: Panel, tmp_path: Path) -> Reader:
    (run_id,) = panel.runs("running")
    variables = {
        "TASKRUNS_TOKEN": panel.token(f"document {tmp_path.name}"),
        "RUN_ID": run_id,
        "TASK_ID": panel.task()["id"],
    }
    return Reader(panel, tmp_path, run_id, variables)


def recorded_reason(reader: Reader) -> str:
    """Of the row that was written before the cancel was sent."""
    return reader.panel.audit_rows(reader.run_id)[0]["reason"]


def test_every_block_is_run():
    assert BLOCKS.keys() == USED


def test_the_command_prints_the_token_alone(panel: Panel):
    (line,) = BLOCKS["sh", "create-token"].splitlines()
    done = subprocess.run(
        ["/bin/sh", "-c", line.replace(".venv/bin/python", sys.executable)],
        cwd=ROOT,
        env=panel.stack.environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert re.fullmatch(r"tr_\w+\n", done.stdout), done.stderr
    with pytest.raises(AssertionError, match="Airflow, nightly"):
        panel.token("Airflow, nightly")


def test_curl_lists_tasks(reader: Reader):
    assert '"has_more"' in reader.run(reader.block("sh", "curl"))


def test_curl_cancels_with_a_reason(reader: Reader):
    assert "CANCELLED" in reader.run(reader.block("sh", "curl-cancel"))
    assert recorded_reason(reader) == "stuck since the deploy"


def test_the_sdk_needs_only_variables(reader: Reader):
    program = "from arize import ArizeClient\nprint(len(ArizeClient().tasks.list(limit=5).tasks))"
    assert reader.run_program(reader.block("sh", "sdk"), "program.py", program).endswith("5\n")


def test_the_sdk_cancels_with_a_reason(reader: Reader):
    printed = reader.run_program("", "program.py", reader.block("python", "sdk"))
    assert printed.endswith("CANCELLED\n")
    assert recorded_reason(reader) == "nightly clean-up"


def test_ax_works_with_the_profile(reader: Reader):
    (reader.folder / "taskruns.toml").write_text(reader.block("toml", "ax"))
    printed = reader.run(reader.block("sh", "ax"))
    assert reader.run_id in printed
    assert reader.panel.stack.status_at_arize(reader.run_id) == "cancelled"
    profiles = reader.folder.glob(".arize/**/*.toml")
    assert not [path for path in profiles if reader.variables["TASKRUNS_TOKEN"] in path.read_text()]


def test_javascript_cancels_with_a_reason(reader: Reader):
    (reader.folder / "node_modules").symlink_to(ENVIRONMENTS / "node" / "node_modules")
    before = reader.block("sh", "javascript")
    printed = reader.run_program(before, "program.mjs", reader.block("js", "javascript"))
    assert printed.endswith("CANCELLED\n")
    assert recorded_reason(reader) == "nightly clean-up"


def test_airflow_works_with_the_connection(reader: Reader):
    reader.variables |= airflow_variables(reader.folder)
    before, program = reader.block("sh", "airflow"), reader.block("python", "airflow")
    printed = reader.run_program(before, "program.py", program, environment="airflow")
    assert "'status': 'CANCELLED'" in printed
    assert "'already_terminal': True" in printed


def test_the_document_names_each_tested_version():
    pinned = (ROOT / "tests/real_clients/requirements-sdk.in").read_text()
    pinned += (ROOT / "tests/real_clients/requirements-airflow.in").read_text()
    assert len(re.findall("==", pinned)) == 3
    for name, version in re.findall(r"^([\w-]+)==([\d.]+)$", pinned, re.MULTILINE):
        assert f"`{name}` {version}" in TEXT
    assert '"@arizeai/ax-client": "1.28.0"' in (ROOT / "tests/real_clients/package.json").read_text()
    assert "`@arizeai/ax-client` 1.28.0" in TEXT
