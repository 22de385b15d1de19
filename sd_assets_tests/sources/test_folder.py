"""Folders of images, through the real `datasets`."""

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pytest

from sd_assets.errors import CatalogError, ErrorCode, RowError, SourceError
from sd_assets.images import decode_rgb, inspect
from sd_assets.settings import FolderSource
from sd_assets.sources import folder as folder_module
from sd_assets.sources.images import read_images
from sd_assets.sources.rows import SourceRow, read_file
from sd_assets_tests.sources.conftest import picture


def read(path: Path, **fields: Any) -> list[SourceRow]:
    return list(read_images(FolderSource(kind="folder", path=str(path), **fields)))


def by_name(path: Path, **fields: Any) -> dict[str, SourceRow]:
    rows = read(path, **fields)
    assert [row.row for row in rows] == list(range(len(rows)))
    assert {row.revision for row in rows} <= {None}
    found = {row.source: row for row in rows}
    assert len(found) == len(rows)
    return found


def fill(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))


def describe(folder: Path, *lines: object, name: str = "metadata.jsonl") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_real_photographs_and_every_bad_file(tmp_path: Path, photographs: dict[str, bytes]) -> None:
    bad = {
        "text.jpg": b"this is no picture\n",
        "empty.jpg": b"",
        "cut.jpg": photographs["china.jpg"][:20_000],
    }
    for name, data in {**photographs, **bad}.items():
        (tmp_path / name).write_bytes(data)
    rows = by_name(tmp_path)
    assert {name: row.data for name, row in rows.items()} == {**photographs, **bad}  # as they came
    assert all(row.text is None and row.error is None for row in rows.values())

    def judged(data: Any) -> str:
        try:
            assert decode_rgb(data).mode == "RGB"
            return inspect(data).format
        except RowError as error:
            return error.code

    assert {name: judged(row.data) for name, row in rows.items()} == {
        "astronaut.png": "png",
        "china.jpg": "jpeg",
        "flower.webp": "webp",
        "camera.JPEG": "jpeg",
        "animated.gif": "gif",
        "cmyk.jpg": "jpeg",
        "sixteen_bit.png": "png",
        "chelsea.avif": "avif",
        "text.jpg": ErrorCode.NOT_AN_IMAGE,
        "empty.jpg": ErrorCode.EMPTY,
        "cut.jpg": ErrorCode.CORRUPT_IMAGE,
    }


def test_names_that_datasets_reads_in_its_own_way(tmp_path: Path) -> None:
    """Splits, patterns, addresses, escapes: a name is a name."""
    odd = tmp_path / "photos [1] of *"
    names = [
        "test_1.jpg",
        "val.png",
        "train/a.jpg",
        "test/a.jpg",
        "[ab].jpg",
        "a*.jpg",
        "what?.jpg",
        "a::b.jpg",
    ]
    names += [
        "new\nline.jpg",
        "caf\u00e9 \u2603.jpg",
        "{x}.jpg",
        "UPPER.JPG",
        "b\\c.jpg",
        "two.dots.webp",
        "train-00000.tif",
    ]
    fill(odd, *names)
    rows = by_name(odd)
    assert set(rows) == set(names)
    assert all(row.data == (odd / name).read_bytes() for name, row in rows.items())
    assert sorted(row.source for row in read(odd)) == sorted(names)


def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    fill(tmp_path, "good.jpg")
    try:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(picture(3))
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    rows = by_name(tmp_path)
    assert rows["caf\ufffd.jpg"].data == picture(3)


def test_what_is_left_out_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(
        tmp_path,
        "a.jpg",
        ".hidden.jpg",
        "__MACOSX/b.jpg",
        ".git/c.jpg",
        "notes.txt",
        "archive.zip",
        "photo.jpg.txt",
        "noname",
    )
    with caplog.at_level(logging.WARNING, logger="sd_assets"):
        assert set(by_name(tmp_path)) == {"a.jpg"}
    (message,) = [record.getMessage() for record in caplog.records]
    assert "7 files are not named like images and were left out" in message
    for name in (".hidden.jpg", "__MACOSX/", ".git/", "notes.txt", "archive.zip", "photo.jpg.txt", "noname"):
        assert name in message


def test_links(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    fill(elsewhere, "x.jpg", "sub/y.jpg")
    folder.mkdir()
    (folder / "file.jpg").symlink_to(elsewhere / "x.jpg")
    (folder / "linked").symlink_to(elsewhere, target_is_directory=True)
    (folder / "round").symlink_to(folder, target_is_directory=True)
    (folder / "broken.jpg").symlink_to(tmp_path / "gone.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (tmp_path / "way").symlink_to(folder, target_is_directory=True)
    rows = by_name(tmp_path / "way")
    assert set(rows) == {"file.jpg", "linked/x.jpg", "linked/sub/y.jpg", "broken.jpg", "pipe.jpg"}
    assert rows["linked/sub/y.jpg"].data == picture(1)
    for name, detail in {
        "broken.jpg": "a link to a file that does not exist",
        "pipe.jpg": "not a regular file",
    }.items():
        error = rows[name].error
        assert rows[name].data is None and error is not None
        assert (error.code, error.detail) == (ErrorCode.UNREADABLE, detail)


def test_metadata(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fill(tmp_path, "a.jpg", "sub/b.png", "unlisted.jpg", "sub/unlisted.jpg")
    describe(
        tmp_path,
        {"file_name": "sub/b.png", "text": " a red sofa ", "n": 1},
        {"file_name": "./a.jpg", "text": None, "n": 2},
        {"file_name": "gone.jpg", "text": "gone", "n": 3},
        {"file_name": None, "text": "no file", "n": 4},
    )
    with caplog.at_level(logging.WARNING, logger="sd_assets"):
        rows = by_name(tmp_path)
    assert [
        (row.source, row.text, row.data is not None, row.error and row.error.code) for row in rows.values()
    ] == [
        ("sub/b.png", "a red sofa", True, None),
        ("a.jpg", None, True, None),
        ("gone.jpg", "gone", False, ErrorCode.UNREADABLE),
        ("metadata.jsonl", "no file", False, ErrorCode.MISSING_IMAGE),
        ("sub/unlisted.jpg", None, True, None),
        ("unlisted.jpg", None, True, None),
    ]
    assert "2 images are in no metadata file" in caplog.text


def test_other_text_columns_and_several_metadata_files(tmp_path: Path) -> None:
    fill(tmp_path, "z/a.jpg", "b/a.jpg", "c/a.jpg")
    describe(tmp_path / "z", {"file_name": "a.jpg", "caption": "of z", "stars": 5})
    describe(tmp_path / "b", {"file_name": "a.jpg", "caption": "of b", "stars": 3})
    (tmp_path / "c" / "metadata.csv").write_text("file_name,caption,stars\na.jpg,of c,4\n")
    assert [(row.source, row.text) for row in read(tmp_path, text_column="caption")] == [
        ("b/a.jpg", "of b"),
        ("c/a.jpg", "of c"),
        ("z/a.jpg", "of z"),
    ]
    assert [row.text for row in read(tmp_path, text_column="stars")] == ["3", "4", "5"]
    assert [row.text for row in read(tmp_path)] == ["of b", "of c", "of z"]  # the only column of texts
    assert [row.text for row in read(tmp_path, text_column="")] == [None, None, None]


def test_a_list_of_texts_gives_the_first(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    describe(tmp_path, {"file_name": "a.jpg", "text": ["one", "two"]}, {"file_name": "b.jpg", "text": []})
    assert [row.text for row in read(tmp_path)] == ["one", None]


def test_labels_from_sub_folders(tmp_path: Path) -> None:
    fill(tmp_path, "cat/1.jpg", "dog/1.jpg", "dog/big/2.jpg", "cat/x.avif")
    rows = by_name(tmp_path, text_column="label")
    assert {name: row.text for name, row in rows.items()} == {
        "cat/1.jpg": "cat",
        "cat/x.avif": "cat",
        "dog/1.jpg": "dog",
        "dog/big/2.jpg": "big",
    }
    assert {row.text for row in read(tmp_path)} == {None}


def test_in_pieces_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{'abc'[number % 3]}/{number:03d}.jpg" for number in range(50)]
    fill(tmp_path, *names)
    whole = read(tmp_path)
    assert [row.source for row in whole] == sorted(names)
    monkeypatch.setattr(folder_module, "_PIECE", 7)
    assert read(tmp_path) == whole
    assert read(tmp_path, max_rows=10) == whole[:10]
    assert [row.text for row in read(tmp_path, text_column="label")] == [name[0] for name in sorted(names)]


def test_streamed_one_file_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, *(f"{number}.jpg" for number in range(20)))
    opened: list[str] = []

    def watched(path: Path) -> bytes:
        opened.append(path.name)
        return read_file(path)

    monkeypatch.setattr(folder_module, "read_file", watched)
    rows = read_images(FolderSource(kind="folder", path=str(tmp_path)))
    next(rows)
    next(rows)
    assert len(opened) == 2


def test_the_progress_bars_of_others_stay(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    assert not datasets.are_progress_bars_disabled()
    read(tmp_path)
    assert not datasets.are_progress_bars_disabled()


def test_no_network_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a local folder needs no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    fill(tmp_path, "a.jpg", "b.jpg")
    describe(tmp_path, {"file_name": "a.jpg", "text": "t"})
    assert len(read(tmp_path)) == 2


def test_the_same_order_whatever_the_hash_seed(tmp_path: Path) -> None:
    """`datasets` keeps metadata files in a set."""
    for name in "abcdefgh":
        fill(tmp_path, f"{name}/1.jpg")
        describe(tmp_path / name, {"file_name": "1.jpg", "text": name})
    code = """if True:
        import sys
        from sd_assets.settings import FolderSource
        from sd_assets.sources.images import read_images
        print("".join(row.text for row in read_images(FolderSource(kind="folder", path=sys.argv[1]))))
    """
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "abcdefgh" == "".join(row.text or "" for row in read(tmp_path))


# --- what cannot be read ---------------------------------------------------------------------------------------------


def test_missing_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere does not exist: give the folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"holds no images \(it holds nothing\)"):
        read(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(SourceError, match=r"holds no images \(it holds 1 other files\)"):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"notes.txt is not a folder"):
        read(tmp_path / "notes.txt")


def test_variable_that_is_not_set() -> None:
    with pytest.raises(CatalogError, match=r"source.path .* MY_PHOTOS is not set"):
        read(Path("${MY_PHOTOS}"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"file_name": "a.jpg"}\nnot json\n', "metadata.jsonl is not a list of images: line 2 is not JSON"),
        ('{"file_name": "a.jpg"}\n["a.jpg"]\n', "line 2 is not a JSON object"),
        ('{"text": "a"}\n', "file_name"),
        (
            '{"file_name": "a.jpg", "text": "s"}\n{"file_name": "a.jpg", "text": 5}\n',
            "changed from string to number",
        ),
        ('{"file_name": "../../etc/passwd"}\n', r"Invalid metadata file_name '../../etc/passwd'"),
        ('{"file_name": "/etc/passwd"}\n', r"Invalid metadata file_name '/etc/passwd'"),
        ("", "metadata.jsonl is empty: describe the images in it"),
        ("\n\n", "metadata.jsonl is not a list of images"),
    ],
)
def test_bad_metadata(tmp_path: Path, content: str, message: str) -> None:
    fill(tmp_path, "a.jpg")
    (tmp_path / "metadata.jsonl").write_text(content)
    with pytest.raises(SourceError, match=message) as caught:
        read(tmp_path)
    assert str(tmp_path / "metadata.jsonl") in str(caught.value)


def test_wrong_text_column(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    with pytest.raises(SourceError, match=r"has no metadata.jsonl .*'caption'.* there is only: label"):
        read(tmp_path, text_column="caption")
    describe(tmp_path, {"file_name": "a.jpg", "text": "t", "stars": 3})
    with pytest.raises(SourceError, match=r"metadata.jsonl has no column 'caption' .*there are: text, stars"):
        read(tmp_path, text_column="caption")
