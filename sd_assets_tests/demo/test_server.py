"""The world's web server: healthy pages, every kind of fault as a raw socket sees it, and how it starts, stands by and stops."""

import http.client
import io
import json
import re
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sd_assets.demo import faults
from sd_assets.demo.faults import FAULTS
from sd_assets.demo.server import IDENTITY_PATH, WorldServer
from sd_assets.demo.world import World
from sd_assets.errors import ErrorCode
from sd_assets_tests.demo.conftest import Raw, ask


@pytest.fixture(scope="module")
def server(world: World) -> Iterator[WorldServer]:
    with WorldServer(world.folder) as running:
        yield running


def healthy(world: World) -> list[Path]:
    faulty = json.loads((world.folder / "faults.json").read_text())
    return [path for path in sorted(world.web_folder.iterdir()) if f"/{path.name}" not in faulty]


def test_healthy_pages(server: WorldServer, world: World) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", world.port, timeout=5)
    for path in healthy(world)[:20]:  # over one connection that stays open
        connection.request("GET", f"/{path.name}")
        response = connection.getresponse()
        assert response.status == 200
        assert response.read() == path.read_bytes()
        assert response.headers["Content-Type"] in ("image/jpeg", "image/png", "image/webp")
        assert re.fullmatch(r'"[0-9a-f]{16}"', response.headers["ETag"])
        assert response.headers["Last-Modified"].endswith("GMT")
    connection.request("GET", f"/{path.name}", headers={"If-None-Match": response.headers["ETag"]})
    unchanged = connection.getresponse()
    assert (unchanged.status, unchanged.read()) == (304, b"")
    connection.request("HEAD", f"/{path.name}")
    head = connection.getresponse()
    assert (head.status, head.read()) == (200, b"")
    assert head.headers["Content-Length"] == str(path.stat().st_size)
    connection.close()


@pytest.mark.parametrize(
    "path", ["/", "/nothing.jpg", "/../truth.json", "/truth.json", "/%2e%2e/truth.json", "/robots.txt"]
)
def test_nothing_else_is_served(server: WorldServer, world: World, path: str) -> None:
    assert ask(world.port, path).status == 404


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("missing", 404),
        ("gone", 410),
        ("forbidden", 403),
        ("too_many_requests", 429),
        ("bad_request", 400),
        ("broken_server", 500),
    ],
)
def test_statuses(server: WorldServer, world: World, planted: dict[str, str], kind: str, status: int) -> None:
    answer = ask(world.port, planted[kind])
    assert answer.status == status
    assert b"<html>" in answer.body


@pytest.mark.parametrize(
    ("kind", "location"),
    [
        ("redirect_private", r"http://(169\.254\.|127\.0\.0\.2|10\.|\[::1\]|192\.168\.).*"),
        ("redirect_file", r"file:///.+"),
        ("redirect_nowhere", ""),
    ],
)
def test_redirects(
    server: WorldServer, world: World, planted: dict[str, str], kind: str, location: str
) -> None:
    answer = ask(world.port, planted[kind])
    assert answer.status == 302
    assert re.fullmatch(location, answer.headers.get("location", ""))


def test_a_redirect_loop_never_ends(server: WorldServer, world: World, planted: dict[str, str]) -> None:
    path, seen = planted["redirect_loop"], set()
    for _ in range(12):
        answer = ask(world.port, path)
        assert answer.status == 302
        path = answer.headers["location"]
        seen.add(path)
    assert len(seen) == 12


def test_bodies_that_are_no_whole_image(server: WorldServer, world: World, planted: dict[str, str]) -> None:
    page = ask(world.port, planted["html_page"])
    assert page.headers["content-type"] == "image/jpeg"
    assert page.body.startswith(b"<!DOCTYPE html>")
    empty = ask(world.port, planted["empty_body"])
    assert (empty.status, empty.body, empty.headers["content-length"]) == (200, b"", "0")
    cut = ask(world.port, planted["cut_short"])
    assert 0 < len(cut.body) < int(cut.headers["content-length"])
    truncated = ask(world.port, planted["truncated_jpeg"])
    assert len(truncated.body) == int(truncated.headers["content-length"])
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(truncated.body)).load()
    bomb = ask(world.port, planted["pixel_bomb"])
    assert bomb.headers["content-type"] == "image/png"
    assert struct.unpack(">II", bomb.body[16:24]) == (40_000, 40_000)
    assert len(bomb.body) < 1_000


def test_whole_images_that_are_not_wanted(server: WorldServer, world: World, planted: dict[str, str]) -> None:
    opted_out = ask(world.port, planted["opted_out"])
    assert "no" in opted_out.headers["x-robots-tag"]
    Image.open(io.BytesIO(opted_out.body)).load()
    elongated = Image.open(io.BytesIO(ask(world.port, planted["elongated"]).body))
    assert elongated.width / elongated.height > 2.5


def test_answers_that_do_not_end(server: WorldServer, world: World, planted: dict[str, str]) -> None:
    assert ask(world.port, planted["never_answers"], wait_s=0.5).ended == "timeout"
    drip = ask(world.port, planted["drip_feed"], total_s=0.8)
    assert drip.ended == "timeout"
    assert 2 <= len(drip.body) <= 20
    assert int(drip.headers["content-length"]) > 1_000


@pytest.mark.parametrize("kind", ["oversized", "endless"])
def test_bodies_that_are_too_large(
    server: WorldServer, world: World, planted: dict[str, str], kind: str
) -> None:
    answer = ask(world.port, planted[kind])
    assert 2_000_000 < len(answer.body) <= 2 * faults.LARGEST_ANSWER_BYTES
    assert ("content-length" in answer.headers) == (kind == "oversized")
    assert answer.body.startswith(b"\xff\xd8")  # it begins like the image that it replaced


def test_connections_that_break(server: WorldServer, world: World, planted: dict[str, str]) -> None:
    assert ask(world.port, planted["reset"]).ended == "reset"
    assert ask(world.port, planted["not_http"]) == Raw()  # closed, and nothing in it was HTTP
    with (
        socket.create_connection(("127.0.0.1", world.port), timeout=2) as sock,
        pytest.raises(ssl.SSLError),
    ):
        ssl.create_default_context().wrap_socket(sock, server_hostname="127.0.0.1")


def test_what_never_reaches_the_server(world: World) -> None:
    truth = json.loads((world.folder / "truth.json").read_text())["images"]
    urls = {image["fault"]: url for url, image in truth.items() if image["fault"]}
    assert re.fullmatch(r"http://gone-[0-9a-f]+\.invalid/[0-9a-f]+\.jpg", urls["unresolvable"])
    assert urls["no_tls"].startswith(f"https://127.0.0.1:{world.port}/")


def test_faults_are_many_and_have_codes_of_their_own() -> None:
    assert len(FAULTS) >= 14
    assert len({fault.expected for fault in FAULTS.values()}) >= 14
    assert all(isinstance(fault.expected, ErrorCode) for fault in FAULTS.values())


def test_garbage_and_leavers_do_not_hurt(server: WorldServer, world: World, planted: dict[str, str]) -> None:
    for data in (b"\r\n\r\n", b"GET\r\n\r\n", b"x" * 200_000, bytes(range(256))):
        with socket.create_connection(("127.0.0.1", world.port), timeout=2) as sock:
            sock.sendall(data)
    with socket.create_connection(("127.0.0.1", world.port), timeout=2) as sock:
        sock.sendall(f"GET {planted['endless']} HTTP/1.1\r\n\r\n".encode())
    assert ask(world.port, IDENTITY_PATH).body.decode() == world.id
