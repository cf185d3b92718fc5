"""How requests leave this network: directly or through a proxy, and which certificates they trust.

The deployment decides it once, for Arize, single sign-on and whatever else sends requests.
"""

from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy that opens tunnels (CONNECT).

    `url` has no user name and password, so no object or error of a library holds them. `authorization` is the value of
    the header Proxy-Authorization, or empty.
    """

    url: str
    authorization: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Network:
    """`direct`: base URLs that are reached without the proxy. `ca_bundle`: a PEM file of additional certificates."""

    proxy: Proxy | None = None
    direct: frozenset[str] = frozenset()
    ca_bundle: str = ""

    def proxy_for(self, url: str) -> Proxy | None:
        """None for plain http: a proxy would not tunnel it, but read it and answer in the name of the target."""
        parts = urlsplit(url)
        if parts.scheme.lower() != "https" or f"https://{parts.netloc.lower()}" in self.direct:
            return None
        return self.proxy
