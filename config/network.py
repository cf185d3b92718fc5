"""EGRESS_PROXY, NO_PROXY and CA_BUNDLE: how requests leave the network of a deployment."""

import base64
import ipaddress
from collections.abc import Collection
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from taskruns.arize.endpoints import check_extra
from taskruns.outbound import Network, Proxy, tls_context

from . import environment as env

_DEFAULT_PORT = {"http": 80, "https": 443}


def of_environment(endpoints: Collection[str]) -> Network:
    """`endpoints`: ARIZE_ENDPOINTS. Only these hosts can be exempt from the proxy."""
    proxy = _proxy()
    return Network(proxy=proxy, direct=_direct(endpoints) if proxy else frozenset(), ca_bundle=_ca_bundle())


def _proxy() -> Proxy | None:
    url = env.text("EGRESS_PROXY", "")
    if not url:
        return None
    rule = "must look like http://user:password@proxy.example.com:3128. Percent-encode special characters."
    with env.checked("EGRESS_PROXY", rule):
        split = urlsplit(url)
        user, _, address = split.netloc.rpartition("@")
        if split.scheme != "http" or split.path not in {"", "/"} or split.query or split.fragment:
            raise ValueError
        return Proxy(check_extra(f"http://{address}"), _authorization(user))


def _authorization(user: str) -> str:
    """The value of Proxy-Authorization for `user:password`, which are percent-encoded in a URL."""
    if not user:
        return ""
    name, _, password = (unquote(part, errors="strict") for part in user.partition(":"))
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def _direct(endpoints: Collection[str]) -> frozenset[str]:
    entries = [entry.lower() for entry in env.parts("NO_PROXY")]
    return frozenset(url for url in endpoints if any(_names(entry, urlsplit(url)) for entry in entries))


def _names(entry: str, url: SplitResult) -> bool:
    """Whether an entry of NO_PROXY names this host: `*`, a host, a domain, an address or a network, also with a port.

    Other programs read the variable too, so an entry that the panel does not understand is no error.
    """
    host = url.hostname or ""
    if entry == "*":
        return True
    try:
        if "/" in entry:
            return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
        if entry.count(":") > 1 and not entry.startswith("["):
            entry = f"[{entry}]"
        named = urlsplit(f"//{entry}")
        port = named.port or url.port or _DEFAULT_PORT[url.scheme]
    except ValueError:
        return False
    name = (named.hostname or "").removeprefix("*").removeprefix(".")
    is_named = bool(name) and (host == name or host.endswith(f".{name}"))
    return is_named and port == (url.port or _DEFAULT_PORT[url.scheme])


def _ca_bundle() -> str:
    path = env.text("CA_BUNDLE", "")
    if not path:
        return ""
    with env.checked("CA_BUNDLE", "must name a readable file with certificates in PEM format."):
        absolute = str(Path(path).absolute())
        tls_context(absolute)
    return absolute
