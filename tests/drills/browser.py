"""A person with a browser, and several of them that load a panel until they are stopped."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import requests

WAITS = 60  # seconds that a person waits for an answer
_ROW = re.compile(r'<tr id="run-([0-9a-f-]{36})"[^>]*data-run-id="([^"]*)"[^>]*data-status="running"', re.IGNORECASE)


class Browser:
    """`certificate`: of an authority to trust."""

    def __init__(self, url: str, *, certificate: str = "") -> None:
        self.url = url
        self._session = requests.Session()
        self._session.verify = certificate or True
        self._session.trust_env = False

    def sign_in(self, email: str, password: str) -> int:
        """The status of the answer: 302 if it worked."""
        self.get("/accounts/login/")
        return self.post("/accounts/login/", {"login": email, "password": password}).status_code

    def get(self, path: str, **headers: str) -> requests.Response:
        return self._session.get(f"{self.url}{path}", headers=headers, timeout=WAITS, allow_redirects=False)

    def post(self, path: str, fields: dict[str, str], **headers: str) -> requests.Response:
        token = next((it.value or "" for it in self._session.cookies if it.name.endswith("csrftoken")), "")
        sent = {"X-CSRFToken": token, "Referer": f"{self.url}/"} | headers
        return self._session.post(f"{self.url}{path}", fields, headers=sent, timeout=WAITS, allow_redirects=False)

    def running_runs(self, team: str) -> list[tuple[str, str]]:
        """The runs that the board's first page shows as running: their id in the URL, and Arize's."""
        return _ROW.findall(self.get(f"/teams/{team}/runs/?status=running").text)

    def cancel(self, team: str, run: str) -> requests.Response:
        path = f"/teams/{team}/runs/{run}/cancel/"
        htmx = {"HX-Request": "true", "HX-Target": f"run-{run}"}
        return self.post(path, {"confirmed": "1", "reason": "drill"}, **htmx)


@dataclass
class Load:
    """`answers`: how often each status came; `failed`: a line for each request that did not work."""

    answers: Counter[int] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, what: str, send: Callable[[], requests.Response], *, expected: tuple[int, ...] = (200,)) -> None:
        try:
            answer = send()
        except requests.RequestException as error:
            status, problem = 0, f"{what}: {error}"
        else:
            status, problem = answer.status_code, f"{what}: {answer.status_code}"
        with self._lock:
            self.answers[status] += 1
            if status not in expected:
                self.failed.append(problem)


@contextmanager
def people_at_work(load: Load, acts: list[Callable[[], None]]) -> Iterator[Load]:
    """Each act is repeated by a thread of its own until the end of the block."""
    is_over = threading.Event()
    problems: list[BaseException] = []

    def repeat(act: Callable[[], None]) -> None:
        try:
            while not is_over.wait(0.05):
                act()
        except BaseException as problem:  # noqa: BLE001 - raised below, in the drill's thread
            problems.append(problem)

    threads = [threading.Thread(target=repeat, args=(act,), daemon=True) for act in acts]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        is_over.set()
        for thread in threads:
            thread.join(WAITS)
    if problems:
        raise problems[0]
