"""People with browsers: they sign in, click Cancel, cancel in bulk, pull the emergency stop and keep boards open."""

import html
import re
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle

import requests

from tests.chaos.panel import PASSWORD, email
from tests.chaos.record import Click

WAITS = 40.0  # seconds that a person waits for an answer
_ROW = re.compile(r'data-run-id="([^"]*)"\s+data-status="([^"]*)"')
_SEARCHED = re.compile(r'data-searched-at="([^"]+)"')
_NEXT = re.compile(r'href="([^"]+)"\s+rel="next"')


class NotSignedIn(Exception):
    pass


@dataclass
class Board:
    """`searched_at`: what the fragment claims, seconds since 1970; None if it claims nothing."""

    statuses: dict[str, str]
    searched_at: float | None


class Person:
    """One person in one browser. Each request goes to the next web process."""

    def __init__(self, name: str, urls: list[str]) -> None:
        self.name = name
        self._urls = cycle(urls)
        self._session = requests.Session()

    def sign_in(self) -> None:
        """Raises NotSignedIn, or OSError without a web process."""
        url = f"{next(self._urls)}/accounts/login/"
        self._session.get(url, timeout=WAITS)
        fields = {"login": email(self.name), "password": PASSWORD, "csrfmiddlewaretoken": self._token()}
        answer = self._session.post(url, fields, allow_redirects=False, timeout=WAITS)
        if answer.status_code != 302:
            raise NotSignedIn(f"{self.name}: {answer.status_code} {answer.text[:300]}")

    def click_cancel(self, team: str, run: str, run_uuid: str, reason: str) -> Click:
        path = f"/teams/{team}/runs/{run_uuid}/cancel/"
        fields = {"confirmed": "1", "reason": reason}
        answer = self._answer(path, fields, {"HX-Request": "true", "HX-Target": f"run-{run_uuid}"})
        if answer is None:
            return Click(self.name, run, reason, 0)
        return Click(self.name, run, reason, answer.status_code, "being sent to Arize" in answer.text)

    def cancel_matching(self, team: str, query: dict[str, str], reason: str) -> str:
        """Cancel all runs that match. Returns the batch's path, empty if there is none or no answer."""
        status, location = self._post(f"/teams/{team}/batches/", {"match": "all", **query})
        if status != 302:
            return ""
        path = re.sub(r"^https?://[^/]+", "", location)
        page = self._get(path)
        typed = re.search(r"Type (\d+) to confirm", page)
        count = {"count": typed[1]} if typed else {}
        self._post(f"{path}confirm/", {"reason": reason, **count})
        return path

    def pull_stop(self, team: str) -> int:
        return self._post(f"/teams/{team}/stop/", {"reason": "chaos"})[0]

    def board(self, team: str, *, most_pages: int = 1) -> Board | None:
        """The board's table as this person sees it. None without an answer."""
        statuses: dict[str, str] = {}
        path, searched = f"/teams/{team}/runs/table/", None
        for number in range(most_pages):
            page = self._get(path)
            if 'id="board-table"' not in page:
                return None
            statuses |= {html.unescape(run): status for run, status in _ROW.findall(page)}
            claimed = _SEARCHED.search(page)
            if number == 0 and claimed is not None:
                searched = datetime.fromisoformat(claimed[1]).timestamp()
            following = _NEXT.search(page)
            if following is None:
                break
            path = f"/teams/{team}/runs/table/?{html.unescape(following[1]).partition('?')[2]}"
        return Board(statuses, searched)

    def is_served(self) -> bool:
        """Whether every web process says that it is ready."""
        return all(self._get("/readyz").startswith("ok") for _ in range(4))

    def _get(self, path: str) -> str:
        try:
            answer = self._session.get(f"{next(self._urls)}{path}", timeout=WAITS, headers={"HX-Request": "true"})
        except requests.RequestException:
            return ""
        return answer.text if answer.status_code == 200 or path == "/readyz" else ""

    def _post(self, path: str, fields: dict[str, str], headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and location; status 0 without an answer."""
        answer = self._answer(path, fields, headers)
        return (0, "") if answer is None else (answer.status_code, answer.headers.get("Location", ""))

    def _answer(
        self, path: str, fields: dict[str, str], headers: dict[str, str] | None = None
    ) -> requests.Response | None:
        try:
            return self._session.post(
                f"{next(self._urls)}{path}",
                fields,
                headers={"X-CSRFToken": self._token(), **(headers or {})},
                allow_redirects=False,
                timeout=WAITS,
            )
        except requests.RequestException:
            return None

    def _token(self) -> str:
        return next((cookie.value or "" for cookie in self._session.cookies if cookie.name == "csrftoken"), "")
