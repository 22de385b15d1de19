"""A PostgreSQL server of its own on loopback: `with serving() as database:`."""

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg2

REMEDY = "install it (Debian: apt-get install --no-install-recommends postgresql)"
_START_S = 20.0


@dataclass(frozen=True)
class Database:
    """An empty database, and who owns it.

    Attributes:
        port: on 127.0.0.1.
        user: that owns it.
        password: which the server asks for.
        name: of the database.
    """

    port: int
    user: str = "dagster"
    name: str = "dagster"
    password: str = field(default_factory=lambda: secrets.token_urlsafe(12), repr=False)

    def rows(self, query: str, name: str | None = None) -> list[tuple[Any, ...]]:
        """What a query answers; of another database, if one is named."""
        connection = psycopg2.connect(
            host="127.0.0.1",
            port=self.port,
            user=self.user,
            password=self.password,
            dbname=name or self.name,
        )
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(query)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()


def programs() -> Path | None:
    """The folder of the server's programs, where Debian puts it or on the PATH; None if there is none."""
    of_debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    found = of_debian[-1] if of_debian else shutil.which("initdb")
    return Path(found).parent if found else None


@contextmanager
def serving(port: int) -> Iterator[Database]:
    """A server while the block runs, with its data in a folder of its own.

    Raises:
        RuntimeError: there is no PostgreSQL, or it did not start.
    """
    folder = programs()
    if folder is None:
        raise RuntimeError(f"there is no PostgreSQL: {REMEDY}")
    database = Database(port)
    with tempfile.TemporaryDirectory(prefix="sd_assets-postgres-") as own:
        # It refuses to run as root; Debian's package brings a user for it.
        owner = "postgres" if os.geteuid() == 0 else None
        data, password = Path(own) / "data", Path(own) / "password"
        password.write_text(database.password)
        if owner:
            for path in (own, password):
                shutil.chown(path, owner, owner)
        if _started(_initdb(folder, data, password, database.user), own, owner).wait():
            raise RuntimeError(f"{folder / 'initdb'} failed")
        process = _started(_server(folder, data, port), own, owner)
        try:
            _create(database, process)
            yield database
        finally:
            process.terminate()
            process.wait(30)


def _initdb(folder: Path, data: Path, password: Path, user: str) -> list[str]:
    """The command that makes an empty cluster, whose user must give the password in that file."""
    return [
        *(str(folder / "initdb"), "--pgdata", str(data), "--username", user, "--pwfile", str(password)),
        *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync"),
    ]


def _server(folder: Path, data: Path, port: int) -> list[str]:
    """The command that serves it on loopback."""
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
    given = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(folder / "postgres"), "-D", str(data), "-p", str(port), *given]


def _started(command: list[str], folder: str, owner: str | None) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        command,
        cwd=folder,
        user=owner,
        group=owner,
        extra_groups=[] if owner else None,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _create(database: Database, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _START_S
    while True:
        try:
            database.rows(f"CREATE DATABASE {database.name}", "postgres")
            return
        except psycopg2.OperationalError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"PostgreSQL did not start: {error}") from error
        time.sleep(0.1)
