"""Arize's REST API v2, one method an endpoint. The only file that imports requests.

Every failure is an ArizeError; nothing of requests or urllib3 gets out, not even as a chained exception:
their objects hold the request with its key.
"""

import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self, TypeVar

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError
from urllib3.exceptions import TimeoutError as Urllib3Timeout

from taskruns import __version__
from taskruns.arize.answers import Answer, path_segment, sendable
from taskruns.arize.api_keys import WireApiKey
from taskruns.arize.casing import StatusCasing
from taskruns.arize.endpoints import normalise
from taskruns.arize.errors import ArizeError, BadRequest, NoAnswer, NotSent, Unauthorized
from taskruns.arize.transport import POOLS, Call, GetRetry, PrivateAddress, Timeouts, call_within
from taskruns.arize.triggers import EvaluationTrigger, ExperimentTrigger
from taskruns.arize.wire import Identified, Page, RunStatus, WireRun, WireSpace, WireTask, WireUser

__all__ = ["ArizeClient", "Timeouts"]

T = TypeVar("T")
Item = TypeVar("Item", bound=Identified)

USER_AGENT = f"taskruns/{__version__}"
LONGEST_ANSWER = 20_000_000  # bytes after decompression; a page of 100 runs is about 50 kB
_CHUNK = 65_536
_PATIENT = Timeouts()
_NOTHING_SENT = (requests.ConnectTimeout, requests.exceptions.SSLError, ValueError)


class ArizeClient:
    """Calls one endpoint with one key. Safe to share between threads; close it, or use it in `with`.

    `calls` counts every HTTP request attempted, retries included; `limited` those that Arize answered with 429.
    `may_retry` is asked before each retry, in the thread of its call: a ceiling per key can refuse it. `public_only`:
    whatever the host's name leads to, no private address is called.
    """

    _casing: ClassVar[StatusCasing] = StatusCasing()

    def __init__(
        self,
        endpoint: str,
        key: str,
        *,
        timeouts: Timeouts = _PATIENT,
        get_retries: int = 2,
        pool_size: int = 8,
        public_only: bool = False,
        may_retry: Callable[[], bool] = lambda: True,
    ) -> None:
        self.endpoint = normalise(endpoint)
        self.calls = self.limited = 0
        self._public_only = public_only
        self.facts: dict[str, Any] = {}  # of the last answer that was a success, for a caller with one thread
        self._calls_lock = threading.Lock()
        self._timeouts = timeouts
        self._may_retry = may_retry
        self._bearer = _Bearer(key)
        self._reads = _session(self._bearer, retries=get_retries, pool_size=pool_size)

    def __repr__(self) -> str:
        return f"<ArizeClient {self.endpoint}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reads.close()

    def list_spaces(self, *, limit: int = 100, cursor: str | None = None) -> Page[WireSpace]:
        """GET /v2/spaces; with limit=1 also the cheapest check of a key."""
        params = {"limit": limit, "cursor": cursor}
        return self._get("spaces", params=params, read=_page("spaces", WireSpace.from_json))

    def list_tasks(self, *, space_id: str | None = None, limit: int = 100, cursor: str | None = None) -> Page[WireTask]:
        """GET /v2/tasks; without a space, of every space that the key can read."""
        params = {"space_id": space_id, "limit": limit, "cursor": cursor}
        return self._get("tasks", params=params, read=_page("tasks", WireTask.from_json))

    def list_runs(
        self, task_id: str, *, status: RunStatus | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[WireRun]:
        """GET /v2/tasks/{id}/runs, newest first. A host that refuses the filter in upper case is asked
        once more in lower case, and remembered if that works; the other way round if it was upgraded since.
        """
        if status is None:
            return self._runs(task_id, limit=limit, cursor=cursor)
        likely, other = self._casing.spellings(self.endpoint, status)
        try:
            return self._runs(task_id, status=likely, limit=limit, cursor=cursor)
        except BadRequest as error:
            refused = error
        try:
            page = self._runs(task_id, status=other, limit=limit, cursor=cursor)
        except BadRequest:
            raise refused from None
        self._casing.worked(self.endpoint, other)
        return page

    def get_run(self, run_id: str) -> WireRun:
        """GET /v2/task-runs/{id}. Compare `.id`: it is what Arize answered, not what was asked."""
        return self._get("task-runs", run_id, read=WireRun.from_json)

    def get_user(self, user_id: str) -> WireUser:
        """GET /v2/users/{id}. A key without the right to read people meets 404 (or 403), as for one who left."""
        return self._get("users", user_id, read=WireUser.from_json)

    def list_api_keys(self, *, space_id: str | None = None, cursor: str | None = None) -> Page[WireApiKey]:
        """GET /v2/api-keys: the caller's own active keys; with a space its service keys, where the key may."""
        params = {"space_id": space_id, "limit": 100, "cursor": cursor}
        return self._get("api-keys", params=params, read=_page("api_keys", WireApiKey.from_json))

    def is_itself(self, listed: WireApiKey) -> bool:
        """Whether a listed key can be the one that this client calls with."""
        return listed.shortens(self._bearer.key)

    def cancel_run(self, run_id: str) -> WireRun:
        """POST /v2/task-runs/{id}/cancel."""
        return self._post("task-runs", run_id, "cancel", read=WireRun.from_json)

    def trigger_run(self, task_id: str, wanted: EvaluationTrigger | ExperimentTrigger) -> WireRun:
        """POST /v2/tasks/{id}/trigger; 201 with the new run, PENDING. The kind must be the task's: Arize refuses
        fields of the other one.
        """
        return self._post("tasks", task_id, "trigger", read=WireRun.from_json, body=wanted.as_json())

    def _runs(self, task_id: str, **params: str | int | None) -> Page[WireRun]:
        return self._get("tasks", task_id, "runs", params=params, read=_page("task_runs", WireRun.from_json))

    def _get(
        self,
        *path: str,
        read: Callable[[object], T],
        params: Mapping[str, str | int | None] | None = None,
    ) -> T:
        return self._call(self._reads, "GET", path, read=read, params=params)

    def _post(self, *path: str, read: Callable[[object], T], body: Mapping[str, Any] | None = None) -> T:
        """Once, on a connection of its own: on a kept one, closed by Arize in the meantime, nobody could tell
        whether the request arrived.
        """
        with _session(self._bearer, retries=0, pool_size=1) as session:
            return self._call(session, "POST", path, read=read, body=body)

    def _call(
        self,
        session: requests.Session,
        method: str,
        path: tuple[str, ...],
        *,
        read: Callable[[object], T],
        params: Mapping[str, str | int | None] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> T:
        """The one way to Arize: sends, and makes of the answer what `read` makes of its JSON, or raises."""
        self._check_key()
        url = f"{self.endpoint}/v2/{'/'.join(map(path_segment, path))}"
        sent = {name: sendable(str(value)) for name, value in (params or {}).items() if value is not None}
        started = time.monotonic()
        outcome = self._send(partial(session.request, method, url, params=sent, json=body))
        milliseconds = round((time.monotonic() - started) * 1000)
        if isinstance(outcome, ArizeError):
            outcome.milliseconds = milliseconds
            raise outcome
        if not outcome.is_success:
            raise outcome.refusal(milliseconds=milliseconds, secret=self._bearer.key)
        self.facts = outcome.facts(milliseconds=milliseconds, secret=self._bearer.key)
        return outcome.read(read, milliseconds=milliseconds, secret=self._bearer.key)

    def _send(self, request: Callable[..., requests.Response]) -> Answer | ArizeError:
        """Returns an error, so that it is raised outside the `except` and chains nothing of the library's."""
        with call_within(self._timeouts.call, may_retry=self._may_retry, public_only=self._public_only) as call:
            status = None
            try:
                response = request(
                    timeout=(self._timeouts.connect, self._timeouts.read),
                    allow_redirects=False,
                    verify=True,
                    stream=True,
                )
                status = response.status_code
                with response:
                    return _take(response)
            except (requests.RequestException, HTTPError, OSError, ValueError) as error:
                return _failure(error, call, self._timeouts)
            finally:
                self._count(call.attempts, limited=status == 429)

    def _count(self, attempts: int, *, limited: bool) -> None:
        with self._calls_lock:
            self.calls += attempts
            self.limited += limited

    def _check_key(self) -> None:
        if not self._bearer.fits_a_header:
            raise Unauthorized(
                "This API key is empty or holds characters that no key has (a line break, for example), "
                "so nothing was sent. Copy it from Arize again and replace it."
            )


class _Bearer(AuthBase):
    """Holds the key, so that no local variable, header table of a session or repr does."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.key}"
        return request

    @property
    def fits_a_header(self) -> bool:
        """Latin-1 without control characters; the shape of a key is Arize's business."""
        return bool(self.key.strip()) and all(
            "\x20" <= character <= "\x7e" or "\xa0" <= character <= "\xff" for character in self.key
        )


class _Session(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """Not even looked at: requests would parse a broken Location, and the key stays with its host."""


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS


def _session(bearer: _Bearer, *, retries: int, pool_size: int) -> requests.Session:
    session = _Session()
    session.trust_env = False  # a .netrc would replace the key, a proxy variable would see it
    session.auth = bearer
    session.headers.update({"Accept": "application/json", "User-Agent": USER_AGENT})
    adapter = _Adapter(pool_connections=1, pool_maxsize=pool_size, max_retries=GetRetry.times(retries))
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _take(response: requests.Response) -> Answer:
    """Reads the body up to the limit. Of a refusal cut on its way the status is enough; a success so cut
    raises, because what it said is lost.
    """
    body = bytearray()
    try:
        for chunk in response.iter_content(_CHUNK):
            body += chunk
            if len(body) > LONGEST_ANSWER:
                return Answer(response.status_code, b"", response.headers, is_too_long=True)
    except (requests.RequestException, HTTPError, OSError):
        if 200 <= response.status_code <= 299:
            raise
        body.clear()
    return Answer(response.status_code, bytes(body), response.headers)


def _failure(error: Exception, call: Call, timeouts: Timeouts) -> ArizeError:
    """The connection's word on whether anything was sent stands above the kind of the exception."""
    reason = _reason(error)
    is_slow = isinstance(error, requests.Timeout) or isinstance(reason, Urllib3Timeout)
    is_refused = isinstance(reason, NewConnectionError)
    if call.sent or (call.sent is None and not (is_refused or isinstance(error, _NOTHING_SENT))):
        return NoAnswer()
    if isinstance(error, requests.exceptions.SSLError):
        return NotSent(NotSent.not_trusted)
    if isinstance(reason, PrivateAddress):
        return NotSent(NotSent.private)
    if isinstance(reason, NameResolutionError):
        return NotSent(NotSent.not_found)
    if is_slow and not is_refused:
        return NotSent(
            f"Arize accepted no connection within {timeouts.connect:g} seconds, so nothing was sent. "
            "Check the endpoint and the network, then try again."
        )
    return NotSent()


def _reason(error: Exception) -> object:
    """What urllib3 says under requests' wrapping."""
    wrapped = error.args[0] if error.args else None
    return getattr(wrapped, "reason", wrapped)


def _page(member: str, item: Callable[[object], Item]) -> Callable[[object], Page[Item]]:
    return lambda data: Page.from_json(data, member=member, item=item)
