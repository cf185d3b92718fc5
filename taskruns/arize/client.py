"""Arize's REST API v2, one method per endpoint.

Every failure is an ArizeError. It is never chained to a library's exception, which could hold the request and its key.
"""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, TypeVar
from urllib.parse import quote

from taskruns.arize.endpoints import normalise
from taskruns.arize.errors import BadRequest, HalfAsked, Unauthorized, Unreadable, error_for, error_without_answer
from taskruns.arize.paging import Identified, Page
from taskruns.arize.triggers import Wanted
from taskruns.arize.values import one_line, read_request_id, without_key
from taskruns.arize.wire import RunStatus, WireApiKey, WireRun, WireSpace, WireTask, WireUser
from taskruns.outbound import (
    LONGEST_ITEM,
    LONGEST_PAGE,
    Answer,
    Bearer,
    Egress,
    Network,
    NotAnswered,
    Session,
    Timeouts,
)

__all__ = ["ArizeClient", "RawAnswer", "Timeouts"]

T = TypeVar("T")
Item = TypeVar("Item", bound=Identified)

_DEFAULT_TIMEOUTS = Timeouts()
_NO_PROXY = Network()
# Objects, lists and their members in one answer. A page of 100 runs has about 3,000; 2 MB of `{},` has 700,000, which
# would cost fifty times their bytes in memory.
MOST_VALUES = 200_000


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An answer of any status as Arize gave it, but for its key: every piece of it is redacted."""

    status: int
    body: bytes
    content_type: str
    retry_after: str
    request_id: str

    @property
    def is_success(self) -> bool:
        return 200 <= self.status <= 299


class StatusCasing:
    """Which endpoints still need a lower-case status filter (self-hosted ones from before July 2026).

    Remembers what worked last and starts with upper case. Thread-safe.
    """

    def __init__(self) -> None:
        self._lower: set[str] = set()
        self._lock = threading.Lock()

    def spellings(self, endpoint: str, status: RunStatus) -> tuple[str, str]:
        """The likelier spelling first."""
        with self._lock:
            is_lower = endpoint in self._lower
        upper, lower = status.value.upper(), status.value.lower()
        return (lower, upper) if is_lower else (upper, lower)

    def worked(self, endpoint: str, spelling: str) -> None:
        with self._lock:
            if spelling.islower():
                self._lower.add(endpoint)
            else:
                self._lower.discard(endpoint)


class ArizeClient:
    """Calls one endpoint with one key. Safe to share between threads; close it, or use it in `with`.

    `calls` counts every HTTP request attempted, including retries; `limited` counts the 429 answers.
    `may_retry` is called before each retry, in the thread of the call, so a rate limit per key can refuse it.
    `public_only`: never connect to a private address, whatever the host name resolves to. `network`: the proxy and the
    certificates of the deployment.
    `get_retries`: None for a client that is kept: a second attempt only if a kept connection was closed.
    """

    _casing: ClassVar[StatusCasing] = StatusCasing()

    def __init__(
        self,
        endpoint: str,
        key: str,
        *,
        timeouts: Timeouts = _DEFAULT_TIMEOUTS,
        get_retries: int | None = 2,
        pool_size: int = 8,
        public_only: bool = False,
        network: Network = _NO_PROXY,
        may_retry: Callable[[], bool] = lambda: True,
    ) -> None:
        self.endpoint = normalise(endpoint)
        self.calls = self.limited = 0
        # What the audit log stores about the last success; errors carry the same. Not for concurrent callers.
        self.facts: dict[str, Any] = {}
        self._calls_lock = threading.Lock()
        self._egress = Egress(timeouts, public_only=public_only, network=network)
        self._bearer = Bearer(key)
        self._may_retry = may_retry
        self._reads = self._session(retries=get_retries, pool_size=pool_size, may_retry=may_retry)

    def __repr__(self) -> str:
        return f"<ArizeClient {self.endpoint}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._reads.close()

    def list_spaces(self, *, limit: int = 100, cursor: str | None = None) -> Page[WireSpace]:
        """GET /v2/spaces; with limit=1 it is the cheapest check of a key."""
        params = {"limit": limit, "cursor": cursor}
        return self._list("spaces", params=params, read=_page("spaces", WireSpace.from_json))

    def list_tasks(self, *, space_id: str | None = None, limit: int = 100, cursor: str | None = None) -> Page[WireTask]:
        """GET /v2/tasks; without a space, the tasks of every space that the key can read."""
        params = {"space_id": space_id, "limit": limit, "cursor": cursor}
        return self._list("tasks", params=params, read=_page("tasks", WireTask.from_json))

    def list_runs(
        self, task_id: str, *, status: RunStatus | None = None, limit: int = 100, cursor: str | None = None
    ) -> Page[WireRun]:
        """GET /v2/tasks/{id}/runs, newest first.

        If the host rejects the filter's case, try the other case once and remember it if it works. Raises HalfAsked if
        the rate limit leaves no call for that.
        """
        if status is None:
            return self._runs(task_id, limit=limit, cursor=cursor)
        likely, other = self._casing.spellings(self.endpoint, status)
        try:
            return self._runs(task_id, status=likely, limit=limit, cursor=cursor)
        except BadRequest as error:
            rejected = error
        if not self._may_retry():
            raise HalfAsked(
                status=rejected.status,
                title=rejected.title,
                detail=rejected.detail,
                request_id=rejected.request_id,
                milliseconds=rejected.milliseconds,
            )
        try:
            page = self._runs(task_id, status=other, limit=limit, cursor=cursor)
        except BadRequest:
            raise rejected from None
        self._casing.worked(self.endpoint, other)
        return page

    def get_run(self, run_id: str) -> WireRun:
        """GET /v2/task-runs/{id}. Compare `.id`: it is the id that Arize returned, not the one requested."""
        return self._get("task-runs", run_id, read=WireRun.from_json)

    def get_user(self, user_id: str) -> WireUser:
        """GET /v2/users/{id}. A key that may not read users gets 404 or 403, the same as for a user who left."""
        return self._get("users", user_id, read=WireUser.from_json)

    def list_api_keys(self, *, space_id: str | None = None, cursor: str | None = None) -> Page[WireApiKey]:
        """GET /v2/api-keys: the caller's own active keys; with a space, its service keys if the key may read them."""
        params = {"space_id": space_id, "limit": 100, "cursor": cursor}
        return self._list("api-keys", params=params, read=_page("api_keys", WireApiKey.from_json))

    def may_be_own_key(self, listed: WireApiKey) -> bool:
        """Whether a listed key may be the one that this client uses."""
        return listed.may_be(self._bearer.secret)

    def cancel_run(self, run_id: str) -> WireRun:
        """POST /v2/task-runs/{id}/cancel."""
        return self._post("task-runs", run_id, "cancel", read=WireRun.from_json)

    def trigger_run(self, task_id: str, wanted: Wanted) -> WireRun:
        """POST /v2/tasks/{id}/trigger; 201 with the new run, PENDING.

        The kind must match the task: Arize rejects the fields of the other kind.
        """
        return self._post("tasks", task_id, "trigger", read=WireRun.from_json, body=wanted.as_json())

    def forward(self, path: Sequence[str], query: str) -> RawAnswer:
        """GET this path below /v2. `query` is sent as it is, in printable ASCII without `#`.

        Raises ArizeError if there is no answer, if a successful one is longer than LONGEST_PAGE, for a redirect, and
        for a status that no final answer has, like 103 or 999.
        """
        self._check_key()
        target = f"/v2/{'/'.join(map(_path_segment, path))}" + (f"?{query}" if query else "")
        answer = self._reads.ask("GET", self.endpoint + target, longest=LONGEST_PAGE, target=target)
        self._count(answer)
        if isinstance(answer, NotAnswered):
            raise error_without_answer(answer, connect=self._egress.timeouts.connect)
        if not (answer.is_success or 400 <= answer.status <= 599):
            raise error_for(answer, secret=self._bearer.secret)
        if answer.is_success and answer.is_too_long:
            raise Unreadable(status=answer.status, milliseconds=answer.milliseconds)
        return self._raw(answer)

    def _raw(self, answer: Answer) -> RawAnswer:
        secret, headers = self._bearer.secret, answer.headers
        return RawAnswer(
            status=answer.status,
            body=without_key(answer.body, secret),
            content_type=one_line(headers.get("content-type"), 200, secret),
            retry_after=one_line(headers.get("retry-after"), 60, secret),
            request_id=read_request_id(headers, secret=secret) or "",
        )

    def _runs(self, task_id: str, **params: str | int | None) -> Page[WireRun]:
        return self._list("tasks", task_id, "runs", params=params, read=_page("task_runs", WireRun.from_json))

    def _get(self, *path: str, read: Callable[[object], T]) -> T:
        return self._call(self._reads, "GET", path, read=read)

    def _list(self, *path: str, read: Callable[[object], T], params: Mapping[str, str | int | None]) -> T:
        return self._call(self._reads, "GET", path, read=read, params=params, longest=LONGEST_PAGE)

    def _post(self, *path: str, read: Callable[[object], T], body: Mapping[str, Any] | None = None) -> T:
        """Send once, on a new connection: if Arize closed a reused one, we cannot tell whether the request arrived."""
        with self._session() as session:
            return self._call(session, "POST", path, read=read, body=body)

    def _session(self, **how: Any) -> Session:
        session = Session(self._egress, auth=self._bearer, **how)
        session.headers["Accept"] = "application/json"
        return session

    def _call(
        self,
        session: Session,
        method: str,
        path: tuple[str, ...],
        *,
        read: Callable[[object], T],
        params: Mapping[str, str | int | None] | None = None,
        body: Mapping[str, Any] | None = None,
        longest: int = LONGEST_ITEM,
    ) -> T:
        """Every call to Arize goes through here: send, pass the JSON to `read`, or raise an ArizeError."""
        self._check_key()
        url = f"{self.endpoint}/v2/{'/'.join(map(_path_segment, path))}"
        sent = {name: _sendable(str(value)) for name, value in (params or {}).items() if value is not None}
        answer = session.ask(method, url, params=sent, json=body, longest=longest)
        self._count(answer)
        if isinstance(answer, NotAnswered):
            raise error_without_answer(answer, connect=self._egress.timeouts.connect)
        if not answer.is_success:
            raise error_for(answer, secret=self._bearer.secret)
        request_id = read_request_id(answer.headers, secret=self._bearer.secret)
        self.facts = {
            "http_status": answer.status,
            "arize_request_id": request_id,
            "milliseconds": answer.milliseconds,
        }
        answer = replace(answer, body=without_key(answer.body, self._bearer.secret))
        return _read(answer, read, request_id=request_id)

    def _count(self, answer: Answer | NotAnswered) -> None:
        with self._calls_lock:
            self.calls += answer.attempts
            self.limited += isinstance(answer, Answer) and answer.status == 429

    def _check_key(self) -> None:
        if not self._bearer.fits_a_header:
            raise Unauthorized(
                "This API key is empty or contains a character that no key has, for example a line break. "
                "Nothing was sent. Copy the key from Arize again and replace it here."
            )


def _read(answer: Answer, read: Callable[[object], T], *, request_id: str | None) -> T:
    """Pass the JSON to `read`. Raises Unreadable, never chained to an exception that holds the body."""
    try:
        if not answer.is_too_long and sum(map(answer.body.count, (b"{", b"[", b","))) <= MOST_VALUES:
            return read(json.loads(answer.body))
    except (ValueError, RecursionError, Unreadable):
        pass  # raised below, so that no parser exception is chained
    raise Unreadable(status=answer.status, request_id=request_id, milliseconds=answer.milliseconds)


def _path_segment(part: str) -> str:
    """An id as one path segment. Raises BadRequest if it cannot be one.

    `.` and `..` cannot: libraries and proxies resolve them in any encoding.
    """
    quoted = "" if "\0" in part else quote(_sendable(part), safe="")
    if quoted in {"", ".", ".."}:
        raise _not_sendable()
    return quoted


def _sendable(text: str) -> str:
    """The text itself; raises BadRequest if UTF-8 cannot encode it (a lone surrogate)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _not_sendable() from None
    return text


def _not_sendable() -> BadRequest:
    return BadRequest(
        "This ID or cursor cannot come from Arize. Nothing was sent. Open the run or task from the board."
    )


def _page(member: str, item: Callable[[object], Item]) -> Callable[[object], Page[Item]]:
    return lambda data: Page.from_json(data, member=member, item=item)
