"""Tars as WebDataset and img2dataset write them, and tars that somebody wrote to do harm."""

import bz2
import gzip
import io
import json
import logging
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from sd_assets.errors import CatalogError, ErrorCode, SourceError
from sd_assets.settings import WebDatasetSource
from sd_assets.sources import webdataset
from sd_assets.sources.images import read_images
from sd_assets.sources.rows import SourceRow
from sd_assets.sources.tar import TarReader
from sd_assets.sources.webdataset import split_name
from sd_assets_tests.sources.conftest import picture

E = ErrorCode


def read(path: Path | str, **fields: Any) -> list[SourceRow]:
    rows = list(read_images(WebDatasetSource(kind="webdataset", path=str(path), **fields)))
    assert [row.row for row in rows] == list(range(len(rows)))
    return rows


def member(name: str, **fields: Any) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def packed(*members: tuple[str | tarfile.TarInfo, bytes], format: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def offsets(archive: bytes) -> list[int]:
    """Where the members begin, as Python's tarfile finds them."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [info.offset for info in tar]


def write(path: Path, *members: tuple[str | tarfile.TarInfo, bytes], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(packed(*members, **options))
    return path


def told(rows: list[SourceRow]) -> list[tuple[bytes | memoryview | None, str | None, ErrorCode | None]]:
    return [(row.data, row.text, row.error.code if row.error else None) for row in rows]


# --- samples -----------------------------------------------------------------------------------------------------


def test_images_with_their_texts(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tar",
        ("0001.jpg", picture(0)),
        ("0001.txt", b" a red sofa\n"),
        ("0001.json", b'{"caption": "not this one"}'),
        ("0001.cls", b"7"),
        ("sub/0001.json", json.dumps({"caption": ["caf\u00e9 \u2603", "two"], "width": 9}).encode()),
        ("sub/0001.PNG", picture(1, "PNG")),
        ("0003.webp", picture(2, "WEBP")),
        ("0003.json", b'{"caption": null, "text": "of text"}'),
        ("0004.input.jpeg", b"no picture"),
        ("0004.txt", b"\xef\xbb\xbf"),
    )
    rows = read(path)
    assert told(rows) == [
        (picture(0), "a red sofa", None),
        (picture(1, "PNG"), "caf\u00e9 \u2603", None),
        (picture(2, "WEBP"), "of text", None),
        (b"no picture", None, None),
    ]
    assert [row.source for row in rows] == [
        "a.tar/0001.jpg",
        "a.tar/sub/0001.PNG",
        "a.tar/0003.webp",
        "a.tar/0004.input.jpeg",
    ]
    assert {row.revision for row in rows} == {None}
    assert [row.text for row in read(path, text_column="txt")] == ["a red sofa", None, None, None]


def test_the_same_samples_as_datasets_finds(tmp_path: Path) -> None:
    members = [
        (f"{n:04}.{kind}", data)
        for n in range(9)
        for kind, data in (("jpg", picture(n)), ("txt", b"t%d" % n))
    ]
    path = write(tmp_path / "a.tar", *members)
    stream = datasets.load_dataset("webdataset", data_files=[str(path)], split="train", streaming=True)
    theirs = list(stream.cast_column("jpg", datasets.Image(decode=False)))
    assert told(read(path)) == [(row["jpg"]["bytes"], row["txt"], None) for row in theirs]
    assert [row.source for row in read(path)] == [f"a.tar/{row['__key__']}.jpg" for row in theirs]


def test_samples_that_lack_something_are_rows(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tar",
        ("1.jpg", picture(1)),
        ("1.json", b'{"caption": "fine"}'),
        ("2.txt", b"no image"),
        ("3.jpg", picture(3)),
        ("3.png", picture(4, "PNG")),
        ("4.jpg", picture(5)),
        ("4.json", b"{broken"),
        ("5.jpg", picture(6)),
        ("5.json", b'["a list"]'),
        ("6.jpg", picture(7)),
        ("6.txt", b"caf\xe9"),
        ("7.json", b"[" * 100_000),
        ("7.jpg", b""),
        ("8.jpg", b""),
        ("9.json", rb'{"caption": "half a pair \ud800"}'),
        ("9.jpg", picture(9)),
    )
    rows = read(path)
    assert told(rows) == [
        (picture(1), "fine", None),
        (None, "no image", E.MISSING_IMAGE),
        (None, None, E.MISSING_IMAGE),
        (None, None, E.UNREADABLE),
        (None, None, E.UNREADABLE),
        (None, None, E.UNREADABLE),
        (None, None, E.UNREADABLE),
        (b"", None, None),  # judged where all bytes are
        (picture(9), "half a pair ?", None),
    ]
    details = [row.error.detail for row in rows if row.error]
    assert details[0] == "the sample has only: txt"
    assert details[1].startswith(
        "the sample '3' has several images: jpg, png; name one of these extensions in"
    )
    assert details[2].startswith("4.json is not JSON: ")
    assert details[3:5] == ["5.json is not a JSON object", "6.txt is not UTF-8 (unexpected end of data)"]
    assert [row.source for row in rows[1:3]] == ["a.tar/2", "a.tar/3"]


def test_several_images_in_every_sample(tmp_path: Path) -> None:
    members = [
        (f"{n}.{kind}", picture(n * 7 + len(kind))) for n in range(3) for kind in ("input.jpg", "mask.jpg")
    ]
    path = write(tmp_path / "a.tar", *members)
    with pytest.raises(
        SourceError, match=r"a.tar: the sample '0' has several images: input.jpg, mask.jpg; name one"
    ):
        read(path)
    assert [row.data for row in read(path, image_column="input.jpg")] == [
        picture(n * 7 + 9) for n in range(3)
    ]
    assert len(read(path, image_column=".Mask.JPG")) == 3
    with pytest.raises(
        SourceError, match=r"not one of 3 samples has a member .png .*; the last one has: input.jpg, m"
    ):
        read(path, image_column="png")


def test_a_member_without_an_images_name_may_be_the_image(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", ("1.img", picture(1)), ("1.txt", b"t"))
    with pytest.raises(SourceError, match=r"not one of 1 samples has an image; the last one has: img, txt"):
        read(path)
    assert told(read(path, image_column="img")) == [(picture(1), "t", None)]


def test_text_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.tar",
        ("0.jpg", picture(0)),  # without a .json
        ("1.jpg", picture(1)),
        ("1.txt", b"of txt"),
        ("1.json", b'{"alt": "of alt", "stars": 5}'),
        ("2.jpg", picture(2)),
        ("2.json", b'{"stars": 4}'),
    )
    assert [row.text for row in read(path)] == [None, "of txt", None]
    assert [row.text for row in read(path, text_column="alt")] == [None, "of alt", None]
    assert [row.text for row in read(path, text_column="stars")] == [None, "5", "4"]
    with pytest.raises(
        SourceError, match=r"1.json has no key 'captoin' \(`text_column:`\); there are: 'alt', 'stars'"
    ):
        read(path, text_column="captoin")
    bare = write(tmp_path / "b.tar", ("1.jpg", picture(1)))
    for column, extension in {"alt": "json", "txt": "txt"}.items():
        with pytest.raises(
            SourceError, match=rf"no sample has a .{extension} to take '{column}' .* last one has: jpg"
        ):
            read(bare, text_column=column)
            read(bare, text_column=column, max_rows=1)
        with pytest.raises(
            SourceError, match=rf"no sample has a .{extension} to take '{column}' .* last one has: jpg"
        ):
            read(bare, text_column=column)


def test_what_belongs_to_no_sample_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(
        tmp_path / "a.tar",
        (member("data.d/", type=tarfile.DIRTYPE), b""),
        ("__index__.json", b"{}"),
        ("data.d/._1.jpg", b"of a Mac"),
        (".DS_Store", b"x"),
        ("README", b"x"),
        ("data.d/1.jpg", picture(1)),
    )
    with caplog.at_level(logging.WARNING, logger="sd_assets"):
        assert told(read(path)) == [(picture(1), None, None)]
    assert (
        "4 members belong to no sample and were left out: __index__.json, data.d/._1.jpg, .DS_Store, README"
        in (caplog.text)
    )


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("1.jpg", ("1", "jpg")),
        ("./a.b/1.input.PNG", ("./a.b/1", "input.png")),
        ("a/1", ("a/1", "")),
        ("a/.jpg", ("a/.jpg", "")),
        ("__x__.jpg", ("__x__.jpg", "")),
        ("/abs/1.jpg", ("/abs/1", "jpg")),
        ("1.", ("1", "")),
    ],
)
def test_names(name: str, parts: tuple[str, str]) -> None:
    assert split_name(name) == parts


def test_the_same_name_again_is_another_sample(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", *((f"{n}.jpg", picture(m)) for m, n in enumerate("1213")))
    assert [row.source for row in read(path)] == [f"a.tar/{n}.jpg" for n in "1213"]


# --- files -------------------------------------------------------------------------------------------------------


def test_folders_ranges_and_patterns(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "shards" / f"s-{number:03}.tar", (f"{number}.jpg", picture(number)))
    (tmp_path / "shards" / "s-001_stats.json").write_text("{}")
    expected = [f"s-{number:03}.tar/{number}.jpg" for number in range(3)]
    assert [row.source for row in read(tmp_path / "shards")] == expected
    assert [row.source for row in read(tmp_path / "shards" / "s-{000..002}.tar")] == expected
    assert [row.source for row in read(tmp_path / "shards" / "s-{002,000}.tar")] == [expected[2], expected[0]]
    assert [row.source for row in read(tmp_path / "*" / "*.tar", max_rows=2)] == expected[:2]
    with pytest.raises(SourceError, match=r"there is no .*s-003.tar; give a file"):
        read(tmp_path / "shards" / "s-{000..003}.tar")
    with pytest.raises(
        SourceError, match=r"there is no .*none.tar; give a file, a folder that holds \*.tar, \*.tar.gz"
    ):
        read(tmp_path / "none.tar")
    with pytest.raises(CatalogError, match="MY_TARS is not set"):
        read("${MY_TARS}/a.tar")


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_in_one_piece_or_several(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    data = packed(*((f"{n}.jpg", picture(n)) for n in range(9)))
    (tmp_path / "a.tar.gz").write_bytes(compress(data[:5_000]) + compress(data[5_000:]))
    assert [row.data for row in read(tmp_path)] == [picture(n) for n in range(9)]
    (tmp_path / "a.tar.gz").write_bytes(compress(data)[:-30])
    with pytest.raises(SourceError, match=r"a.tar.gz is damaged or cut short"):
        read(tmp_path)


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_formats_of_tar(tmp_path: Path, format: int) -> None:
    names = ["short.jpg", f"{'d' * 90}/{'n' * 95}.jpg"]
    if format != tarfile.USTAR_FORMAT:
        names += [f"{'deep/' * 80}caf\u00e9 \u2603.jpg", "n" * 250 + ".jpg"]
    path = write(tmp_path / "a.tar", *((name, picture(n)) for n, name in enumerate(names)), format=format)
    assert [row.source for row in read(path)] == [f"a.tar/{name}" for name in names]
    assert [row.data for row in read(path)] == [picture(n) for n in range(len(names))]


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    info = member("caf.jpg")
    path = write(tmp_path / "a.tar", (info, picture(0)))
    header = bytearray(path.read_bytes())
    header[:7] = b"caf\xe9.jp"
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    path.write_bytes(header)
    assert [row.source for row in read(path, image_column="jp")] == ["a.tar/caf\ufffd.jp"]


# --- damage ------------------------------------------------------------------------------------------------------


def test_a_tar_that_is_cut_anywhere(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No sample is lost without a word, wherever it is cut."""
    names = [f"{n}.jpg" for n in range(4)]
    whole = packed(*((name, picture(n)) for n, name in enumerate(names)))
    starts = offsets(whole)
    ends = len(whole.rstrip(b"\0"))
    path = tmp_path / "a.tar"
    for cut in range(100, ends, 97):
        path.write_bytes(whole[:cut])
        rows = read_images(WebDatasetSource(kind="webdataset", path=str(path)))
        read_rows: list[SourceRow] = []
        with pytest.raises(SourceError, match=r"a.tar is damaged or cut short|is no tar"):
            for row in rows:
                read_rows.append(row)
        assert [row.data for row in read_rows] == [picture(n) for n in range(len(read_rows))]
    for number, start in enumerate(starts[1:], 1):
        path.write_bytes(whole[:start])
        caplog.clear()
        assert len(read(path)) == number
        assert (
            f"lacks the mark of its end: if it was cut off after '{number - 1}.jpg', samples are missing"
            in caplog.text
        )


def test_a_damaged_header_in_the_middle(tmp_path: Path) -> None:
    """Which Python's tarfile takes for the end."""
    whole = bytearray(packed(*((f"{n}.jpg", picture(n)) for n in range(4))))
    whole[offsets(bytes(whole))[2] + 100] ^= 0xFF
    path = tmp_path / "a.tar"
    path.write_bytes(whole)
    assert len(offsets(path.read_bytes())) == 2
    rows = read_images(WebDatasetSource(kind="webdataset", path=str(path)))
    assert next(rows).data == picture(0)
    with pytest.raises(
        SourceError, match=r"damaged or cut short after the member '1.jpg' \(byte \d+\): no member beg"
    ):
        next(rows)


def test_what_is_no_tar(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(b"")
    with pytest.raises(SourceError, match=r"a.tar is empty"):
        read(path)
    for content in (b"this is no tar" * 100, gzip.compress(b"nor is this" * 100), picture(0) * 3):
        path.write_bytes(content)
        with pytest.raises(
            SourceError, match=r"a.tar is no tar, nor one that gzip, bzip2 or xz has compressed"
        ):
            read(path)
    path.write_bytes(b"short")
    with pytest.raises(SourceError, match=r"a.tar is damaged or cut short at its first member"):
        read(path)
    path.write_bytes(bytes(10_240))
    assert read(path) == []
    assert "holds no samples" in caplog.text


def test_tars_behind_one_another(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(packed(("1.jpg", picture(1))) + packed(("2.jpg", picture(2))))
    assert [row.data for row in read(tmp_path)] == [picture(1), picture(2)]


# --- harm --------------------------------------------------------------------------------------------------------


def test_nothing_is_followed_or_written(tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_bytes(picture(5))
    (tmp_path / "tars").mkdir()
    path = write(
        tmp_path / "tars" / "a.tar",
        (member("1.jpg", type=tarfile.SYMTYPE, linkname=str(secret)), b""),
        (member("2.jpg", type=tarfile.LNKTYPE, linkname="../secret.jpg"), b""),
        (member("3.jpg", type=tarfile.CHRTYPE, devmajor=1, devminor=5), b""),
        (member("4.jpg", type=tarfile.FIFOTYPE), b""),
        (member("5.jpg", type=b"Z"), b"??"),
        ("/abs/6.jpg", picture(6)),
        ("../../7.jpg", picture(7)),
        ("8.jpg", picture(8)),
        (member("8.txt", type=tarfile.SYMTYPE, linkname="/etc/passwd"), b""),
    )
    rows = read(path)
    assert [row.error and row.error.detail for row in rows[:6]] == [
        "'1.jpg' is a symbolic link; only files are read",
        "'2.jpg' is a hard link; only files are read",
        "'3.jpg' is a device; only files are read",
        "'4.jpg' is a pipe; only files are read",
        "'5.jpg' is of the unknown type b'Z'; only files are read",
        None,
    ]
    assert [row.data for row in rows[5:]] == [picture(6), picture(7), None]
    assert rows[7].error is not None and rows[7].error.detail.startswith("'8.txt' is a symbolic link")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "secret.jpg",
        "tars",
        "tars/a.tar",
    ]


def header(name: str, size: int, type: bytes = tarfile.REGTYPE) -> bytes:
    """Of a member that claims a size; more than 8 GiB is written in base 256, as GNU tar does."""
    info = member(name, size=0, type=type)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\x80" + size.to_bytes(11, "big") if size >= 8**11 else f"{size:011o}\0".encode()
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (header("1.bin", 2**62), "damaged or cut short at its first member .*cut short"),
        (header("x", 2**40, tarfile.XHDTYPE) + bytes(4096), "an extended header of 1099511627776 bytes"),
        (
            header("x", 2**40, tarfile.GNUTYPE_LONGNAME) + bytes(4096),
            "an extended header of 1099511627776 bytes",
        ),
        (
            header("x", 100, tarfile.XHDTYPE) + b"99999 path=x\n".ljust(512, b"\0"),
            "malformed extended header",
        ),
        (header("x", 100, tarfile.XHDTYPE) + b"0 path=x\n".ljust(512, b"\0"), "malformed extended header"),
        (
            header("x", 14, tarfile.XHDTYPE) + b"14 size=-5120\n".ljust(512, b"\0") + header("1.jpg", 5),
            "impossible size",
        ),
        (
            header("x", 10, tarfile.XHDTYPE) + b"10 path=x\n".ljust(512, b"\0"),
            "ends where a member should follow",
        ),
        (header("1.jpg", 5, tarfile.GNUTYPE_SPARSE), "files with holes"),
    ],
)
def test_headers_that_lie(tmp_path: Path, archive: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(archive)
    with pytest.raises(SourceError, match=message):
        read(tmp_path)


def test_a_long_chain_of_extended_headers(tmp_path: Path) -> None:
    """Which sends Python's tarfile into a recursion."""
    link = header("x", 10, tarfile.XHDTYPE) + b"10 path=x\n".ljust(512, b"\0")
    (tmp_path / "a.tar").write_bytes(link * 5_000 + packed(("1.jpg", picture(1))))
    with TarReader(tmp_path / "a.tar") as tar:
        assert [it.name for it in tar] == ["x"]


def test_members_and_samples_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webdataset, "MAX_FILE_BYTES", 2_000)
    monkeypatch.setattr(webdataset, "MAX_TEXT_BYTES", 100)
    path = write(
        tmp_path / "a.tar",
        ("0.jpg", picture(0)),
        ("1.jpg", bytes(2_001)),
        ("2.jpg", picture(2)),
        ("2.txt", bytes(101)),
        *((f"3.{n}.jpg", picture(n)) for n in range(500)),
        ("4.jpg", picture(4)),
        ("4.npy", bytes(1_000_000)),
    )
    rows = read(path)
    assert [row.error and row.error.code for row in rows] == [
        None,
        E.TOO_LARGE,
        E.TOO_LARGE,
        E.MISSING_IMAGE,
        None,
    ]
    assert rows[1].error is not None
    assert rows[1].error.detail == "'1.jpg' has 2001 bytes, over the limit of 2000"
    assert rows[3].error is not None and len(rows[3].error.detail) < 300
