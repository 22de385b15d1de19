"""What may become of a URL: each case with how it is served and the code that it must lead to."""

import asyncio
import gzip
import socket
import struct
import zlib
from dataclasses import dataclass
from email.utils import formatdate
from time import time
from typing import Any

from sd_assets.errors import ErrorCode
from sd_assets.schemas import image_id
from sd_assets_tests.download.chaos import KEEP, Behaviour
from sd_assets_tests.download.misbehaving import answer, raw
from sd_assets_tests.download.odd_images import (
    HTML,
    HUGE,
    SIZE,
    SVG,
    avif_bomb,
    bombs,
    good_images,
    heic,
    metadata_bombs,
    photo,
    saved,
    twelve_bit_jpeg,
)

E = ErrorCode

# The settings that the cases are made for; the chaos run has them.
MAX_BYTES = 1_000_000
TIMEOUT_S = 4.0
RETRIES = 1
OURS = "chaos-test"  # the product token of the user agent

JPEG = good_images()["jpeg"][0]
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nConnection: close\r\n"
_LENGTH = b"Content-Length: %d\r\n\r\n"
_KEPT_HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
SLOW = 2  # copies of a case that takes until the deadline, at every attempt


@dataclass(frozen=True)
class Case:
    """One kind of URL.

    Attributes:
        name: the first part of its path.
        error: the code that it must lead to; None if it is a good image.
        or_error: another one that it may lead to.
        turns: what its requests get, one after the other; the last one from then on.
        asked: how often it must be asked for, which are the attempts of its row. 0: never, its address forbids it, or
            its robots.txt does. A range, where chance has a say.
        size: width and height in pixels of the image as it came, if it is a good one.
        copies: URLs of it; None: as many as fit.
        suffix: of its path.
        host: the kind of host that it needs (see `HOSTS`); "" is any.
        url: the whole URL, where no host of the web is asked at all; `{n}` is the number of the copy.
        sha256: of the bytes, as the corpus has it.
        attempts: that the row must tell of, where they were no requests for the URL itself.
    """

    name: str
    error: ErrorCode | None
    turns: tuple[Behaviour, ...] = ()
    asked: int | range = 1
    size: tuple[int, int] | None = None
    copies: int | None = None
    suffix: str = ".jpg"
    host: str = ""
    url: str | None = None
    sha256: str | None = None
    or_error: ErrorCode | None = None
    attempts: int | range | None = None

    @property
    def may_be_asked(self) -> range:
        """How often it may be asked for."""
        return _range(self.asked)

    @property
    def may_tell(self) -> range:
        """How many attempts its row may tell of; to find out that it may not be asked for is one, too."""
        if self.attempts is not None:
            return _range(self.attempts)
        return range(max(self.may_be_asked.start, 1), max(self.may_be_asked.stop, 2))


def _range(count: int | range) -> range:
    return count if isinstance(count, range) else range(count, count + 1)


# --- how to answer -----------------------------------------------------------------------------------------------


def kept(body: bytes, **headers: str) -> Behaviour:
    """An image, over a connection that stays open for the next request."""

    async def behave(writer: asyncio.StreamWriter, _: dict[str, str]) -> object:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body)
        await writer.drain()
        return KEEP

    return behave


def chunked(body: bytes, *, piece: int = 1_000, pause: float = 0, head: bytes = _HEAD) -> Behaviour:
    """A body in chunks of so many bytes, with a pause in seconds after each."""
    parts: list[bytes | float] = [head + _CHUNKED]
    for at in range(0, len(body), piece):
        part = body[at : at + piece]
        parts += [b"%x\r\n" % len(part) + part + b"\r\n", *([pause] if pause else [])]
    return raw(*parts, b"0\r\n\r\n")


def conditional(body: bytes) -> Behaviour:
    """An image, or that it is the same still, to who has it."""
    etag = 'W/"chaos"'
    whole = kept(body, ETag=etag, Last_Modified="Mon, 01 Jan 2024 00:00:00 GMT")
    same = answer("304 Not Modified", length=None, ETag=etag)

    async def behave(writer: asyncio.StreamWriter, headers: dict[str, str]) -> object:
        return await (same if headers.get("if-none-match") == etag else whole)(writer, headers)

    return behave


def redirect(location: str, status: str = "302 Found") -> Behaviour:
    return answer(status, Location=location)


def endless(head: bytes, part: bytes) -> Behaviour:
    """`part` after `part`, as fast as it is taken, until the client hangs up."""

    async def behave(writer: asyncio.StreamWriter, _: dict[str, str]) -> None:
        writer.write(head)
        while True:
            writer.write(part)
            await writer.drain()

    return behave


def drip(head: bytes, part: bytes, pause: float = 0.05) -> Behaviour:
    """`part` after `part`, with a pause in seconds between them."""
    parts: list[bytes | float] = [part, pause]
    return raw(head, *parts * int(4 * TIMEOUT_S / pause))


def reset(first: bytes = b"") -> Behaviour:
    """Some bytes, then a reset of the connection."""

    async def behave(writer: asyncio.StreamWriter, _: dict[str, str]) -> None:
        writer.write(first)
        await writer.drain()
        if first:
            await asyncio.sleep(0.05)  # a reset overtakes what has not been read yet
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    return behave


def bomb(wbits: int) -> bytes:
    """A gigabyte of zeros, compressed."""
    piece = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    # After a full flush the same bytes may come again, as if nothing had been before them.
    block = piece.compress(bytes(2**24)) + piece.flush(zlib.Z_FULL_FLUSH)
    head = zlib.compressobj(9, wbits=wbits).flush(zlib.Z_FULL_FLUSH)
    return head + block * 64


def gzipped(body: bytes) -> Behaviour:
    return answer(body=gzip.compress(body), Content_Encoding="gzip")


# --- good images -------------------------------------------------------------------------------------------------

PLAIN = [saved(photo(seed), "JPEG") for seed in range(32)]


def _good_cases() -> list[Case]:
    def good(name: str, *turns: Behaviour, size: tuple[int, int] = SIZE, **others: Any) -> Case:
        return Case(name, None, turns, size=size, **others)

    images = [
        good(kind, kept(body), size=size, suffix=f".{format}")
        for kind, (body, format, size) in good_images().items()
    ]
    png = good_images()["png"][0]
    return [
        *images,
        good("wrong-extension", kept(png, Content_Type="image/png")),
        good("no-extension", kept(png), suffix=""),
        good("odd-extension", kept(JPEG), suffix=".php?id=1&x=%20y"),
        good("wrong-type", kept(JPEG, Content_Type="text/html; charset=utf-8")),
        good("no-type", kept(JPEG)),
        good("many-headers", kept(JPEG, **{f"X{number}": "x" * 200 for number in range(60)})),
        good("long-header", kept(JPEG, Content_Security_Policy="x" * 20_000)),
        good("until-close", answer(body=JPEG, length=None)),
        good("http-1.0", raw(b"HTTP/1.0 200 OK\r\n\r\n" + JPEG)),
        good("status-203", answer("203 Non-Authoritative Information", body=JPEG)),
        good("etag", conditional(JPEG)),
        good("cookie", kept(JPEG, Set_Cookie="tracked=1; Path=/")),
        good("chunked", chunked(JPEG)),
        good("chunks-of-a-byte", chunked(JPEG, piece=1)),
        good("chunk-extensions", raw(_HEAD + _CHUNKED + b"%x;a=b\r\n" % len(JPEG) + JPEG + b"\r\n0\r\n\r\n")),
        good("trailers", raw(_HEAD + _CHUNKED + b"%x\r\n" % len(JPEG) + JPEG + b"\r\n0\r\nX: y\r\n\r\n")),
        good("gzip", gzipped(JPEG)),
        good("deflate", answer(body=zlib.compress(JPEG), Content_Encoding="deflate")),
        good("raw-deflate", answer(body=zlib.compress(JPEG, wbits=-15), Content_Encoding="Deflate")),
        good("identity", answer(body=JPEG, Content_Encoding="identity")),
        good(
            "early-hints",
            raw(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + _HEAD + _LENGTH % len(JPEG) + JPEG),
        ),
        good(
            "slow-but-in-time",
            raw(0.1, _HEAD + _LENGTH % len(JPEG), 0.1, JPEG[:500], 0.1, JPEG[500:]),
            copies=8,
        ),
        good("redirect-relative", redirect("../plain/1")),
        *[
            good(f"redirect-{status}", redirect("/plain/2", f"{status} Elsewhere"))
            for status in (301, 303, 307, 308)
        ],
        good("redirect-to-query", redirect("/plain/3?a=b#fragment")),
        good("redirect-with-body", answer("302 Found", body=HTML, Location="/plain/4")),
        good("redirects-to-the-limit", redirect("/hop/1")),
        # What may pass, and does.
        good("500-once", answer("500 Oops"), kept(JPEG), asked=2),
        good("reset-once", reset(), kept(JPEG), asked=2, attempts=range(1, 3)),
        good("cut-once", answer(body=JPEG[:300], length=len(JPEG)), kept(JPEG), asked=2),
        good("slow-once", raw(4 * TIMEOUT_S), kept(JPEG), asked=2, copies=SLOW),
        # Closed without a word after each answer: who uses the connection again may have to ask once more.
        good(
            "closes-unannounced",
            raw(_KEPT_HEAD % len(JPEG) + JPEG),
            asked=range(1, 2 + RETRIES),
            copies=20,
            host="unannounced",
        ),
        # For others only.
        good("robots-tag-of-others", kept(JPEG, X_Robots_Tag="otherbot: noai, noindex")),
        good(
            "robots-tag-follow", kept(JPEG, X_Robots_Tag="all, nofollow, noarchive, max-image-preview: none")
        ),
        # Mixes.
        good("redirect-gzip-drip", redirect("/gzip-drip/1")),
        good("500-redirect", answer("500 Oops"), redirect("/chunked-gzip/1"), asked=2),
    ]


# --- what an image may be ----------------------------------------------------------------------------------------


def _content_cases() -> list[Case]:
    cut = {
        kind: body
        for kind, (body, _, _) in good_images().items()
        if kind in ("jpeg", "png", "webp", "gif", "tiff", "avif", "bmp")
    }
    return [
        Case("empty", E.EMPTY, (kept(b""),)),
        Case("empty-chunked", E.EMPTY, (chunked(b""),)),
        Case("empty-gzip", E.EMPTY, (gzipped(b""),)),
        Case("html", E.NOT_AN_IMAGE, (kept(HTML, Content_Type="image/jpeg"),)),
        Case("html-gzip", E.NOT_AN_IMAGE, (gzipped(HTML),)),
        Case("svg", E.NOT_AN_IMAGE, (kept(SVG, Content_Type="image/svg+xml"),), suffix=".svg"),
        Case("heic", E.NOT_AN_IMAGE, (kept(heic()),), suffix=".heic"),
        Case("pdf", E.NOT_AN_IMAGE, (kept(b"%PDF-1.7\n" + bytes(1_000)),)),
        Case("noise", E.NOT_AN_IMAGE, (kept(bytes(range(256)) * 40),)),
        Case("12-bit-jpeg", E.NOT_AN_IMAGE, (kept(twelve_bit_jpeg()),)),
        *[
            Case(f"cut-{kind}", E.CORRUPT_IMAGE, (kept(body[: len(body) // 2]),))
            for kind, body in cut.items()
        ],
        *[Case(f"bomb-{kind}", E.TOO_MANY_PIXELS, (kept(body),)) for kind, body in bombs().items()],
        Case("bomb-avif-beyond-its-library", E.CORRUPT_IMAGE, (kept(avif_bomb(HUGE)),)),
        *[
            Case(f"metadata-{kind}", None, (kept(body),), size=SIZE)
            for kind, body in metadata_bombs().items()
            if kind != "png-many-texts"
        ],
        Case("metadata-png-many-texts", E.CORRUPT_IMAGE, (kept(metadata_bombs()["png-many-texts"]),)),
        Case("hash-right", None, (kept(JPEG),), size=SIZE, sha256=image_id(JPEG)),
        Case("hash-wrong", E.HASH_MISMATCH, (kept(JPEG),), sha256=image_id(JPEG[1:])),
        Case("hash-of-gzip", None, (gzipped(JPEG),), size=SIZE, sha256=image_id(JPEG)),
        Case("redirect-hash-wrong", E.HASH_MISMATCH, (redirect("/plain/1"),), sha256=image_id(JPEG)),
        Case("bomb-gzip-png", E.TOO_MANY_PIXELS, (gzipped(bombs()["png"]),)),
        Case("too-small", E.TOO_SMALL, (kept(saved(photo().resize((40, 15)), "PNG")),), suffix=".png"),
        Case("one-pixel", E.TOO_SMALL, (kept(saved(photo().resize((1, 1)), "GIF")),), suffix=".gif"),
        Case("too-long", E.ASPECT_RATIO, (kept(saved(photo().resize((400, 20)), "JPEG")),)),
    ]


# --- what an answer may be ---------------------------------------------------------------------------------------


def _status_cases() -> list[Case]:
    codes = {
        E.NOT_FOUND: (404, 410),
        E.ACCESS_DENIED: (401, 402, 403, 407, 451),
        E.CLIENT_ERROR: (400, 405, 406, 409, 414, 416, 418, 499),
        E.UNEXPECTED_STATUS: (204, 205, 206, 207, 300, 304, 305, 600, 999),
    }
    failed = [
        # A body that says otherwise, and must not count.
        Case(f"status-{status}", code, (answer(f"{status} So", body=b"" if status in (204, 304) else JPEG),))
        for code, statuses in codes.items()
        for status in statuses
    ]
    transient = [
        Case(f"status-{status}", E.SERVER_ERROR, (answer(f"{status} So", body=JPEG),), asked=1 + RETRIES)
        for status in (500, 502, 504, 520)
    ]
    return [
        *failed,
        *transient,
        Case(
            "status-101",
            E.UNEXPECTED_STATUS,
            (raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),),
        ),
        *[
            Case(f"robots-tag-{number}", E.OPTED_OUT, (kept(JPEG, X_Robots_Tag=value),))
            for number, value in enumerate(
                (
                    *(
                        "noai",
                        "noimageai",
                        "NoIndex",
                        "nofollow, noimageindex",
                        "none",
                        "*: noai",
                        f"{OURS}: noai",
                    ),
                    f"otherbot: nofollow, {OURS.upper()}: noindex",
                    "unavailable_after: 25 Jun 2030 15:00:00 PST, noai",
                )
            )
        ],
        Case(
            "robots-tag-twice",
            E.OPTED_OUT,
            (raw(_HEAD + b"X-Robots-Tag: all\r\nx-robots-tag: noai\r\n" + _LENGTH % len(JPEG) + JPEG),),
        ),
        Case("redirect-to-robots-tag", E.OPTED_OUT, (redirect("/robots-tag-0/target"),)),
    ]


def _framing_cases() -> list[Case]:
    half = JPEG[: len(JPEG) // 2]
    again: dict[str, Any] = {"asked": 1 + RETRIES}
    # The HTTP client asks once more by itself, at once, when a connection breaks.
    broken: dict[str, Any] = {"asked": range(1 + RETRIES, 2 * (1 + RETRIES) + 1), "attempts": 1 + RETRIES}
    return [
        Case("cut", E.INCOMPLETE, (answer(body=half, length=len(JPEG)),), **again),
        Case("cut-in-chunks", E.INCOMPLETE, (raw(_HEAD + _CHUNKED + b"%x\r\n" % len(JPEG) + half),), **again),
        Case(
            "cut-between-chunks",
            E.INCOMPLETE,
            (raw(_HEAD + _CHUNKED + b"%x\r\n" % len(half) + half + b"\r\n"),),
            **again,
        ),
        Case(
            "cut-gzip",
            E.INCOMPLETE,
            (answer(body=gzip.compress(JPEG)[:-20], Content_Encoding="gzip"),),
            **again,
        ),
        Case("reset-in-body", E.INCOMPLETE, (reset(_HEAD + _LENGTH % len(JPEG) + half),), **again),
        Case("reset", E.CONNECTION_FAILED, (reset(),), **broken),
        Case(
            "reset-in-head",
            E.CONNECTION_FAILED,
            (reset(b"HTTP/1.1 200 OK\r\nContent-Le"),),
            **broken,
        ),
        Case("hang-up", E.CONNECTION_FAILED, (raw(b""),), **broken),
        Case(
            "hang-up-in-head",
            E.CONNECTION_FAILED,
            (raw(b"HTTP/1.1 200 OK\r\nContent-Le"),),
            **broken,
        ),
        Case("more-than-announced", E.INVALID_RESPONSE, (answer(body=JPEG * 2, length=len(JPEG)),)),
        Case("http-0.9", E.INVALID_RESPONSE, (raw(JPEG),)),
        Case("ssh", E.INVALID_RESPONSE, (raw(b"SSH-2.0-OpenSSH_9.6\r\n"),)),
        Case("bare-html", E.INVALID_RESPONSE, (raw(HTML),)),
        Case("zeros", E.INVALID_RESPONSE, (raw(bytes(5_000)),)),
        Case("http-9.9", E.INVALID_RESPONSE, (raw(b"HTTP/9.9 200 OK\r\n\r\n" + JPEG),)),
        Case("status-none", E.INVALID_RESPONSE, (raw(b"HTTP/1.1 OK\r\n\r\n" + JPEG),)),
        Case("length-in-words", E.INVALID_RESPONSE, (raw(_HEAD + b"Content-Length: many\r\n\r\n" + JPEG),)),
        Case("length-negative", E.INVALID_RESPONSE, (raw(_HEAD + b"Content-Length: -5\r\n\r\n" + JPEG),)),
        Case(
            "length-twice",
            E.INVALID_RESPONSE,
            (raw(_HEAD + b"Content-Length: 5\r\n" + _LENGTH % len(JPEG) + JPEG),),
        ),
        Case(
            "length-and-chunked",
            E.INVALID_RESPONSE,
            (raw(_HEAD + b"Content-Length: 5\r\n" + _CHUNKED + b"0\r\n\r\n"),),
        ),
        Case("chunk-size-in-words", E.INVALID_RESPONSE, (raw(_HEAD + _CHUNKED + b"ZZZ\r\nhello\r\n"),)),
        Case("chunk-size-huge", E.INVALID_RESPONSE, (raw(_HEAD + _CHUNKED + b"f" * 40 + b"\r\nhello\r\n"),)),
        Case(
            "chunks-broken-later",
            E.INVALID_RESPONSE,
            (raw(_HEAD + _CHUNKED + b"5\r\nhello\r\n", 0.05, b"ZZZ\r\n"),),
        ),
        Case("unknown-encoding", E.INVALID_RESPONSE, (answer(body=JPEG, Content_Encoding="br"),)),
        Case("nonsense-encoding", E.INVALID_RESPONSE, (answer(body=JPEG, Content_Encoding="x" * 300),)),
        Case(
            "double-encoding",
            E.INVALID_RESPONSE,
            (answer(body=gzip.compress(gzip.compress(JPEG)), Content_Encoding="gzip, gzip"),),
        ),
        Case("not-gzip-at-all", E.INVALID_RESPONSE, (answer(body=JPEG, Content_Encoding="gzip"),)),
        Case(
            "gzip-damaged",
            E.INVALID_RESPONSE,
            (answer(body=_damaged(gzip.compress(JPEG)), Content_Encoding="gzip"),),
        ),
        Case(
            "many-many-headers",
            E.INVALID_RESPONSE,
            (raw(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: 1\r\n" % n for n in range(20_000)) + b"\r\n"),),
        ),
        Case(
            "too-long-header",
            E.INVALID_RESPONSE,
            (raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"),),
        ),
        Case(
            "endless-header",
            E.INVALID_RESPONSE,
            (endless(b"HTTP/1.1 200 OK\r\nX: ", bytes(100) + b"a" * 10_000),),
        ),
        Case(
            "endless-headers",
            E.INVALID_RESPONSE,
            (endless(b"HTTP/1.1 200 OK\r\n", b"X: aaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 300),),
        ),
        Case(
            "endless-1xx",
            E.INVALID_RESPONSE,
            (endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 30),),
        ),
        Case("endless-reason", E.INVALID_RESPONSE, (endless(b"HTTP/1.1 200 ", b"a" * 10_000),)),
    ]


def _damaged(data: bytes) -> bytes:
    """With its middle inverted."""
    third = len(data) // 3
    return data[:third] + bytes(255 - byte for byte in data[third : 2 * third]) + data[2 * third :]


def _large_cases() -> list[Case]:
    zeros = bytes(65_536)
    return [
        Case(
            "too-large",
            E.TOO_LARGE,
            (raw(_HEAD + _LENGTH % (MAX_BYTES + 1), bytes(MAX_BYTES + 1)),),
            copies=8,
        ),
        Case("too-large-announced", E.TOO_LARGE, (raw(_HEAD + _LENGTH % 10**10, 4 * TIMEOUT_S),)),
        Case("too-large-chunked", E.TOO_LARGE, (chunked(bytes(2 * MAX_BYTES), piece=65_536),), copies=8),
        Case("too-large-jpeg", E.TOO_LARGE, (raw(_HEAD + b"\r\n" + JPEG, *[zeros] * 40),), copies=8),
        Case("endless", E.TOO_LARGE, (endless(_HEAD + b"\r\n", zeros),), copies=8),
        Case(
            "endless-chunks",
            E.TOO_LARGE,
            (endless(_HEAD + _CHUNKED, b"10000\r\n" + zeros + b"\r\n"),),
            copies=8,
        ),
        Case(
            "gzip-bomb",
            E.TOO_LARGE,
            (answer(body=bomb(16 + zlib.MAX_WBITS), Content_Encoding="gzip", length=None),),
            copies=8,
        ),
        Case(
            "deflate-bomb",
            E.TOO_LARGE,
            (answer(body=bomb(zlib.MAX_WBITS), Content_Encoding="deflate", length=None),),
            copies=8,
        ),
        Case(
            "raw-deflate-bomb",
            E.TOO_LARGE,
            (answer(body=bomb(-zlib.MAX_WBITS), Content_Encoding="deflate", length=None),),
            copies=8,
        ),
        Case(
            "gzip-of-nothing",
            E.TOO_LARGE,
            (endless(_HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(JPEG), zeros),),
            copies=4,
        ),
        Case("redirect-chunked-gzip-bomb", E.TOO_LARGE, (redirect("/chunked-gzip-bomb/1"),), copies=8),
    ]


BREAKS = Case("breaks", E.CONNECTION_FAILED, (reset(),), asked=1 + RETRIES, copies=5)


def _slow_cases() -> list[Case]:
    slow: dict[str, Any] = {"asked": 1 + RETRIES, "copies": SLOW}
    length = _LENGTH % 100_000
    return [
        # After some failures it is left alone.
        Case(
            "dead",
            E.TIMEOUT,
            (raw(4 * TIMEOUT_S),),
            asked=range(2 + RETRIES),
            attempts=range(2 + RETRIES),
            copies=200,
            host="dead",
            or_error=E.HOST_UNAVAILABLE,
        ),
        Case("silent", E.TIMEOUT, (raw(4 * TIMEOUT_S),), **slow),
        Case("silent-after-head", E.TIMEOUT, (raw(_HEAD + length, 4 * TIMEOUT_S),), **slow),
        Case(
            "silent-at-the-end",
            E.TIMEOUT,
            (raw(_HEAD + _LENGTH % len(JPEG) + JPEG[:-1], 4 * TIMEOUT_S),),
            **slow,
        ),
        Case(
            "no-end-of-chunks",
            E.TIMEOUT,
            (raw(_HEAD + _CHUNKED + b"%x\r\n" % len(JPEG) + JPEG + b"\r\n", 4 * TIMEOUT_S),),
            **slow,
        ),
        Case("drip-status", E.TIMEOUT, (drip(b"HTTP/1.1 200 ", b"O"),), **slow),
        Case("drip-head", E.TIMEOUT, (drip(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),), **slow),
        Case("drip-body", E.TIMEOUT, (drip(_HEAD + length, JPEG[:1]),), **slow),
        Case("drip-chunks", E.TIMEOUT, (drip(_HEAD + _CHUNKED, b"1\r\nx\r\n"),), **slow),
        Case("drip-chunk-extension", E.TIMEOUT, (drip(_HEAD + _CHUNKED + b"5;", b"x"),), **slow),
        Case(
            "drip-gzip",
            E.TIMEOUT,
            (drip(_HEAD + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(bytes(9))[:-1], b""),),
            **slow,
        ),
        Case("drip-1xx", E.TIMEOUT, (drip(b"", b"HTTP/1.1 102 Processing\r\n\r\n", pause=0.5),), **slow),
        Case("redirect-drip", E.TIMEOUT, (redirect("/drip-body/x"),), **slow),
        Case("redirect-drip-redirect", E.TIMEOUT, (redirect("/slow-hop/0"),), **slow),
        Case(
            "late-redirect-silent",
            E.TIMEOUT,
            (
                raw(
                    0.9 * TIMEOUT_S,
                    b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: /silent/x\r\nContent-Length: 0\r\n\r\n",
                ),
            ),
            **slow,
        ),
    ]


# --- where a redirect may lead -----------------------------------------------------------------------------------

FORBIDDEN_HOSTS = (
    # Loopback and "this host", in every spelling that a resolver knows.
    *(
        "127.0.0.1",
        "127.0.0.1.",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "0",
        "0.0.0.0",
    ),
    *(
        "127.2.0.1",
        "[::1]",
        "[::]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
    ),
    *("１２７.0.0.1", "①②⑦.0.0.1", "127。0。0。1"),
    # Names that lead there.
    *(
        "localhost",
        "LOCALHOST.",
        "loopback.test",
        "mixed-private.test",
        "metadata.google.internal",
        "mapped.test",
        "nat64.test",
    ),
    # Private networks, carrier-grade NAT, link-local, benchmarking, documentation, multicast, reserved.
    *(
        "10.0.0.1",
        "172.16.0.1",
        "172.31.255.254",
        "192.168.0.1",
        "100.64.0.1",
        "198.18.0.1",
        "192.0.2.1",
        "203.0.113.1",
    ),
    *(
        "224.0.0.1",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "192.0.0.170",
        "[fc00::1]",
        "[fd12:3456::1]",
    ),
    *("[fe80::1]", "[fe80::1%25lo]", "[fec0::1]", "[ff02::1]", "[2001:db8::1]", "[2001::1]", "[4000::1]"),
    # Tunnels and gateways to them.
    *(
        "[2002:7f00:1::]",
        "[2002:c0a8:101::1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::1]",
    ),
    # Metadata of clouds.
    *(
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "[::ffff:169.254.169.254]",
        "100.100.100.200",
        "168.63.129.16",
        "[fd00:ec2::254]",
    ),
)
NAMES: dict[str, list[list[str] | str]] = {
    "localhost": [["::1", "127.0.0.1"]],
    "localhost.": [["::1", "127.0.0.1"]],
    "loopback.test": [["127.0.0.1"]],
    "mixed-private.test": [["10.0.0.1", "::1", "169.254.169.254"]],
    "metadata.google.internal": [["169.254.169.254"]],
    "mapped.test": [["::ffff:127.0.0.1"]],
    "nat64.test": [["64:ff9b::7f00:1"]],
    "later.test": ["EAI_AGAIN"],
}
_SCHEMES = (
    *(
        "file:///etc/passwd",
        "ftp://ftp.test/a.jpg",
        "gopher://gopher.test/a",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
    ),
    *("blob:http://a.test/1", "about:blank", "ws://a.test/", "mailto:a@b.test", "view-source:http://a.test/"),
)


def address_cases(port: int) -> list[Case]:
    """What may not be connected to, asked for directly and by a redirect. `port` is where somebody listens on loopback."""
    cases = []
    for number, host in enumerate(FORBIDDEN_HOSTS):
        for scheme in ("http", "https"):
            where = f"{scheme}://{host}:{port}/"
            name = f"{scheme}-forbidden-{number}"
            cases += [
                Case(name, E.ADDRESS_FORBIDDEN, asked=0, url=where + "{n}.jpg", copies=1),
                Case(f"redirect-{name}", E.ADDRESS_FORBIDDEN, (redirect(where),), copies=1),
            ]
    for number, url in enumerate(_SCHEMES):
        cases += [
            Case(f"scheme-{number}", E.UNSUPPORTED_SCHEME, asked=0, url=url + "?{n}", copies=2),
            Case(f"redirect-scheme-{number}", E.UNSUPPORTED_SCHEME, (redirect(url),), copies=2),
        ]
    # Public addresses, but ports of other services.
    for number, other in enumerate((22, 25, 6379, 8080)):
        where = f"http://1.1.1.1:{other}/"
        cases += [
            Case(f"port-{number}", E.ADDRESS_FORBIDDEN, asked=0, url=where + "{n}.jpg", copies=2),
            Case(f"redirect-port-{number}", E.ADDRESS_FORBIDDEN, (redirect(where),), copies=2),
        ]
    return cases


def _url_cases() -> list[Case]:
    invalid = (
        "photo{n}.jpg",
        "//a.test/{n}.jpg",
        "http:///{n}.jpg",
        "http://a.test:99999/{n}",
        "http://[::1/{n}",
        "http://a b/{n}",
        "http://1.2.3.4.5/{n}",
        "http://1.2.3.4%00/{n}",
        "https://?{n}",
    )
    unknown = (
        "http://nx.test/{n}.jpg",
        "https://NX.invalid./{n}.jpg",
        "http://a..test/{n}",
        "http://" + "a" * 64 + ".test/{n}",
    )
    where = {
        "": E.INVALID_REDIRECT,
        "http://": E.INVALID_REDIRECT,
        "http://[::1": E.INVALID_REDIRECT,
        "http://999.1.1.1/": E.INVALID_REDIRECT,
        "http://nx.test/": E.DNS_ERROR,
    }
    return [
        *[Case(f"invalid-{n}", E.INVALID_URL, asked=0, url=url, copies=4) for n, url in enumerate(invalid)],
        *[Case(f"unknown-{n}", E.DNS_ERROR, asked=0, url=url, copies=4) for n, url in enumerate(unknown)],
        *[Case(f"redirect-odd-{n}", code, (redirect(url),)) for n, (url, code) in enumerate(where.items())],
        Case(
            "resolver-busy", E.DNS_ERROR, asked=0, attempts=1 + RETRIES, url="http://later.test/{n}", copies=4
        ),
        Case("redirect-nowhere", E.INVALID_REDIRECT, (answer("302 Found"),)),
        Case(
            "redirect-garbage",
            E.INVALID_REDIRECT,
            (
                raw(
                    b"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: http://\xff\xfe/\r\nContent-Length: 0\r\n\r\n"
                ),
            ),
        ),
        Case("redirect-to-itself", E.TOO_MANY_REDIRECTS, (redirect("?"),), suffix=""),
        Case("redirect-loop", E.TOO_MANY_REDIRECTS, (redirect("/loop/1"),)),
        Case("redirect-endless", E.TOO_MANY_REDIRECTS, (redirect("/deeper/x/"),)),
        Case("redirects-over-the-limit", E.TOO_MANY_REDIRECTS, (redirect("/hop/0"),)),
        Case("redirect-to-404", E.NOT_FOUND, (redirect("/nothing-there"),)),
    ]


def helpers() -> dict[str, tuple[Behaviour, ...]]:
    """Paths that redirects lead to, by their first part or their whole."""
    hop = {f"/hop/{n}": (redirect(f"/hop/{n + 1}"),) for n in range(5)}
    slow_hop = {
        f"/slow-hop/{n}": (
            raw(
                0.3 * TIMEOUT_S,
                f"HTTP/1.1 302 Found\r\nConnection: close\r\nLocation: /slow-hop/{n + 1}\r\nContent-Length: 0\r\n\r\n".encode(),
            ),
        )
        for n in range(5)
    }
    gzip_head = _HEAD + b"Content-Encoding: gzip\r\n"
    return {
        **hop,
        "/hop/5": (kept(JPEG),),
        **slow_hop,
        "/loop/1": (redirect("/loop/2"),),
        "/loop/2": (redirect("/loop/1"),),
        "deeper": (redirect("x/"),),
        "gzip-drip": (chunked(gzip.compress(JPEG), piece=400, pause=0.02, head=gzip_head),),
        "chunked-gzip": (chunked(gzip.compress(JPEG), head=gzip_head),),
        "chunked-gzip-bomb": (chunked(bomb(16 + zlib.MAX_WBITS), piece=65_536, head=gzip_head),),
    }


# --- robots.txt, Retry-After, TLS, names: what belongs to a host -------------------------------------------------


@dataclass(frozen=True)
class HostKind:
    """What is odd about a host as a whole.

    Attributes:
        robots: what it answers to /robots.txt, request after request.
        name: that its URLs have instead of its address; resolved by `NAMES`, or to its address.
        certificate: arguments for `Authority.context`; None: no TLS.
        alone: whether each URL of it gets a host of its own.
    """

    robots: tuple[Behaviour, ...] = (answer("404 Not Found"),)
    name: str | None = None
    certificate: dict[str, Any] | None = None
    alone: bool = False


def robots(text: str) -> Behaviour:
    """A robots.txt."""
    return answer(body=text.encode(), Content_Type="text/plain")


_DISALLOW = "User-agent: *\nDisallow: /\n"
HOSTS = {
    "alone": HostKind(alone=True),
    "unannounced": HostKind(),
    "dead": HostKind(),
    "robots-disallow": HostKind((robots(_DISALLOW),)),
    "robots-disallow-us": HostKind(
        (robots(f"User-agent: {OURS}\nDisallow: /\n\nUser-agent: *\nAllow: /\n"),)
    ),
    "robots-disallow-others": HostKind((robots("User-agent: otherbot\nDisallow: /\n"),)),
    "robots-allow-us": HostKind((robots(f"{_DISALLOW}\nUser-agent: {OURS}\nAllow: /\n"),)),
    "robots-wildcard": HostKind((robots("User-agent: *\nDisallow: /*/*.png$\nDisallow: /private*\n"),)),
    "robots-empty": HostKind((robots(""),)),
    "robots-garbage": HostKind((answer(body=bytes(range(256)) * 200),)),
    "robots-html": HostKind((answer(body=HTML, Content_Type="text/html"),)),
    "robots-403": HostKind((answer("403 Forbidden"),)),
    "robots-410": HostKind((answer("410 Gone"),)),
    "robots-bom": HostKind((answer(body=b"\xef\xbb\xbf" + _DISALLOW.encode()),)),
    "robots-windows-lines": HostKind((answer(body=_DISALLOW.replace("\n", "\r\n").encode()),)),
    "robots-redirect": HostKind((redirect("/robots-elsewhere"),)),
    "robots-long": HostKind((robots(_DISALLOW + "# and more\n" * 100_000),)),
    "robots-endless": HostKind(
        (endless(b"HTTP/1.1 200 OK\r\n\r\n" + _DISALLOW.encode(), b"# and more\n" * 5_000),)
    ),
    "robots-gzip": HostKind((gzipped(_DISALLOW.encode()),)),
    "robots-loop": HostKind((redirect("/loop/1"),)),
    "robots-to-loopback": HostKind((redirect("http://127.0.0.1/robots.txt"),)),
    "robots-to-file": HostKind((redirect("file:///etc/passwd"),)),
    # It is not known what they allow.
    "robots-500": HostKind((answer("500 Oops"),)),
    "robots-500-once": HostKind((answer("500 Oops"), robots(_DISALLOW))),
    "robots-429": HostKind((answer("429 Slow down", Retry_After="3600"),)),
    "robots-reset": HostKind((reset(),)),
    "robots-silent": HostKind((raw(4 * TIMEOUT_S),)),
    "robots-drip": HostKind((drip(b"HTTP/1.1 200 OK\r\n\r\nUser-agent: *\n", b"#\n"),)),
    "robots-no-http": HostKind((raw(b"SSH-2.0-OpenSSH_9.6\r\n"),)),
    "tls": HostKind(name="tls.test", certificate={}),
    "tls-by-address": HostKind(certificate={}),
    "tls-wrong-name": HostKind(name="wrong.test", certificate={"name": "right.test"}),
    "tls-expired": HostKind(name="expired.test", certificate={"days": (-9, -1)}),
    "tls-not-yet": HostKind(name="not-yet.test", certificate={"days": (1, 9)}),
    "tls-self-signed": HostKind(name="self-signed.test", certificate={"self_signed": True}),
    "named": HostKind(name="named.test"),
}


def _robots_cases() -> list[Case]:
    refused: dict[str, Any] = {"asked": 0, "copies": 5}
    good: dict[str, Any] = {"size": SIZE, "copies": 5}
    closed = (
        "disallow",
        "disallow-us",
        "bom",
        "windows-lines",
        "redirect",
        "long",
        "endless",
        "gzip",
        "500-once",
    )
    unknown = {
        "500": (E.SERVER_ERROR, 1 + RETRIES),
        "429": (E.RATE_LIMITED, 1),
        "reset": (E.CONNECTION_FAILED, 1 + RETRIES),
        "silent": (E.TIMEOUT, 1 + RETRIES),
        "drip": (E.TIMEOUT, 1 + RETRIES),
        "no-http": (E.INVALID_RESPONSE, 1),
    }
    opened = (
        "disallow-others",
        "allow-us",
        "empty",
        "garbage",
        "html",
        "403",
        "410",
        "loop",
        "to-loopback",
        "to-file",
    )
    return [
        *[
            Case(f"robots-txt-{kind}", E.OPTED_OUT, (kept(JPEG),), host=f"robots-{kind}", **refused)
            for kind in closed
        ],
        *[Case(f"robots-txt-{kind}", None, (kept(JPEG),), host=f"robots-{kind}", **good) for kind in opened],
        *[
            Case(
                f"robots-txt-{kind}", code, (kept(JPEG),), host=f"robots-{kind}", attempts=attempts, **refused
            )
            for kind, (code, attempts) in unknown.items()
        ],
        Case("robots-txt-wildcard", None, (kept(JPEG),), host="robots-wildcard", **good),
        Case(
            "robots-txt-wildcard-png",
            E.OPTED_OUT,
            (kept(JPEG),),
            host="robots-wildcard",
            suffix=".png",
            **refused,
        ),
        Case("private-robots-txt", E.OPTED_OUT, (kept(JPEG),), host="robots-wildcard", **refused),
    ]


def _retry_after_cases() -> list[Case]:
    """Each on a host of its own: a host that wants to be left alone may be left alone as a whole."""

    def case(name: str, error: ErrorCode | None, *turns: Behaviour, asked: int) -> Case:
        return Case(name, error, turns, asked, size=None if error else SIZE, copies=3, host="alone")

    soon = formatdate(time() + 2, usegmt=True)
    return [
        case("429-once", None, answer("429 Slow down"), kept(JPEG), asked=2),
        case("429-always", E.RATE_LIMITED, answer("429 Slow down"), asked=1 + RETRIES),
        case("429-after-a-second", None, answer("429 Slow down", Retry_After="1"), kept(JPEG), asked=2),
        case("429-after-an-hour", E.RATE_LIMITED, answer("429 Slow down", Retry_After="3600"), asked=1),
        case("429-after-ages", E.RATE_LIMITED, answer("429 Slow down", Retry_After="9" * 50), asked=1),
        case("429-after-a-date", None, answer("429 Slow down", Retry_After=soon), kept(JPEG), asked=2),
        case(
            "429-after-a-past-date",
            None,
            answer("429 Slow down", Retry_After="Mon, 01 Jan 2001 00:00:00 GMT"),
            kept(JPEG),
            asked=2,
        ),
        case(
            "429-after-garbage",
            None,
            answer("429 Slow down", Retry_After="when it suits"),
            kept(JPEG),
            asked=2,
        ),
        case(
            "429-after-less-than-nothing",
            None,
            answer("429 Slow down", Retry_After="-5"),
            kept(JPEG),
            asked=2,
        ),
        case("503-after-a-second", None, answer("503 Busy", Retry_After="1"), kept(JPEG), asked=2),
        case("503-after-an-hour", E.SERVER_ERROR, answer("503 Busy", Retry_After="3600"), asked=1),
        case("503-always", E.SERVER_ERROR, answer("503 Busy"), asked=1 + RETRIES),
        case("503-then-404", E.NOT_FOUND, answer("503 Busy"), answer("404 Not Found"), asked=2),
        case("redirect-429", None, redirect("/429-once/0.jpg"), asked=2),
    ]


def _tls_cases() -> list[Case]:
    refused = ("tls-by-address", "tls-wrong-name", "tls-expired", "tls-not-yet", "tls-self-signed")
    return [
        Case("tls", None, (kept(JPEG),), size=SIZE, copies=10, host="tls"),
        Case("tls-redirect", None, (redirect("/plain/1"),), size=SIZE, copies=3, host="tls"),
        Case(
            "tls-cut",
            E.INCOMPLETE,
            (answer(body=JPEG[:300], length=len(JPEG)),),
            1 + RETRIES,
            copies=3,
            host="tls",
        ),
        Case("named", None, (kept(JPEG),), size=SIZE, copies=10, host="named"),
        *[Case(host, E.TLS_ERROR, (kept(JPEG),), asked=0, copies=4, host=host) for host in refused],
    ]


def cases(forbidden_port: int) -> list[Case]:
    """All of them; their names are unique. `forbidden_port` is where somebody listens on loopback."""
    return [
        *_good_cases(),
        *_content_cases(),
        *_status_cases(),
        *_framing_cases(),
        *_large_cases(),
        *_slow_cases(),
        *_url_cases(),
        *_robots_cases(),
        *_retry_after_cases(),
        *_tls_cases(),
        *address_cases(forbidden_port),
    ]
