"""Parquet files as `datasets`, pandas and others write them, and what else ends in .parquet."""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.errors import CatalogError, ErrorCode, SourceError
from sd_assets.settings import ParquetSource
from sd_assets.sources.images import read_images
from sd_assets.sources.rows import SourceRow
from sd_assets_tests.sources.conftest import picture

BYTES = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def read(path: Path | str, **fields: Any) -> list[SourceRow]:
    rows = list(read_images(ParquetSource(kind="parquet", path=str(path), **fields)))
    assert [row.row for row in rows] == list(range(len(rows)))
    return rows


def write(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def codes(rows: list[SourceRow]) -> list[ErrorCode | None]:
    return [row.error.code if row.error else None for row in rows]


# --- what goes well ----------------------------------------------------------------------------------------------


def test_bytes_found_by_what_they_are(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.parquet",
        {
            "id": pa.array([1, 2, 3, 4, 5, 6]),
            "embedding": pa.array([b"\x00\x01"] * 6, pa.binary()),
            "nothing": pa.array([None] * 6, pa.binary()),
            "jpg": pa.array(
                [None, picture(0), b"", b"no picture", picture(1), picture(1)], pa.large_binary()
            ),
            "text": ["no image", " a red sofa ", "", None, "caf\u00e9 \u2603 \U0001f6cb", "twice"],
        },
    )
    rows = read(path)
    assert [row.data for row in rows] == [None, picture(0), b"", b"no picture", picture(1), picture(1)]
    assert [row.text for row in rows] == [
        "no image",
        "a red sofa",
        None,
        None,
        "caf\u00e9 \u2603 \U0001f6cb",
        "twice",
    ]
    assert codes(rows) == [ErrorCode.MISSING_IMAGE, None, None, None, None, None]
    assert {(row.source, row.revision) for row in rows} == {("a.parquet", None)}


def test_what_datasets_writes(tmp_path: Path) -> None:
    features = datasets.Features(
        {
            "thumbnail": datasets.Value("binary"),
            "photo": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "captions": datasets.List(datasets.Value("string")),
        }
    )
    cells: list[Any] = [{"bytes": picture(n), "path": f"{n}.jpg"} for n in range(2)]
    columns = {
        "thumbnail": [picture(9)] * 3,  # no second image column: `datasets` noted which one it is
        "photo": [*cells, None],
        "label": [1, 0, -1],
        "captions": [["one", "two"], [], None],
    }
    datasets.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "train.parquet")
    rows = read(tmp_path, text_column="label")
    assert [(row.data, row.text) for row in rows] == [(picture(0), "dog"), (picture(1), "cat"), (None, None)]
    assert [row.text for row in read(tmp_path, text_column="captions")] == ["one", None, None]


def test_a_note_of_datasets_that_cannot_be_read_is_done_without(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = pa.table({"image": [picture(0)], "text": ["t"]})
    note = b'{"info": {"features": {"image": {"_type": "Hologram"}}}}'
    pq.write_table(table.replace_schema_metadata({b"huggingface": note}), tmp_path / "a.parquet")
    assert [row.data for row in read(tmp_path)] == [picture(0)]
    assert "cannot be read" in caplog.text


def test_a_struct_of_bytes_and_path(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "2.jpg").write_bytes(picture(2))
    cells = [
        {"bytes": picture(0), "path": "elsewhere.jpg"},
        {"bytes": None, "path": "2.jpg"},
        {"bytes": None, "path": "gone.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    rows = read(write(tmp_path / "sub" / "a.parquet", {"cell": pa.array(cells, BYTES)}))
    assert [row.data for row in rows] == [picture(0), picture(2), None, None, None]
    assert codes(rows)[2:] == [ErrorCode.UNREADABLE, ErrorCode.MISSING_IMAGE, ErrorCode.MISSING_IMAGE]


def test_paths_of_files_are_relative_to_the_parquet_file(tmp_path: Path) -> None:
    for name in ("images/0.jpg", "data/caf\u00e9.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(picture(len(name)))
    (tmp_path / "data" / "link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "data" / "pipe.jpg")
    paths = [
        "../images/0.jpg",
        str(tmp_path / "images" / "0.jpg"),
        "caf\u00e9.jpg",
        "gone.jpg",
        "link.jpg",
        "pipe.jpg",
        "http://127.0.0.1/a.jpg",
        "nul\0.jpg",
        "x" * 5_000,
        "",
        None,
    ]
    path = write(tmp_path / "data" / "a.parquet", {"file": pa.array(paths, pa.string())})
    rows = read(path, image_column="file")
    assert [row.data for row in rows[:3]] == [picture(12), picture(12), picture(13)]
    assert codes(rows)[3:] == [ErrorCode.UNREADABLE] * 7 + [ErrorCode.MISSING_IMAGE]
    details = [row.error.detail for row in rows if row.error]
    assert details[0] == "'gone.jpg': No such file or directory"
    assert details[2] == "'pipe.jpg': not a regular file"
    assert details[3] == "http://127.0.0.1/a.jpg is an address, not a file; addresses are for `kind: urls`"


def test_folders_patterns_and_ranges(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = [
        "b/1.parquet",
        "a/2.PARQUET",
        "a/1.parquet",
        "c[1]/{x}.parquet",
        "_old/9.parquet",
        ".git/8.parquet",
    ]
    for number, name in enumerate(names):
        write(tmp_path / name, {"image": [picture(number)]})
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "b" / "round").symlink_to(tmp_path, target_is_directory=True)
    with caplog.at_level(logging.WARNING, logger="sd_assets"):
        rows = read(tmp_path)
    assert [row.source for row in rows] == ["a/1.parquet", "a/2.PARQUET", "b/1.parquet", "c[1]/{x}.parquet"]
    assert [row.data for row in rows] == [picture(number) for number in (2, 1, 0, 3)]
    assert "3 other files were left out: .git, _old, notes.txt" in caplog.text
    assert [row.source for row in read(tmp_path / "*" / "1.parquet")] == ["a/1.parquet", "b/1.parquet"]
    assert [row.source for row in read(tmp_path / "**" / "2.*")] == ["2.PARQUET"]
    assert [row.source for row in read(tmp_path / "{b,a}" / "1.parquet")] == ["b/1.parquet", "a/1.parquet"]
    assert [row.source for row in read(tmp_path / "c[1]")] == ["{x}.parquet"]
    assert [row.source for row in read(tmp_path / "c[1]" / "{x}.parquet")] == ["{x}.parquet"]
    assert len(read(tmp_path / "*" / "*.parquet", max_rows=2)) == 2


def test_columns_with_odd_names_and_texts_of_any_type(tmp_path: Path) -> None:
    columns = {
        "im.age": pa.array([{"bytes": picture(0), "path": None}], BYTES),
        "bytes": ["no image"],
        "n.of \u2603": pa.array([7]),
        "kind": pa.array(["red sofa"]).dictionary_encode(),
        "raw": pa.array([b"caf\xe9"]).view(pa.string()),
    }
    path = write(tmp_path / "a.parquet", columns)
    assert [(row.data, row.text) for row in read(path, text_column="n.of \u2603")] == [(picture(0), "7")]
    assert [row.text for row in read(path, text_column="kind")] == ["red sofa"]
    assert [row.text for row in read(path, text_column="raw")] == ["caf\ufffd"]
    assert [row.text for row in read(path)] == [None]


def test_files_of_one_dataset_may_differ_in_types(tmp_path: Path) -> None:
    write(
        tmp_path / "1.parquet",
        {"image": pa.array([{"bytes": picture(0), "path": None}], BYTES), "text": ["a"]},
    )
    write(tmp_path / "2.parquet", {"text": pa.array([5]), "image": pa.array([picture(1)]), "more": ["x"]})
    assert [(row.data, row.text) for row in read(tmp_path)] == [(picture(0), "a"), (picture(1), "5")]


def test_the_first_rows_may_be_null(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", {"image": pa.array([None] * 500, pa.binary())}, row_group_size=100)
    write(tmp_path / "2.parquet", {"image": pa.array([picture(0)])})
    rows = read(tmp_path)
    assert len(rows) == 501 and rows[500].data == picture(0)


# --- memory ------------------------------------------------------------------------------------------------------


def test_a_huge_row_group_is_streamed(tmp_path: Path) -> None:
    """One row group of 80 MB, whose pages are small: a reader of whole groups or chunks would need all of it."""
    images = [picture(number) + os.urandom(200_000) for number in range(400)]
    table = pa.table({"image": pa.array([{"bytes": data, "path": None} for data in images], BYTES)})
    pq.write_table(
        table,
        tmp_path / "a.parquet",
        row_group_size=400,
        write_batch_size=4,
        use_dictionary=False,
        compression="none",
    )
    code = """if True:
        import hashlib, resource, sys
        from sd_assets.settings import ParquetSource
        from sd_assets.sources.images import read_images
        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        rows = read_images(ParquetSource(kind="parquet", path=sys.argv[1]))
        seen = hashlib.sha256(next(rows).data)
        before = peak()
        for row in rows:
            seen.update(row.data)
        print(peak() - before, seen.hexdigest())
    """
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    grown, digest = run.stdout.split()
    assert digest == hashlib.sha256(b"".join(images)).hexdigest()
    assert float(grown) < 50


# --- what cannot be read -----------------------------------------------------------------------------------------


def test_files_that_are_missing_or_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"there is no .*none.parquet; give a file, a folder that holds \*.parquet"
    ):
        read(tmp_path / "none.parquet")
    with pytest.raises(SourceError, match=r"holds no \*.parquet: give the folder that does"):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"there is no .*x-3.parquet"):
        write(tmp_path / "x-2.parquet", {"image": [picture(0)]})
        read(tmp_path / "x-{2..3}.parquet")
    with pytest.raises(SourceError, match="would be 0 files: check its ranges"):
        read(tmp_path / "x-{3..2}.parquet")
    with pytest.raises(SourceError, match="would be 1000001 files"):
        read(tmp_path / "x-{0..99999999999}.parquet")
    (tmp_path / "empty.parquet").write_bytes(b"")
    with pytest.raises(SourceError, match=r"empty.parquet cannot be read as Parquet: is empty"):
        read(tmp_path / "empty.parquet")
    (tmp_path / "text.parquet").write_bytes(b"this is no Parquet")
    with pytest.raises(SourceError, match=r"text.parquet cannot be read as Parquet: .*magic bytes"):
        read(tmp_path / "text.parquet")
    with pytest.raises(CatalogError, match="MY_PARQUET is not set"):
        read("${MY_PARQUET}/a.parquet")


def test_a_file_that_is_damaged_in_the_middle(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"image": [picture(n) for n in range(40)]}, row_group_size=10)
    metadata = pq.read_metadata(path).row_group(2).column(0)
    start = metadata.dictionary_page_offset or metadata.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 16] = bytes(range(240, 256))
    path.write_bytes(data)
    rows = read_images(ParquetSource(kind="parquet", path=str(path)))
    assert [next(rows).data for _ in range(20)] == [picture(n) for n in range(20)]
    with pytest.raises(SourceError, match=r"a.parquet is damaged or cut short after row 20: .*Replace it"):
        next(rows)


def test_no_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(
        tmp_path / "a.parquet", {"image": pa.array([], pa.binary()), "text": pa.array([], pa.string())}
    )
    assert read(path) == []
    assert read(path, image_column="image", text_column="text") == []
    assert "holds no rows" in caplog.text
    with pytest.raises(SourceError, match="no column 'photo'"):
        read(path, image_column="photo")


def test_wrong_columns(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"a": [picture(0)], "b": [picture(1)], "n": [1], "url": ["x"]})
    with pytest.raises(SourceError, match="has several image columns: a, b; name one in `image_column:`"):
        read(path)
    assert read(path, image_column="b")[0].data == picture(1)
    with pytest.raises(SourceError, match=r"no column 'c' \(`image_column:`\); there are: a, b, n, url"):
        read(path, image_column="c")
    with pytest.raises(SourceError, match=r"no column 'caption' \(`text_column:`\); there are: b, n, url"):
        read(path, image_column="a", text_column="caption")
    with pytest.raises(SourceError, match=r"a.parquet, column 'n': the image column holds int, not images"):
        read(path, image_column="n")
    other = write(tmp_path / "b.parquet", {"id": [1], "url": ["http://x.org/a.jpg"], "raw": [b"no image"]})
    with pytest.raises(SourceError, match=r"has no image column; its columns: id, url, raw\. If one of them"):
        read(other)


def test_a_file_without_the_columns_of_the_first(tmp_path: Path) -> None:
    write(tmp_path / "1.parquet", {"image": [picture(0)], "text": ["a"]})
    write(tmp_path / "2.parquet", {"image": [picture(1)], "caption": ["b"]})
    with pytest.raises(
        SourceError, match=r"2.parquet has no column 'text', unlike the first file; there are: image, c"
    ):
        read(tmp_path)


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.table(
        [pa.array([picture(0)]), pa.array(["a"]), pa.array(["b"])], names=["image", "text", "text"]
    )
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="has several columns 'text': give each a name of its own"):
        read(tmp_path)
