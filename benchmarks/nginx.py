"""nginx on loopback, with the files of a folder: `with serving(folder) as urls:`. Linux only, for its many addresses."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# As many hosts as a downloader would meet on the web, more or less: it asks each of them for few images at once.
ADDRESSES = tuple(f"127.0.0.{number}" for number in range(1, 17))
NETWORK = "127.0.0.0/8"
REMEDY = "install it (Debian: apt-get install --no-install-recommends nginx-light)"
_START_S = 10.0

_CONFIGURATION = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
{user}
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    types {{ image/jpeg jpg; image/png png; image/webp webp; text/plain txt; }}
    client_body_temp_path temporary; proxy_temp_path temporary; fastcgi_temp_path temporary;
    uwsgi_temp_path temporary; scgi_temp_path temporary;
    server {{
        {listen}
        root "{folder}";
    }}
}}
"""


def find_nginx() -> str | None:
    """The program, on the PATH or where Debian puts it; None if there is none."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/sbin")


def nginx_version() -> str:
    """Such as 1.22.1. Raises RuntimeError if there is none."""
    said = subprocess.run([_program(), "-v"], stderr=subprocess.PIPE, text=True, check=True).stderr
    return said.rpartition("/")[2].strip()


def _program() -> str:
    program = find_nginx()
    if program is None:
        raise RuntimeError(f"there is no nginx: {REMEDY}")
    return program


@contextmanager
def serving(folder: Path, addresses: Sequence[str] = ADDRESSES) -> Iterator[list[str]]:
    """Serve the files of a folder while the block runs; what is not there, such as a robots.txt, is a 404.

    Yields:
        the URLs of the servers, one an address, all with the same files.

    Raises:
        RuntimeError: there is no nginx, or it did not start.
    """
    program = _program()
    port = _free_port(addresses)
    servers = [f"http://{address}:{port}" for address in addresses]
    with tempfile.TemporaryDirectory(prefix="sd_assets-nginx-") as own:
        (Path(own) / "nginx.conf").write_text(
            _CONFIGURATION.format(
                # Started by root it would become another user, who may not read the folder.
                user="user root root;" if os.geteuid() == 0 else "",
                listen=" ".join(f"listen {address}:{port} backlog=1024;" for address in addresses),
                folder=folder.resolve(),
            )
        )
        command = [program, "-p", own, "-c", "nginx.conf", "-e", "stderr"]
        with (Path(own) / "log").open("w+b") as log, subprocess.Popen(command, stderr=log) as process:
            try:
                _wait(process, servers[-1], log.name)
                yield servers
            finally:
                process.terminate()


def _free_port(addresses: Sequence[str]) -> int:
    """A port that is free at the first address; at the others it is then, too, but for a rare accident."""
    with socket.socket() as probe:
        probe.bind((addresses[0], 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(process: subprocess.Popen[bytes], server: str, log: str) -> None:
    """Until it accepts connections."""
    host, _, port = server.removeprefix("http://").rpartition(":")
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"nginx did not start:\n{Path(log).read_text()}")
