"""Who listens where on this machine, as Linux tells it."""

import ipaddress
from pathlib import Path

_LISTEN = "0A"


def addresses(port: int) -> set[str]:
    """The local addresses that a TCP port is listened on, such as 127.0.0.1, or 0.0.0.0 for all of them."""
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, _, local_port = local.partition(":")
            if state == _LISTEN and int(local_port, 16) == port:
                host = ipaddress.ip_address(_packed(address))
                # A socket for both protocols may be bound to an address of IPv4.
                found.add(str(getattr(host, "ipv4_mapped", None) or host))
    return found


def _packed(address: str) -> bytes:
    """An address of /proc/net in the network's order: it stands there in words of four bytes, each in the host's order."""
    words = bytes.fromhex(address)
    return b"".join(words[at : at + 4][::-1] for at in range(0, len(words), 4))
