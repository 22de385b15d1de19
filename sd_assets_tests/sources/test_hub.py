"""Datasets as they lie on a Hub, through the same `load_dataset` path, from a local folder."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.errors import CatalogError, ErrorCode, SourceError
from sd_assets.settings import HubSource
from sd_assets.sources.images import read_images
from sd_assets.sources.rows import SourceRow
from sd_assets_tests.sources.conftest import picture


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    yield


def read(name: Path | str, **fields: Any) -> list[SourceRow]:
    return list(read_images(HubSource(kind="hub", id=str(name), **fields)))


def write(
    folder: Path, columns: dict[str, list[Any]], *, images: tuple[str, ...] = ("image",), split: str = "train"
) -> Path:
    """A dataset of the Hub's usual form: Parquet with the features of `datasets` in its metadata."""
    features = datasets.Features(
        {
            name: datasets.Image()
            if name in images
            else datasets.ClassLabel(names=["cat", "dog"])
            if name == "label"
            else datasets.Value("string")
            for name in columns
        }
    )
    (folder / "data").mkdir(parents=True, exist_ok=True)
    data = datasets.Dataset.from_dict(columns, features=features)
    data.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def images(count: int) -> list[dict[str, Any]]:
    return [{"bytes": picture(number), "path": f"{number}.jpg"} for number in range(count)]


def test_parquet(tmp_path: Path) -> None:
    data: list[Any] = [
        *images(2),
        None,
        {"bytes": b"no picture", "path": "x.jpg"},
        {"bytes": b"", "path": "y.jpg"},
    ]
    write(tmp_path, {"image": data, "text": ["a", None, "c", " ", "e"]})
    rows = read(tmp_path)
    assert [row.data for row in rows] == [picture(0), picture(1), None, b"no picture", b""]
    assert [row.text for row in rows] == ["a", None, "c", None, "e"]
    assert [row.error and row.error.code for row in rows] == [None, None, ErrorCode.MISSING_IMAGE, None, None]
    assert [row.row for row in rows] == [0, 1, 2, 3, 4]
    assert {row.source for row in rows} == {f"{tmp_path}/default/train"}
    assert read(tmp_path, max_rows=2) == rows[:2]


def test_the_image_column_is_found_when_there_is_one(tmp_path: Path) -> None:
    write(tmp_path, {"text": ["t"], "picture": images(1), "title": ["of it"]}, images=("picture",))
    assert [(row.data, row.text) for row in read(tmp_path)] == [(picture(0), "t")]
    assert [row.text for row in read(tmp_path, text_column="title", image_column="picture")] == ["of it"]


def test_labels_are_read_by_name(tmp_path: Path) -> None:
    write(tmp_path, {"image": images(3), "label": [1, 0, None]})
    assert [row.text for row in read(tmp_path, text_column="label")] == ["dog", "cat", None]
    assert [row.text for row in read(tmp_path)] == [None] * 3


def test_splits(tmp_path: Path) -> None:
    write(tmp_path, {"image": images(1)})
    write(tmp_path, {"image": images(3)}, split="test")
    assert (len(read(tmp_path)), len(read(tmp_path, split="test"))) == (1, 3)
    with pytest.raises(SourceError, match=r"split 'validation'\).*Available splits: .*'test'"):
        read(tmp_path, split="validation")


def test_configurations(tmp_path: Path) -> None:
    for name in ("small", "large"):
        write(tmp_path / name, {"image": images(1 if name == "small" else 2)})
    card = {"configs": [{"config_name": name, "data_files": f"{name}/data/*"} for name in ("small", "large")]}
    (tmp_path / "README.md").write_text(f"---\n{json.dumps(card)}\n---\n")
    assert (len(read(tmp_path, config="small")), len(read(tmp_path, config="large"))) == (1, 2)
    with pytest.raises(SourceError, match="small"):
        read(tmp_path)
    with pytest.raises(SourceError, match=r"'huge' not found. Available: \['small', 'large'\]"):
        read(tmp_path, config="huge")


def test_a_repository_that_is_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "a.jpg").write_bytes(picture(1))
    (tmp_path / "train" / "empty.jpg").write_bytes(b"")
    (tmp_path / "train" / "metadata.jsonl").write_text(
        '{"file_name": "a.jpg", "text": "t"}\n{"file_name": "empty.jpg", "text": "e"}\n{"file_name": "gone.jpg", "text": "g"}\n'
    )
    rows = read(tmp_path)
    assert [(row.data, row.text) for row in rows] == [(picture(1), "t"), (b"", "e"), (None, "g")]
    assert rows[2].error is not None and rows[2].error.code == ErrorCode.UNREADABLE


def test_parquet_that_knows_nothing_of_datasets(tmp_path: Path) -> None:
    """Bytes, or a struct of bytes and path, written by somebody else: named, they are read."""
    table = {"raw": [picture(1), None], "cell": [{"bytes": picture(2), "path": None}] * 2, "text": ["a", "b"]}
    pq.write_table(pa.table(table), tmp_path / "train.parquet")
    with pytest.raises(
        SourceError, match=r"has no image column; its columns: raw, cell, text.*`image_column:`"
    ):
        read(tmp_path)
    assert [row.data for row in read(tmp_path, image_column="raw")] == [picture(1), None]
    assert [row.data for row in read(tmp_path, image_column="cell")] == [picture(2)] * 2
    with pytest.raises(SourceError, match=r"row 0: the image column holds str, not images"):
        read(tmp_path, image_column="text")


def test_no_image_column_in_a_csv(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("url,text\nhttp://example.com/a.jpg,a\n")
    with pytest.raises(SourceError, match="has no image column; its columns: url, text"):
        read(tmp_path)


def test_wrong_columns(tmp_path: Path) -> None:
    write(tmp_path, {"image": images(1), "mask": images(1), "text": ["t"]}, images=("image", "mask"))
    with pytest.raises(
        SourceError, match="has several image columns: image, mask; name one in `image_column:`"
    ):
        read(tmp_path)
    with pytest.raises(
        SourceError, match=r"no column 'photo' \(`image_column:`\); there are: image, mask, text"
    ):
        read(tmp_path, image_column="photo")
    with pytest.raises(SourceError, match=r"no column 'caption' \(`text_column:`\); there are: image, text"):
        read(tmp_path, image_column="mask", text_column="caption")


def test_only_the_rows_asked_for_are_read(tmp_path: Path) -> None:
    write(tmp_path, {"image": images(2)})
    (tmp_path / "data" / "train-00001-of-00001.parquet").write_bytes(b"not parquet")
    rows = read_images(HubSource(kind="hub", id=str(tmp_path), image_column="image"))
    assert next(rows).data == picture(0)


def test_a_file_that_breaks_in_the_middle(tmp_path: Path) -> None:
    write(tmp_path, {"image": images(2)})
    (tmp_path / "data" / "train-00001-of-00001.parquet").write_bytes(b"not parquet at all")
    with pytest.raises(SourceError, match=r"could not be read past row 1: .*run it again"):
        read(tmp_path)


def test_variable_that_is_not_set() -> None:
    with pytest.raises(CatalogError, match=r"source.id .* MY_DATASET is not set"):
        read("${MY_DATASET}")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("RepoNotFound", "'some/dataset' does not exist, or is private: check `source.id`, or set HF_TOKEN"),
        ("RevisionNotFound", "has no revision 'v9': name a branch"),
        ("GatedRepo", "is gated: accept its terms on its page, then set HF_TOKEN"),
    ],
)
def test_the_hub_refuses(hub_saying: Callable[[int, str], None], code: str, message: str) -> None:
    hub_saying(404, code)
    with pytest.raises(SourceError, match=message):
        read("some/dataset", revision="v9")


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        SourceError, match=r"cannot be reached: .*Check the network and HF_ENDPOINT, or read a copy"
    ):
        read("some/dataset")
    with pytest.raises(SourceError, match="an id is `owner/name`"):
        read("a/b/c")
