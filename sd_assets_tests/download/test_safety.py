"""Who may be reached, and what is carried over: what of the stage's safety needs servers at several addresses.

Each promise is shown against real servers, here or elsewhere:

| promise | shown by |
|---|---|
| no address but public ones, in any spelling, directly or by a redirect | `test_chaos` (all, with listeners), `test_addresses` |
| the address that was checked is the one that is connected to | here |
| ports 80 and 443, unless listed | `test_chaos` and here |
| http and https only; TLS verified, with the host's name | `test_chaos` |
| one deadline; bounds on bytes, redirects, pixels and metadata | `test_downloader`, `test_chaos` |
| types by content | `test_chaos`, `test_images` |
| no metadata is carried over | here |
"""

import asyncio
import io
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from PIL import Image

from sd_assets.download.downloader import Downloader
from sd_assets.download.request import Request
from sd_assets.errors import ErrorCode
from sd_assets.schemas import image_id
from sd_assets.settings import DownloadSettings
from sd_assets_tests.download import isolated
from sd_assets_tests.download.chaos import NETWORK, Behaviour, Host, Web
from sd_assets_tests.download.chaos_cases import JPEG, PLAIN, kept, redirect, reset
from sd_assets_tests.download.misbehaving import Server, answer
from sd_assets_tests.download.odd_images import MARKER, SIZE, photo, saved, with_metadata

E = ErrorCode

# --- who is reached ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reached:
    """A run that is over; `codes` are by the name of the host, or by the path where there is none."""

    codes: dict[str, set[str | None]]
    run: isolated.Run
    good: Host
    forbidden: list[Host]


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reached]:
    """URLs whose hosts would have the downloader connect to a listener on loopback, at the port that they answer at."""
    with Web() as web:
        listener = web.host(lambda *_: kept(PLAIN[0]), address="127.0.0.1")
        port = listener.port
        closing: dict[str, tuple[Behaviour, ...]] = {
            "/good": (answer(body=JPEG),),
            "/reset": (reset(), answer(body=JPEG)),
            "/redirect": (redirect("/good"),),
            "/robots.txt": (answer("404 Not Found"),),
        }

        def serve(path: str, before: int) -> Behaviour | None:
            turns = closing.get(path.partition("?")[0], ())
            return turns[min(before, len(turns) - 1)] if turns else None

        good = web.host(serve, address="127.1.0.1", port=port)
        astray = redirect(f"http://127.0.0.1:{port}/robots.txt")
        misled = web.host(lambda path, _: astray if path == "/robots.txt" else kept(JPEG))
        listed = web.host(lambda *_: kept(JPEG), address="127.3.0.1")
        beside = web.host(lambda *_: kept(PLAIN[0]), address="127.3.0.1")
        names: dict[str, list[list[str] | str]] = {
            "moves.test": [[good.address], ["127.0.0.1"]],
            "moves-when-reset.test": [[good.address], ["127.0.0.1"]],
            "moves-when-followed.test": [[good.address], ["127.0.0.1"]],
            "comes-back.test": [["127.0.0.1"], [good.address]],
            "mixed.test": [["127.0.0.1", "::1", "10.0.0.1", good.address, "169.254.169.254"]],
            "mixed-and-dead.test": [["127.0.0.1", "127.1.0.2"]],
        }
        urls = [
            *[f"http://moves.test:{port}/good?{number}" for number in range(20)],
            f"http://moves-when-reset.test:{port}/reset",
            f"http://moves-when-followed.test:{port}/redirect",
            f"http://comes-back.test:{port}/good",
            *[f"http://mixed.test:{port}/good?{number}" for number in range(5)],
            f"http://mixed-and-dead.test:{port}/good",
            misled.url("/robots-lead-to-loopback"),
            listed.url("/listed"),
            beside.url("/beside"),
            "http://1.1.1.1:22/public-22",
            "http://1.1.1.1:8080/public-8080",
        ]
        settings = {
            "allow_addresses": (NETWORK, f"127.3.0.1:{listed.port}"),
            "ports": (80, 443, 8080),
            "retries": 2,
            "timeout_s": 5,
        }
        run = isolated.run(tmp_path_factory.mktemp("safety"), [{"url": url} for url in urls], settings, names)
        codes: dict[str, set[str | None]] = {}
        for row in run.rows:
            host, _, path = row["url"].removeprefix("http://").partition("/")
            name = host.partition(":")[0]
            codes.setdefault(name if name in names else path, set()).add(row["error"])
        yield Reached(codes, run, good, [listener, beside])


def test_a_name_that_moves_to_a_private_address_gets_nowhere(reached: Reached) -> None:
    """It was public when it was checked, and is not when it is asked for again, tried again, or redirected to."""
    assert reached.forbidden[0].connections == 0
    for name in ("moves.test", "moves-when-reset.test", "moves-when-followed.test"):
        # Whether it is resolved a second time is the cache's business.
        assert reached.codes[name] <= {None, E.ADDRESS_FORBIDDEN}
    assert None in reached.codes["moves.test"]
    assert reached.codes["comes-back.test"] == {E.ADDRESS_FORBIDDEN}


def test_of_several_addresses_only_the_permitted_ones_are_tried(reached: Reached) -> None:
    assert reached.codes["mixed.test"] == {None}
    # Its permitted address does not answer: no reason to try the other one.
    assert reached.codes["mixed-and-dead.test"] == {E.CONNECTION_FAILED}
    tried = {address for address, _ in reached.run.connected}
    assert "127.1.0.2" in tried
    assert not tried & {"127.0.0.1", "::1", "10.0.0.1", "169.254.169.254"}


def test_robots_txt_leads_to_no_private_address(reached: Reached) -> None:
    assert reached.forbidden[0].connections == 0
    assert reached.codes["robots-lead-to-loopback"] == {None}  # like one that is not there


def test_the_allow_list_permits_one_port_and_not_its_neighbour(reached: Reached) -> None:
    assert reached.codes["listed"] == {None}
    assert reached.codes["beside"] == {E.ADDRESS_FORBIDDEN}
    assert reached.forbidden[1].connections == 0


def test_public_addresses_are_connected_to_at_listed_ports_only(reached: Reached) -> None:
    assert reached.codes["public-22"] == {E.ADDRESS_FORBIDDEN}
    assert ("1.1.1.1", 22) not in reached.run.connected
    # It was tried, and kept from it by the test.
    assert reached.codes["public-8080"] == {E.CONNECTION_FAILED}
    assert ("1.1.1.1", 8080) in reached.run.connected


def test_what_a_server_sends_unasked_is_no_answer_to_the_next_request(server: Server) -> None:
    """A connection that stays open, and on which a second answer comes before a second request."""
    forged = saved(photo(9), "JPEG")

    async def poison(writer: asyncio.StreamWriter, _: dict[str, str]) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
        writer.write(head % len(JPEG) + JPEG)
        await asyncio.sleep(0.2)
        writer.write(head % len(forged) + forged)
        await asyncio.sleep(0.5)

    server.paths = {"/poison": poison, "/own": answer(body=PLAIN[1])}
    with Downloader(DownloadSettings(allow_addresses=("127.0.0.1",), robots_txt=False)) as downloader:
        assert downloader.submit(Request(server.url("/poison"))).result().image_id == image_id(JPEG)
        time.sleep(0.4)
        own = downloader.submit(Request(server.url("/own"))).result()
    assert own.image_id == image_id(PLAIN[1])


# --- what is carried over ----------------------------------------------------------------------------------------

_CARRIERS = ("jpeg", "png", "webp", "avif", "tiff", "gif")


def test_the_planted_metadata_are_there() -> None:
    """Or their absence would show nothing."""
    assert all(MARKER in with_metadata(kind) for kind in _CARRIERS)
    for kind in ("jpeg", "png", "webp", "avif", "tiff"):
        with Image.open(io.BytesIO(with_metadata(kind))) as image:
            assert MARKER in image.info["icc_profile"], kind
            if kind != "tiff":  # Pillow writes no position there
                assert image.getexif().get_ifd(0x8825)[2] == (48.0, 51.0, 29.6), kind  # GPSLatitude


@pytest.mark.parametrize("resize_mode", ["no", "keep_ratio", "border"])
@pytest.mark.parametrize("image_format", ["jpg", "png", "webp"])
def test_no_metadata_are_carried_over(server: Server, image_format: str, resize_mode: str) -> None:
    server.paths |= {f"/{kind}": answer(body=with_metadata(kind)) for kind in _CARRIERS}
    settings: dict[str, Any] = {"image_format": image_format, "resize_mode": resize_mode, "image_size": 48}
    with Downloader(DownloadSettings(allow_addresses=("127.0.0.1",), **settings)) as downloader:
        futures = {kind: downloader.submit(Request(server.url(f"/{kind}"))) for kind in _CARRIERS}
        rows = {kind: future.result() for kind, future in futures.items()}
    for kind, row in rows.items():
        assert row.image is not None, (kind, row.error, row.error_detail)
        assert MARKER not in row.image
        assert MARKER.decode().encode("utf-16-le") not in row.image
        assert _parts(row.image, image_format) <= _BARE[image_format], kind
        with Image.open(io.BytesIO(row.image)) as image:
            assert not image.getexif()
            assert set(image.info) <= _INFO, kind
            assert image.size == {"no": SIZE, "keep_ratio": (72, 48), "border": (48, 48)}[resize_mode]


# What a file of the format needs: JPEG's markers (JFIF, tables, frame, scan), chunks of PNG and WebP.
_BARE = {
    "jpg": {"ffe0", "ffdb", "ffc0", "ffc4", "ffda"},
    "png": {"IHDR", "IDAT", "IEND"},
    "webp": {"VP8 "},
}
_INFO = {
    "jfif",
    "jfif_version",
    "jfif_unit",
    "jfif_density",
    "loop",
    "background",
}  # of the formats, not of the image


def _parts(data: bytes, image_format: str) -> set[str]:
    """The names of the parts that a file consists of; nothing may follow the last one."""
    if image_format == "jpg":
        return set(_jpeg_markers(data))
    names, at = set(), {"png": 8, "webp": 12}[image_format]
    while at < len(data):
        if image_format == "png":
            names.add(data[at + 4 : at + 8].decode())
            at += 12 + int.from_bytes(data[at : at + 4], "big")
        else:
            names.add(data[at : at + 4].decode())
            size = int.from_bytes(data[at + 4 : at + 8], "little")
            at += 8 + size + size % 2
    return names


def _jpeg_markers(data: bytes) -> Iterator[str]:
    at = 2
    while data[at : at + 2] != b"\xff\xda":
        yield data[at : at + 2].hex()
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    yield "ffda"
    assert data.endswith(b"\xff\xd9")
    assert data.count(b"\xff\xd9", at) == 1  # in entropy-coded data 0xff is followed by 0
