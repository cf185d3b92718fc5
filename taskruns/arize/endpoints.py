"""Which addresses may receive a key: Arize's own hosts over https, and those that the deployment adds.

An address must equal an allowed one. There is no list of forbidden parts, which could miss one.
"""

import ipaddress
import re
from collections.abc import Collection
from dataclasses import dataclass

_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::(?P<port>[1-9][0-9]{0,4}))?/?",
    re.IGNORECASE | re.ASCII,
)
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_DEFAULT_PORT = {"http": "80", "https": "443"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    url: str
    label: str


# Source: the official Python SDK 8.61.0, constants/config.py and regions.py.
REGIONS: tuple[Endpoint, ...] = (
    Endpoint(url="https://api.arize.com", label="Global"),
    Endpoint(url="https://api.us-east-1b.arize.com", label="United States, east (us-east-1b)"),
    Endpoint(url="https://api.us-central-1a.arize.com", label="United States, central (us-central-1a)"),
    Endpoint(url="https://api.ca-central-1a.arize.com", label="Canada (ca-central-1a)"),
    Endpoint(url="https://api.eu-west-1a.arize.com", label="Europe (eu-west-1a)"),
)
_ARIZE = frozenset(region.url for region in REGIONS)


class EndpointRefused(ValueError):
    """`str(error)` is shown to the user. It omits the address, which may contain a secret."""


def normalise(url: str) -> str:
    """Strip blanks and one trailing slash, lower-case scheme and host, drop the default port.

    Anything other than scheme, host and port is only stripped of blanks, so it equals no allowed address.
    """
    stripped = url.strip(" ")
    parts = _ADDRESS.fullmatch(stripped)
    if parts is None:
        return stripped
    scheme, host, port = parts["scheme"].lower(), parts["host"].lower(), parts["port"]
    return f"{scheme}://{host}" if port in {None, _DEFAULT_PORT[scheme]} else f"{scheme}://{host}:{port}"


def check_endpoint(url: str, *, extra: Collection[str]) -> str:
    """The normalised base url if it is one of Arize's or in `extra`. Raises EndpointRefused otherwise."""
    address = normalise(url)
    if address in _ARIZE or address in {check_extra(allowed) for allowed in extra}:
        return address
    raise EndpointRefused(
        "This address is not allowed. It is neither an Arize region nor listed in this panel's ARIZE_ENDPOINTS. "
        "Choose a region from the list."
    )


def check_extra(url: str) -> str:
    """The normalised form of one configured address.

    Raises EndpointRefused unless it is exactly http or https, a host and optionally a port.
    """
    address = normalise(url)
    parts = _ADDRESS.fullmatch(address)
    if parts is None or not _is_host(parts["host"]) or int(parts["port"] or 1) > 65535:
        raise EndpointRefused(
            "An extra Arize endpoint must be http:// or https://, a host name and optionally a port, "
            "without path, query or user name, for example https://arize-app.example.com."
        )
    return address


def _is_host(host: str) -> bool:
    if not host.startswith("["):
        return len(host) <= 253 and _NAME.fullmatch(host) is not None
    try:
        ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False
    return True
