"""A web of many hosts on loopback that does what the web does at its worst; every request is counted.

Linux answers on all of 127.0.0.0/8, so each host has an address of its own: politeness, robots.txt and failures are told
apart by it. All of them share one event loop, in a thread.
"""

import asyncio
import collections
import datetime
import ipaddress
import itertools
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sd_assets_tests.download.misbehaving import LoopThread, answer

# What a request gets. The connection closes afterwards, unless the behaviour returns KEEP.
Behaviour = Callable[[asyncio.StreamWriter, dict[str, str]], Awaitable[object]]
KEEP = object()

NETWORK = "127.1.0.0/16"  # all hosts of the web are here, and nothing else is
_NOT_FOUND: Behaviour = answer("404 Not Found")


@dataclass
class Host:
    """An address and a port, for http or https.

    Attributes:
        address: on loopback; with `port`, which is 0 until it is up.
        secure: whether it speaks TLS.
        serve: the behaviour for a path, and for how often it was asked for before; None: not found.
        requests: path -> how often it was asked for.
        connections: how many were accepted.
    """

    address: str
    secure: bool
    serve: Callable[[str, int], Behaviour | None]
    port: int = 0
    requests: collections.Counter[str] = field(default_factory=collections.Counter)
    connections: int = 0

    def url(self, path: str, name: str | None = None) -> str:
        """`path` under the address, or under a name that the test has resolved to it."""
        return f"{'https' if self.secure else 'http'}://{name or self.address}:{self.port}{path}"

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._exchange(reader, writer) is KEEP:
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client went away, as it should
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> object:
        first = await reader.readexactly(1)
        if first == b"\x16":  # a TLS handshake, for a host that speaks none
            return await _NOT_FOUND(writer, {})
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
        behaviour = self.serve(path, self.requests[path]) or _NOT_FOUND
        self.requests[path] += 1
        return await behaviour(writer, headers)


class Web(LoopThread):
    """Hosts that come up as they are asked for, and go down together."""

    def __init__(self) -> None:
        super().__init__()
        self.hosts: list[Host] = []
        self._addresses = itertools.islice(ipaddress.ip_network(NETWORK).hosts(), 256, None)

    def host(
        self,
        serve: Callable[[str, int], Behaviour | None],
        context: ssl.SSLContext | None = None,
        address: str | None = None,
        port: int = 0,
    ) -> Host:
        """Another host: at an address of its own, and a port that the kernel chooses, unless they are given.

        Raises:
            OSError: the address and port cannot be had.
        """
        host = Host(address or str(next(self._addresses)), context is not None, serve, port)
        self._run(self._start(host, context))
        self.hosts.append(host)
        return host

    async def _start(self, host: Host, context: ssl.SSLContext | None) -> None:
        # What fails in a handshake is for the client to say, not for this server's log.
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        server = await asyncio.start_server(host.accept, host.address, host.port, ssl=context, backlog=1_024)
        host.port = server.sockets[0].getsockname()[1]
        self._servers.append(server)


class Authority:
    """A certificate authority of the tests.

    Attributes:
        bundle: its own certificate, as a file for the variable `SSL_CERT_FILE`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _common_name("chaos authority")
        self.bundle = folder / "authority.pem"
        own = _certificate(self._name, self._key, self._name, self._key, (-1, 1))
        self.bundle.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def context(
        self, name: str, *, days: tuple[int, int] = (-1, 1), self_signed: bool = False
    ) -> ssl.SSLContext:
        """For a server that goes by `name`; its certificate is valid from one day to another, counted from now."""
        key, subject = ec.generate_private_key(ec.SECP256R1()), _common_name(name)
        issuer = (subject, key) if self_signed else (self._name, self._key)
        made = _certificate(subject, key, *issuer, days, host=name)
        plain = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path = self._folder / f"{name}.pem"
        path.write_bytes(
            made.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(serialization.Encoding.PEM, *plain)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context


def _common_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


def _certificate(
    subject: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuers_key: ec.EllipticCurvePrivateKey,
    days: tuple[int, int],
    host: str | None = None,
) -> x509.Certificate:
    """For `host`; without one, of an authority."""
    now = datetime.datetime.now(datetime.UTC)
    begin, end = (now + datetime.timedelta(days=day) for day in days)
    made = x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(begin).not_valid_after(end)
    extensions: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=host is None, path_length=None), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuers_key.public_key()), False),
    ]
    if host is not None:
        extensions.append((x509.SubjectAlternativeName([x509.DNSName(host)]), False))
    for extension, critical in extensions:
        made = made.add_extension(extension, critical=critical)
    return made.sign(issuers_key, hashes.SHA256())
