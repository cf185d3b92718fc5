"""Files of the panel are for its own account only, whatever the umask of the shell. Real directories and processes."""

import os
import stat
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from config import environment
from tests import forked_command
from tests.config.deployment import GOOD

# Each ends soon after its first line: with a command that needs no settings, or with a refused variable.
ENTRY_POINTS = {
    "manage.py": "import manage; sys.argv = ['manage.py', 'new_secrets']; manage.main()",
    "config/wsgi.py": "import config.wsgi",
    "gunicorn.conf.py": "import runpy; runpy.run_path('gunicorn.conf.py')",
    "config/run.py": "os.environ['SITE_URL'] = 'x'; from config import run; assert run.main() == 1",
    "config/demo.py": "os.environ['DEMO_PORT'] = 'x'; from config import demo; assert demo.main([]) == 1",
}


def run(code: list[str], data_dir: Path) -> str:
    """The output of a process whose umask removes no permissions."""
    env = {"PATH": os.environ["PATH"], "HOME": str(data_dir.parent), "ENV_FILE": "", "DATA_DIR": str(data_dir)}
    ended = forked_command.run(code, env=env | GOOD, umask=0)
    ended.check_returncode()
    return ended.stdout


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.slow
@pytest.mark.parametrize("entry", ENTRY_POINTS)
def test_every_entry_point_makes_private_files(entry: str, tmp_path: Path):
    code = f"import os, sys; {ENTRY_POINTS[entry]}; print(oct(os.umask(0)))"
    assert run(["-c", code], tmp_path / "var").splitlines()[-1] == "0o77"
    assert run(["-c", "import os; print(oct(os.umask(0)))"], tmp_path / "var") == "0o0\n", "the control"


@pytest.mark.slow
def test_database_and_static_files_are_private(tmp_path: Path):
    run(["manage.py", "migrate", "--verbosity", "0"], tmp_path / "deep" / "var")
    run(["manage.py", "collectstatic", "--no-input", "--verbosity", "0"], tmp_path / "deep" / "var")
    found = {path: mode(path) for path in (tmp_path / "deep").rglob("*")}
    assert found[tmp_path / "deep" / "var"] == 0o700
    assert found[tmp_path / "deep" / "var" / "taskruns.sqlite3"] == 0o600
    assert mode(tmp_path / "deep") == 0o700


def test_data_dir_that_others_can_enter_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "var"))
    for before in (0o755, 0o750, 0o711, 0o700):
        (tmp_path / "var").mkdir(exist_ok=True)
        (tmp_path / "var").chmod(before)
        assert environment.data_dir() == tmp_path / "var"
        assert mode(tmp_path / "var") == 0o700


def test_open_data_dir_of_another_account_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr("config.environment.os.geteuid", lambda: owner + 1)
    tmp_path.chmod(0o755)
    with pytest.raises(ImproperlyConfigured, match=r"^DATA_DIR names .* other accounts can enter.*700\.$"):
        environment.data_dir()
    assert mode(tmp_path) == 0o755
    tmp_path.chmod(0o700)
    assert environment.data_dir() == tmp_path, "the control: closed, it may belong to anyone"
