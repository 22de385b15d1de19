"""Which addresses may be connected to.

A URL of a corpus is written by a stranger: it must not reach the machine this runs on, its network, or the metadata
service of its cloud. Judged is the address that is connected to, whatever name or spelling led there.
"""

import ipaddress
import re
import socket
from collections.abc import Collection, Iterable
from functools import lru_cache

from sd_assets.settings import parse_allowed_address

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# The IANA registries of special-purpose addresses (RFC 6890 and its updates), multicast (RFC 5771), and one address
# that is public by its number, but answers inside a cloud only. The ready-made `is_global` of `ipaddress` has changed
# its mind between patch releases of Python, so the networks are spelled out.
_IPV4 = (
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "cloud metadata"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
)
_IPV6 = (
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("64:ff9b:1::/48", "local NAT64"),
    ("2001::/23", "reserved"),  # Teredo, ORCHID, benchmarking
    ("2001:db8::/32", "documentation"),
    ("3fff::/20", "documentation"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private"),
    ("ff00::/8", "multicast"),
)
_GLOBAL_IPV6 = ipaddress.IPv6Network("2000::/3")  # all that IANA has given out for unicast
_FORBIDDEN = tuple((ipaddress.ip_network(network), label) for network, label in (*_IPV4, *_IPV6))

_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")  # RFC 4291
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_6TO4 = ipaddress.IPv6Network("2002::/16")  # RFC 3056


class AddressPolicy:
    """Public unicast addresses at some ports, and what an entry of the catalogue lists.

    Args:
        allowed: `DownloadSettings.allow_addresses`: networks, each optionally with a port.
        ports: `DownloadSettings.ports`: those of public addresses.
    """

    def __init__(self, allowed: Iterable[str] = (), ports: Collection[int] = (80, 443)) -> None:
        self._ports = ports
        parsed = [parse_allowed_address(text) for text in allowed]
        self._allowed = [(ipaddress.ip_network(network), port) for network, port in parsed]
        # Each URL is judged several times, and some hosts have many URLs.
        self._judged = lru_cache(4096)(self._judge)

    def refusal(self, address: str | Address, port: int) -> str | None:
        """Why `address` may not be connected to at `port`; None if it may."""
        return self._judged(str(address), port)

    def _judge(self, address: str, port: int) -> str | None:
        judged = ipaddress.ip_address(address)
        carried = _embedded(judged)
        for network, allowed_port in self._allowed:
            if allowed_port in (None, port) and (judged in network or (carried and carried in network)):
                return None
        label = _label(judged if carried is None else carried)
        if label is not None:
            return (
                f"{judged} is {label}"
                if carried is None
                else f"{judged} leads to {carried}, which is {label}"
            )
        if port not in self._ports:
            return f"port {port} of {judged} is none of `ports` ({', '.join(map(str, self._ports))})"
        return None


@lru_cache(4096)
def literal_address(host: str) -> Address | None:
    """The address that `host` spells, in any spelling that a system's resolver knows; None for a name.

    `127.0.0.1`, `::1`, and also `2130706433`, `0x7f000001`, `0177.0.0.1`, `127.1` (inet_aton's forms).

    Raises:
        ValueError: `host` ends in a number, so it is no name, but it is no address either (WHATWG URL, "ends in a
            number").
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        bare = host.removesuffix(".")
        if not re.fullmatch(r"[0-9]+|0[xX][0-9A-Fa-f]*", bare.rpartition(".")[2]):
            return None
        try:
            return ipaddress.IPv4Address(socket.inet_aton(bare))
        except OSError:
            raise ValueError(f"{host!r} is neither a name nor an address") from None
    # Without its zone (`fe80::1%eth0`), which is no part of the address.
    return type(address)(int(address))


def _embedded(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to, through the kernel, a gateway or a tunnel."""
    number = int(address)
    if isinstance(address, ipaddress.IPv6Address):
        if address in _MAPPED or address in _NAT64:
            return ipaddress.IPv4Address(number & 0xFFFFFFFF)
        if address in _6TO4:
            return ipaddress.IPv4Address(number >> 80 & 0xFFFFFFFF)
    return None


def _label(address: Address) -> str | None:
    for network, label in _FORBIDDEN:
        if address in network:
            return label
    if isinstance(address, ipaddress.IPv6Address) and address not in _GLOBAL_IPV6:
        return "reserved"
    return None
