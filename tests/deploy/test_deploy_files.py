"""The files to deploy with agree with the panel, with each other and with the operations guide."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import new_secrets
from config.processes import commands
from tests.paths import ROOT

DEPLOY = ROOT / "deploy"
GUIDE = (ROOT / "docs/operations.md").read_text()
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
PANEL = ("migrate", "backup", "web", "worker")
# Of Python, pip, the container engine and the images of others.
FOREIGN = {"PATH", "PYTHONDONTWRITEBYTECODE", "POSTGRES_PASSWORD", "POSTGRES_INITDB_ARGS"}


def known_variables() -> set[str]:
    """Every name that the settings read."""
    texts = [path.read_text() for path in (ROOT / "config").glob("*.py")] + [(ROOT / "gunicorn.conf.py").read_text()]
    return {name for text in texts for name in re.findall(r'"([A-Z][A-Z_]+)"', text)}


def named_variables() -> set[str]:
    """Every variable that a deploy file sets. NAME_FILE stands for NAME."""
    units = "\n".join(path.read_text() for path in UNITS)
    image = (ROOT / "Containerfile").read_text()
    found = set(re.findall(r"^#?Environment=([A-Z_]+)=", units, re.MULTILINE))
    found |= set(re.findall(r"\b([A-Z_]+)=\S*", "\n".join(re.findall(r"^ENV (?:.*\\\n)*.*", image, re.MULTILINE))))
    found |= {name for service in COMPOSE["services"].values() for name in service.get("environment", {})}
    return {name if name in known_variables() else name.removesuffix("_FILE") for name in found}


def test_every_variable_of_a_deploy_file_is_one_of_the_panel():
    pip = {name for name in named_variables() if name.startswith("PIP_")}
    assert {"SITE_URL", "STATIC_ROOT", "DATABASE_URL"} <= named_variables()
    assert not named_variables() - known_variables() - FOREIGN - pip


def test_a_variable_that_does_not_exist_is_detected():
    """The control of the test above."""
    assert "NO_SUCH_VARIABLE" not in known_variables()


# --- systemd


def lines_of(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def test_the_units_run_the_commands_of_the_procfile():
    for name in ("web", "worker"):
        expected = commands()[name].replace("gunicorn ", "/srv/taskruns/.venv/bin/gunicorn ")
        expected = re.sub("^python ", "/srv/taskruns/.venv/bin/python ", expected)
        assert f"ExecStart={expected}" in lines_of(DEPLOY / f"systemd/taskruns-{name}.service")


def hardening(path: Path) -> list[str]:
    """The lines from ProtectSystem on, without the paths that a unit may write."""
    lines = lines_of(path)
    rest = lines[lines.index("ProtectSystem=strict") :]
    return [line for line in rest if not line.startswith(("ReadWritePaths=", "[Install]", "WantedBy="))]


def test_all_units_are_hardened_in_the_same_way():
    assert len(UNITS) == 3
    first, *others = (hardening(path) for path in UNITS)
    assert len(first) > 25
    assert all(other == first for other in others)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_as_the_panels_account_and_may_write_its_data(path: Path):
    lines = lines_of(path)
    assert "User=taskruns" in lines
    assert "UMask=0077" in lines
    assert any(line.startswith("ReadWritePaths=/srv/taskruns/var") for line in lines)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_rates_the_exposure_of_a_unit_below_two(path: Path):
    """Where systemd-analyze is installed. It needs no running systemd."""
    program = shutil.which("systemd-analyze")
    if program is None:
        assert len(hardening(path)) > 25
        return
    command = [program, "security", "--offline=true", "--no-pager", "--threshold=19", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr


def test_the_backup_unit_runs_the_documented_command():
    (line,) = (line for line in lines_of(DEPLOY / "systemd/taskruns-backup.service") if line.startswith("ExecStart="))
    assert "manage.py backup " in line
    assert "--keep 48" in line
    # systemd replaces a single % and a single $.
    assert not re.search(r"(?<!%)%(?!%)|(?<!\$)\$(?!\$)", line.replace("%%", "").replace("$$", ""))


# --- PostgreSQL


def test_the_grants_are_those_of_the_guide():
    granted = re.findall(r"^((?:GRANT|REVOKE) .*;)$", (DEPLOY / "grants.sql").read_text(), re.MULTILINE)
    documented = re.findall(r"^ {4}((?:GRANT|REVOKE) .*;)$", GUIDE, re.MULTILINE)
    assert len(granted) == 4
    assert granted == documented


# --- Proxies


def test_each_proxy_keeps_connections_shorter_than_the_panel():
    ours = int(re.findall(r'"KEEPALIVE", (\d+)', (ROOT / "gunicorn.conf.py").read_text())[0])
    for name, pattern in (("nginx.conf", r"keepalive_timeout (\d+)s;"), ("Caddyfile", r"keepalive (\d+)s")):
        (found,) = re.findall(pattern, (DEPLOY / name).read_text())
        assert int(found) < ours


@pytest.mark.parametrize("name", ["nginx.conf", "Caddyfile"])
def test_each_proxy_replaces_the_address_and_the_id_of_a_client(name: str):
    text = (DEPLOY / name).read_text()
    assert re.search(r"X-Forwarded-For (\$remote_addr|\{remote_host\})", text)
    assert "X-Request-ID" in text
    assert "$proxy_add_x_forwarded_for" not in text


# --- Containers


def test_every_container_of_the_panel_has_no_rights_and_a_read_only_root():
    for name in PANEL:
        service = COMPOSE["services"][name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_only_migrate_and_backup_have_the_owners_url():
    with_it = {name for name in PANEL if "owner_database_url" in COMPOSE["services"][name]["secrets"]}
    assert with_it == {"migrate", "backup"}


def test_each_service_uses_only_secrets_that_exist_and_that_it_was_given():
    for service in COMPOSE["services"].values():
        given = set(service["secrets"])
        assert given <= set(COMPOSE["secrets"])
        named = {Path(value).name for value in service.get("environment", {}).values() if "/run/secrets/" in value}
        assert named <= given


def test_the_containers_run_the_commands_of_the_procfile():
    image = (ROOT / "Containerfile").read_text()
    assert f"CMD {list_of(commands()['web'])}" in image
    assert COMPOSE["services"]["worker"]["command"] == commands()["worker"].split()
    for name in ("migrate", "backup"):
        parts = COMPOSE["services"][name]["command"]
        assert any("manage.py" in part or (ROOT / part).is_file() for part in parts)


def list_of(command: str) -> str:
    return "[" + ", ".join(f'"{part}"' for part in command.split()) + "]"


def test_no_secret_and_no_address_of_a_registry_is_in_a_file():
    for path in (ROOT / "compose.yaml", ROOT / "Containerfile", *DEPLOY.rglob("*")):
        if path.is_file():
            assert not re.search(
                r"\b(?:docker\.io|ghcr\.io|quay\.io)|password ?[:=] ?[\"']?[0-9a-f]{8}", path.read_text()
            )


def test_everything_that_the_image_copies_exists_and_is_not_ignored():
    image = (ROOT / "Containerfile").read_text()
    wanted = {name for names in re.findall(r"^COPY (?!--from)(.*) \S+$", image, re.MULTILINE) for name in names.split()}
    allowed = {line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    assert wanted
    assert all((ROOT / name).exists() for name in wanted)
    assert wanted <= allowed
    assert (ROOT / ".dockerignore").read_text() == (ROOT / ".containerignore").read_text()


def write_secrets(directory: Path, given: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", str(DEPLOY / "compose/secrets.sh"), str(directory)]
    return subprocess.run(command, input=given, capture_output=True, text=True, check=False)


def test_the_script_writes_every_secret_of_compose_once(tmp_path: Path):
    done = write_secrets(tmp_path / "secrets", new_secrets.lines() + "\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    made = {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(COMPOSE["secrets"])
    assert all((tmp_path / "secrets" / name).stat().st_mode & 0o777 == 0o400 for name in made)
    assert made["app_password"].strip() in made["database_url"]
    assert made["owner_password"].strip() in made["owner_database_url"]
    again = write_secrets(tmp_path / "secrets", new_secrets.lines() + "\n")
    assert again.returncode == 0
    assert {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()} == made


def test_the_script_refuses_lines_that_are_not_secrets(tmp_path: Path):
    done = write_secrets(tmp_path / "secrets", "nonsense\n")
    assert done.returncode == 1
    assert done.stderr == "Not a line of manage.py new_secrets: nonsense\n"
    done = write_secrets(tmp_path / "secrets", "")
    assert done.returncode == 1
    assert done.stderr == "No secret_key on standard input. Pipe manage.py new_secrets into this.\n"
