"""The networks from which a token works, as people write them."""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_interface

from taskruns.services.user_errors import UserError

MOST_NETWORKS = 50
LONGEST_TYPED = 60  # characters of a wrong entry that its error shows
EXAMPLES = "Write an address or a network, for example 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32."


def checked_networks(typed: Iterable[str]) -> list[str]:
    """The networks in their usual form, each once. Raises UserError."""
    found = list(dict.fromkeys(str(_network(text.strip())) for text in typed if text.strip()))
    if len(found) > MOST_NETWORKS:
        raise UserError(f"These are {len(found)} networks. A token has at most {MOST_NETWORKS}.", field="networks")
    return found


def _network(text: str) -> IPv4Network | IPv6Network:
    shown = text if len(text) <= LONGEST_TYPED else f"{text[:LONGEST_TYPED]}…"
    try:
        given = ip_interface(text)
    except ValueError:
        raise UserError(f"“{shown}” is neither an address nor a network. {EXAMPLES}", field="networks") from None
    if getattr(given, "scope_id", None):
        raise UserError(f"“{shown}” names an interface of one machine. {EXAMPLES}", field="networks")
    if getattr(given.ip, "ipv4_mapped", None):
        raise UserError(f"“{shown}” is an IPv4 address in IPv6. Write it as IPv4. {EXAMPLES}", field="networks")
    if given.ip != given.network.network_address:
        raise UserError(
            f"“{shown}” is an address inside a network. Write {given.network} for the whole network, or {given.ip} for "
            "the one address.",
            field="networks",
        )
    return given.network
