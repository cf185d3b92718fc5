"""docs/operations.md, "Several hosts": a rolling restart behind nginx, with the settings of `deploy/nginx.conf`."""

import os
import re
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from config.processes import stop
from tests.drills.browser import Browser, Load, people_at_work
from tests.drills.document import NOBODY
from tests.drills.missing import program
from tests.drills.panel import TEAMS, Panel, as_account, names, running, simulated_arize
from tests.drills.postgresql import two_roles
from tests.drills.redis import redis_with_password
from tests.drills.rotation import two_hosts
from tests.paths import ROOT
from tests.processes import free_ports, wait_for

WHAT = "restart two hosts one after the other, twice, behind nginx and under load"
WITHIN = 300.0
ROUNDS = 2
WORKERS = names("worker", 2)
PAGES = (f"/teams/{TEAMS[0]}/runs/", f"/teams/{TEAMS[0]}/runs/table/", "/accounts/profile/", "/healthz")


def run(directory: Path, proved: Callable[[str], None]) -> None:
    public, plain = free_ports(2)
    site = f"https://localhost:{public}"
    with (
        simulated_arize(directory) as arize,
        redis_with_password(directory) as queue,
        two_roles(directory) as database,
    ):
        panel = two_hosts(directory, database, arize, queue, SITE_URL=site, TRUSTED_PROXIES="1")
        with running(panel, *WORKERS), nginx(directory, panel, public, plain) as certificate:
            load = Load()
            clicked = _restart_under_load(panel, load, certificate)
            proved(f"{sum(load.answers.values())} requests through nginx during {2 * ROUNDS} restarts, 0 failed")
            sent = arize.get("/sandbox/requests", method="POST", path="/cancel").json["requests"]
            for run_id in clicked:
                quoted = re.escape(run_id.rstrip("="))
                times = sum(bool(re.search(rf"/{quoted}(=|%3D)*/", it["path"])) for it in sent)
                assert times == 1, f"the cancel of {run_id} was sent {times} times"
            proved(f"each of {len(clicked)} clicks on Cancel reached Arize exactly once")
            _redirects(plain, proved)


def _restart_under_load(panel: Panel, load: Load, certificate: str) -> list[str]:
    """Arize's ids of the runs that were cancelled."""
    readers = [_signed_in(panel, "vera", certificate) for _ in range(3)]
    operator = _signed_in(panel, "oli", certificate)
    left = operator.running_runs(TEAMS[0])
    clicked: list[str] = []

    def read(browser: Browser) -> None:
        for page in PAGES:
            load.note(f"GET {page}", lambda page=page: browser.get(page), expected=(200, 302))

    def click() -> None:
        if left:
            run_id, arize_id = left.pop()
            clicked.append(arize_id)
            load.note("POST cancel", lambda: operator.cancel(TEAMS[0], run_id))
        threading.Event().wait(0.5)

    with people_at_work(load, [*(lambda it=it: read(it) for it in readers), click]):
        for _ in range(ROUNDS):
            for worker, web in zip(WORKERS, panel.ports, strict=True):
                panel.restart(worker)
                panel.restart(web)
    assert not load.failed, "\n".join([f"{len(load.failed)} failed:", *load.failed[:20], str(load.answers)])
    assert len(clicked) > ROUNDS * 2
    assert sum(load.answers.values()) > 100
    return clicked


def _signed_in(panel: Panel, person: str, certificate: str) -> Browser:
    browser = Browser(panel.url, certificate=certificate)
    assert browser.sign_in(f"{person}@demo.example", panel.password) == 302
    return browser


def _redirects(plain: int, proved: Callable[[str], None]) -> None:
    answer = requests.get(f"http://127.0.0.1:{plain}/runs/", allow_redirects=False, timeout=10)
    assert answer.status_code == 301
    assert answer.headers["Location"].startswith("https://")
    proved("plain http leads to https")


@contextmanager
def nginx(directory: Path, panel: Panel, public: int, plain: int) -> Iterator[str]:
    """Running with our example, changed only in addresses and paths. Yields the certificate's file."""
    executable = program("nginx")
    directory.chmod(0o711)  # nginx runs as another account
    folder = directory / "nginx"
    folder.mkdir()
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    _make_certificate(certificate, key)
    site = (ROOT / "deploy/nginx.conf").read_text()
    changes = {
        "127.0.0.1:8000": f"127.0.0.1:{panel.ports['web-1']}",
        "127.0.0.1:8001": f"127.0.0.1:{panel.ports['web-2']}",
        "listen 80;": f"listen 127.0.0.1:{plain};",
        "listen 443 ssl http2;": f"listen 127.0.0.1:{public} ssl http2;",
        "/etc/ssl/taskruns.pem": str(certificate),
        "/etc/ssl/taskruns.key": str(key),
        "taskruns.example.com": "localhost",
    }
    for before, after in changes.items():
        assert before in site, f"deploy/nginx.conf no longer has {before}"
        site = site.replace(before, after)
    temporary = "\n".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    settings = folder / "nginx.conf"
    settings.write_text(
        f"daemon off;\npid {folder}/pid;\nevents {{}}\nhttp {{\naccess_log {folder}/access;\n{temporary}\n{site}}}\n"
    )
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            os.chown(path, NOBODY, NOBODY)
    command = [executable, "-p", str(folder), "-c", str(settings), "-e", "stderr"]
    with (directory / "nginx.log").open("ab") as output:
        streams = {"stdout": output, "stderr": output}
        process = subprocess.Popen(command, **streams, **as_account(NOBODY), start_new_session=True)
    try:
        wait_for(lambda: _listens(public, certificate), f"nginx\n{(directory / 'nginx.log').read_text()}")
        yield str(certificate)
    finally:
        stop([process])


def _listens(port: int, certificate: Path) -> bool:
    try:
        return requests.get(f"https://localhost:{port}/healthz", verify=str(certificate), timeout=5).ok
    except requests.RequestException:
        return False


def _make_certificate(certificate: Path, key: Path) -> None:
    names_of_host = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    command = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", names_of_host]
    subprocess.run([*command, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
