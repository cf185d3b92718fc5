"""Send a request to the given address and nowhere else, within a deadline, and return the answer or the failure.

`ask()` lets nothing from requests or urllib3 escape, not even a chained exception: their objects hold the request and
its secret.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, NameResolutionError, NewConnectionError
from urllib3.exceptions import TimeoutError as Urllib3Timeout

from taskruns import __version__

from .connection import POOLS, Call, GetRetry, Hop, PrivateAddress, StaleRetry, call_within, tls_context
from .fence import is_private_by_name
from .network import Network

USER_AGENT = f"taskruns/{__version__}"
# Bytes after decompression. A page of 100 runs is about 50 kB; a single item and an error are far shorter.
LONGEST_PAGE = 2_000_000
LONGEST_ITEM = LONGEST_ERROR = 200_000
_CHUNK = 65_536
_FAULTS = (requests.RequestException, HTTPError, OSError, ValueError)
_NOTHING_SENT = (requests.ConnectTimeout, requests.exceptions.SSLError, ValueError)


@dataclass(frozen=True)
class Timeouts:
    """Seconds. `connect` applies to each address of the host, `read` to each silence of the server, `whole` to the call
    with its retries, if it is shorter than these allow.
    """

    connect: float = 4.0
    read: float = 12.0
    whole: float | None = None

    @property
    def call(self) -> float:
        """The deadline of one whole call, including retries."""
        return self.whole or self.connect + 2 * self.read


@dataclass(frozen=True)
class Egress:
    """How requests leave: everything that the deployment or the destination decides about outbound connections.

    `public_only`: never connect to a private address, whatever the host name resolves to.
    """

    timeouts: Timeouts = Timeouts()
    public_only: bool = False
    network: Network = field(default_factory=Network)


class Failure(Enum):
    """Why a request has no answer. It may have arrived only with NO_ANSWER; otherwise nothing was sent."""

    NO_ANSWER = auto()
    NO_CONNECTION = auto()
    CONNECT_TIMEOUT = auto()
    UNKNOWN_HOST = auto()
    PRIVATE_ADDRESS = auto()
    UNTRUSTED_CERTIFICATE = auto()
    PROXY_UNREACHABLE = auto()
    PROXY_REFUSED = auto()
    PROXY_PASSWORD = auto()
    PROXY_FAILED = auto()
    NOT_FOR_PROXY = auto()


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """`attempts` includes retries; `milliseconds` is the total for all of them.

    `proxy_status`: the status with which the proxy refused.
    """

    why: Failure
    attempts: int
    milliseconds: int
    proxy_status: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of any status. The body is decompressed, and dropped if it is too long."""

    status: int
    body: bytes
    headers: Mapping[str, str]  # case-insensitive
    attempts: int
    milliseconds: int
    is_too_long: bool = False

    @property
    def is_success(self) -> bool:
        return 200 <= self.status <= 299


class Bearer(AuthBase):
    """Holds a secret, so that no local variable, session header or repr does."""

    def __init__(self, secret: str) -> None:
        self.secret = secret

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.secret}"
        return request

    @property
    def fits_a_header(self) -> bool:
        """Whether it is Latin-1 without control characters; anything else about its form is for the server to check."""
        return bool(self.secret.strip()) and all(
            "\x20" <= character <= "\x7e" or "\xa0" <= character <= "\xff" for character in self.secret
        )


class Session(requests.Session):
    """A thread-safe pool of connections to one host. Close it, or use it in `with`.

    `retries`: of a GET. None: only a second attempt if a kept connection turns out to be closed.
    `may_retry` is called before each retry, in the thread of its call.
    """

    def __init__(
        self,
        egress: Egress,
        *,
        auth: Bearer | None = None,
        retries: int | None = 0,
        pool_size: int = 1,
        may_retry: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__()
        self._egress = egress
        self._may_retry = may_retry
        self.trust_env = False  # a .netrc would replace the secret, a proxy would see it
        self.auth = auth
        self.headers["User-Agent"] = USER_AGENT
        retry = StaleRetry.once() if retries is None else GetRetry.times(retries)
        adapter = _Adapter(egress.network, pool_connections=1, pool_maxsize=pool_size, max_retries=retry)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def ask(
        self, method: str, url: str, *, longest: int | None = LONGEST_ITEM, target: str = "", **content: Any
    ) -> Answer | NotAnswered:
        """`content` as in `requests.request`: params, json, data. Failures are returned, not raised.

        `longest`: bytes of a successful answer. A longer one is not read to the end, to save memory and time. None: no
        answer's body is read at all, so that one that hangs or is cut off changes nothing.
        `target`: path and query in printable ASCII, sent as they are. Libraries respell those of `url`.
        """
        with self._call(target) as call:
            try:
                with self._send(method, url, stream=True, **content) as response:
                    return _read(response, call, longest)
            except _FAULTS as error:
                return NotAnswered(_why(error, call), call.attempts, call.milliseconds, call.proxy_status)

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """For libraries that use requests: same restrictions, body already read. Raises OSError, ValueError."""
        with self._call(), self._send(*args, **kwargs | {"stream": True}) as response:
            body = _body(response, LONGEST_PAGE)
            if body is None:
                raise requests.exceptions.ContentDecodingError
            response._content = body  # noqa: SLF001 - where `Response.content` keeps what it has read
            return response

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Never follow a redirect: the secret must not leave its host, and requests fails on a broken Location."""

    def _call(self, target: str = "") -> AbstractContextManager[Call]:
        egress = self._egress
        fence, may_retry = egress.public_only, self._may_retry
        return call_within(egress.timeouts.call, may_retry=may_retry, public_only=fence, target=target)

    def _send(self, *args: Any, **kwargs: Any) -> requests.Response:
        timeouts = self._egress.timeouts
        fixed = {"timeout": (timeouts.connect, timeouts.read), "allow_redirects": False, "verify": True}
        return super().request(*args, **kwargs | fixed)


class NotForProxy(OSError):
    """A host that is private by its name is never requested from the proxy. Nothing was sent."""


class _Adapter(HTTPAdapter):
    """Chooses the way out for each request, and trusts what the deployment trusts."""

    def __init__(self, network: Network, **options: Any) -> None:
        self._network = network
        super().__init__(**options)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=tls_context(self._network.ca_bundle), **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, ssl_context=tls_context(self._network.ca_bundle), **kwargs)
        manager.pool_classes_by_scheme = POOLS
        return manager

    def proxy_headers(self, proxy: str) -> dict[str, str]:  # noqa: ARG002 - requests' signature
        ours = self._network.proxy
        return {"Proxy-Authorization": ours.authorization} if ours and ours.authorization else {}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ARG002 - requests' signature
        """Always. The library's own method would load the usual authorities again for each connection."""
        conn.cert_reqs = "CERT_REQUIRED"

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        url = str(request.url)
        proxy = self._network.proxy and self._network.proxy_for(url)
        if proxy is not None and is_private_by_name(urlsplit(url).hostname or ""):
            raise NotForProxy
        return super().send(request, *args, **kwargs | {"proxies": {"https": proxy.url} if proxy else {}})


def _read(response: requests.Response, call: Call, longest: int | None) -> Answer:
    """Read the body up to the limit.

    If an error response is cut off, its status is enough. A success that is cut off raises: its content is lost.
    """
    is_success = 200 <= response.status_code <= 299
    body: bytes | None = b""
    try:
        if longest is not None:
            body = _body(response, longest if is_success else LONGEST_ERROR)
    except (requests.RequestException, HTTPError, OSError):
        if is_success:
            raise
    return Answer(
        status=response.status_code,
        body=body or b"",
        headers=response.headers,
        attempts=call.attempts,
        milliseconds=call.milliseconds,
        is_too_long=body is None,
    )


def _body(response: requests.Response, longest: int) -> bytes | None:
    """The decompressed body, or None as soon as it is longer than `longest`."""
    body = bytearray()
    for chunk in response.iter_content(_CHUNK):
        body += chunk
        if len(body) > longest:
            return None
    return bytes(body)


def _why(error: Exception, call: Call) -> Failure:
    """Trust the connection's record of whether anything was sent over the exception type.

    For example, a "ProxyError" may also mean that the answer was cut off after the request.
    """
    if isinstance(error, NotForProxy):
        return Failure.NOT_FOR_PROXY
    if not call.sent and call.hop is not Hop.TARGET:
        return _why_no_tunnel(call)
    is_refused = isinstance(_reason(error), NewConnectionError)
    if call.sent or (call.sent is None and not (is_refused or isinstance(error, _NOTHING_SENT))):
        return Failure.NO_ANSWER
    return _why_no_connection(error)


def _why_no_tunnel(call: Call) -> Failure:
    if call.hop is Hop.PROXY:
        return Failure.PROXY_UNREACHABLE
    if call.proxy_status is None:
        return Failure.PROXY_FAILED
    return Failure.PROXY_PASSWORD if call.proxy_status == 407 else Failure.PROXY_REFUSED


def _why_no_connection(error: Exception) -> Failure:
    reason = _reason(error)
    if isinstance(error, requests.exceptions.SSLError):
        return Failure.UNTRUSTED_CERTIFICATE
    if isinstance(reason, PrivateAddress):
        return Failure.PRIVATE_ADDRESS
    if isinstance(reason, NameResolutionError):
        return Failure.UNKNOWN_HOST
    is_slow = isinstance(error, requests.Timeout) or isinstance(reason, Urllib3Timeout)
    is_refused = isinstance(reason, NewConnectionError)
    return Failure.CONNECT_TIMEOUT if is_slow and not is_refused else Failure.NO_CONNECTION


def _reason(error: Exception) -> object:
    """The urllib3 error inside the requests exception."""
    wrapped = error.args[0] if error.args else None
    return getattr(wrapped, "reason", wrapped)
