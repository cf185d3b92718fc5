"""Which addresses are public: a host that must be public may resolve to no other."""

import ipaddress
import socket

_ENDS_WITH_IPV4 = [ipaddress.IPv6Network(network) for network in ("::/96", "64:ff9b::/96", "64:ff9b:1::/48")]


def is_public(address: str) -> bool:
    """True for global unicast addresses only. Embedded IPv4 addresses are checked too."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    return all(it.is_global and not it.is_multicast for it in (ip, *_inside(ip)))


def is_private_by_name(host: str) -> bool:
    """Whether a host name says by itself that it is not public: localhost, or a private address in any spelling.

    Resolves nothing. For requests through a proxy, which resolves the name itself.
    """
    name = host.lower().strip("[]").rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return not is_public(name)
    except ValueError:
        pass  # not an address in its usual spelling
    try:
        return not is_public(socket.inet_ntoa(socket.inet_aton(name)))  # such as 127.1, 0x7f000001 or 2130706433
    except (OSError, UnicodeError):
        return False


def _inside(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses embedded in an IPv6 address: mapped, compatible, 6to4, NAT64 (RFC 6052), Teredo."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    at_the_end = [ipaddress.IPv4Address(ip.packed[12:])] if any(ip in network for network in _ENDS_WITH_IPV4) else []
    return [it for it in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ()), *at_the_end) if it is not None]
