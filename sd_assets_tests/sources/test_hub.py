"""What a dataset of the Hub holds becomes rows: read by the real clients from a local Hub."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import datasets
import pytest

from sd_assets.errors import CatalogError, ErrorCode, SourceError
from sd_assets.settings import HubSource
from sd_assets.sources.images import read_images
from sd_assets.sources.rows import SourceRow
from sd_assets_tests.hub.repos import Files
from sd_assets_tests.hub.server import Hub
from sd_assets_tests.sources.conftest import picture
from sd_assets_tests.sources.hub_data import IMAGE, SHARD, bare_parquet, cells, parquet, pictures, tar

ID = "org/pictures"


def read(name: str = ID, **fields: Any) -> list[SourceRow]:
    return list(read_images(HubSource(kind="hub", id=name, **fields)))


def of(hub: Hub, files: Files, **fields: Any) -> list[SourceRow]:
    """The rows of a dataset with these files."""
    hub.dataset(ID, files)
    return read(**fields)


def test_parquet(hub: Hub) -> None:
    data: list[Any] = [
        *cells(2),
        None,
        {"bytes": b"no picture", "path": "x.jpg"},
        {"bytes": b"", "path": "y.jpg"},
    ]
    rows = of(hub, {SHARD: parquet({"image": data, "text": ["a", None, "c", " ", "e"]})})
    assert [row.data for row in rows] == [picture(0), picture(1), None, b"no picture", b""]
    assert [row.text for row in rows] == ["a", None, "c", None, "e"]
    assert [row.error and row.error.code for row in rows] == [None, None, ErrorCode.MISSING_IMAGE, None, None]
    assert [row.row for row in rows] == [0, 1, 2, 3, 4]
    assert {row.source for row in rows} == {"org/pictures/default/train"}


def test_a_folder_of_this_machine_in_the_same_form(tmp_path: Path) -> None:
    (tmp_path / "train.parquet").write_bytes(pictures(3))
    rows = read(str(tmp_path))
    assert [(row.data, row.text) for row in rows] == [(picture(n), f"text {n}") for n in range(3)]
    assert {(row.source, row.revision) for row in rows} == {(f"{tmp_path}/default/train", None)}


def test_paths_lead_nowhere_but_into_the_dataset(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever publishes rows says what their paths are: not files of this machine, not addresses in its network."""
    (tmp_path / "private.png").write_bytes(picture(7))
    hub.dataset("org/other", {"other.png": picture(8)})
    asked: list[Any] = []
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setattr(fsspec, "open", lambda path, *rest: asked.append(path))
    paths = [
        str(tmp_path / "private.png"),
        f"file://{tmp_path}/private.png",
        "http://127.0.0.1:1/latest/meta-data",
        "hf://datasets/org/other/other.png",
        f"hf://datasets/{ID}@main/../../org/other/other.png",
        "zip://a.png::http://127.0.0.1:1/a.zip",
        f"filecache://a.png::hf://datasets/{ID}@main/a.zip",
        "foo://x/y.png",
        "a\0b.png",
    ]
    data = [{"bytes": None, "path": path} for path in paths]
    shard = bare_parquet({"image": [*data, *cells(1)], "text": ["t"] * (len(data) + 1)})
    rows = of(hub, {SHARD: shard}, image_column="image")
    assert [row.error and row.error.code for row in rows] == [*[ErrorCode.UNREADABLE] * len(paths), None]
    assert all("not a file of the dataset itself" in str(row.error) for row in rows[:-1])
    assert rows[-1].data == picture(0)
    assert asked == []


# --- columns ---------------------------------------------------------------------------------------------------------


def test_columns_are_found_when_there_is_one(hub: Hub) -> None:
    shard = parquet(
        {"caption": ["of it"], "picture": cells(1), "image_id": ["7"], "likes": [3]},
        {"picture": IMAGE, "likes": datasets.Value("int64")},
    )
    assert [(row.data, row.text) for row in of(hub, {SHARD: shard})] == [(picture(0), "of it")]
    assert [row.text for row in read(text_column="image_id", image_column="picture")] == ["7"]
    assert [row.text for row in read(text_column="likes")] == ["3"]
    assert [row.text for row in read(text_column="")] == [None]


def test_of_several_texts_the_one_called_so_is_taken_or_none(hub: Hub) -> None:
    columns: dict[str, list[Any]] = {"image": cells(1), "title": ["title"], "caption": ["caption"]}
    assert [row.text for row in of(hub, {SHARD: parquet({**columns, "text": ["text"]})})] == ["text"]
    assert [row.text for row in of(hub, {SHARD: parquet(columns)})] == [None]
    assert [row.text for row in read(text_column="title")] == ["title"]


def test_of_a_list_of_captions_the_first_is_taken(hub: Hub) -> None:
    captions: list[Any] = [["first", "second"], [], None, [" "]]
    for kind in (datasets.List(datasets.Value("string")), [datasets.Value("string")]):
        shard = parquet({"image": cells(4), "captions": captions}, {"captions": kind})
        assert [row.text for row in of(hub, {SHARD: shard})] == ["first", None, None, None]


def test_labels_are_read_by_name(hub: Hub) -> None:
    label = datasets.ClassLabel(names=["cat", "dog"])
    shard = parquet({"image": cells(3), "label": [1, 0, None]}, {"label": label})
    assert [row.text for row in of(hub, {SHARD: shard}, text_column="label")] == ["dog", "cat", None]
    assert [row.text for row in read()] == [None] * 3


def test_wrong_columns(hub: Hub) -> None:
    hub.dataset(ID, {SHARD: parquet({"image": cells(1), "mask": cells(1), "text": ["t"]}, {"mask": IMAGE})})
    with pytest.raises(
        SourceError, match="has several image columns: image, mask; name one in `image_column:`"
    ):
        read()
    with pytest.raises(
        SourceError, match=r"no column 'photo' \(`image_column:`\); there are: image, mask, text"
    ):
        read(image_column="photo")
    with pytest.raises(SourceError, match=r"no column 'caption' \(`text_column:`\); there are: image, text"):
        read(image_column="mask", text_column="caption")


def test_parquet_that_knows_nothing_of_datasets(hub: Hub) -> None:
    """Bytes, or a struct of bytes and path, written by somebody else: named, they are read."""
    table: dict[str, Any] = {
        "raw": [picture(1), None],
        "cell": [{"bytes": picture(2), "path": None}] * 2,
        "text": ["a", "b"],
    }
    hub.dataset(ID, {"train.parquet": bare_parquet(table)})
    with pytest.raises(
        SourceError, match=r"has no image column; its columns: raw, cell, text.*`image_column:`"
    ):
        read()
    assert [row.data for row in read(image_column="raw")] == [picture(1), None]
    assert [row.data for row in read(image_column="cell")] == [picture(2)] * 2
    with pytest.raises(SourceError, match=r"'org/pictures', row 0: the image column holds str, not images"):
        read(image_column="text")


def test_no_image_column_in_a_csv(hub: Hub) -> None:
    hub.dataset(ID, {"train.csv": b"url,text\nhttp://example.com/a.jpg,a\n"})
    with pytest.raises(SourceError, match="has no image column; its columns: url, text"):
        read()


# --- splits and configurations -----------------------------------------------------------------------------------------


def test_splits(hub: Hub) -> None:
    hub.dataset(ID, {"data/train-0.parquet": pictures(1), "data/test-0.parquet": pictures(3)})
    assert (len(read()), len(read(split="test"))) == (1, 3)
    with pytest.raises(SourceError, match=r"split 'validation'\).*Available splits: \['train', 'test'\]"):
        read(split="validation")


def test_configurations(hub: Hub) -> None:
    names = {"small": 1, "large": 2}
    card = {"configs": [{"config_name": name, "data_files": f"{name}/*"} for name in names]}
    shards = {f"{name}/train.parquet": pictures(count) for name, count in names.items()}
    hub.dataset(ID, {"README.md": f"---\n{json.dumps(card)}\n---\n".encode(), **shards})
    rows = read(config="large")
    assert (len(read(config="small")), len(rows), rows[0].source) == (1, 2, "org/pictures/large/train")
    with pytest.raises(SourceError, match=r"pick one among the available configs: \['small', 'large'\]"):
        read()
    with pytest.raises(SourceError, match=r"'huge' not found. Available: \['small', 'large'\]"):
        read(config="huge")


def test_a_card_that_describes_the_data(hub: Hub) -> None:
    """As `push_to_hub` writes it."""
    features = [
        {"name": "image", "dtype": "image"},
        {"name": "id", "dtype": "string"},
        {"name": "text", "dtype": "string"},
    ]
    card = {
        "dataset_info": {"features": features, "splits": [{"name": "train", "num_examples": 2}]},
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
    }
    shard = parquet({"image": cells(2), "id": ["7", "8"], "text": ["a", "b"]})
    rows = of(hub, {"README.md": f"---\n{json.dumps(card)}\n---\n# Pictures\n".encode(), SHARD: shard})
    assert [(row.data, row.text) for row in rows] == [(picture(0), "a"), (picture(1), "b")]


@pytest.mark.parametrize("files", [{}, {"README.md": b"# Soon"}])
def test_no_data(hub: Hub, files: Files) -> None:
    with pytest.raises(SourceError, match="doesn't contain any data files"):
        of(hub, files)


# --- other formats -----------------------------------------------------------------------------------------------------


def test_a_repository_that_is_a_folder_of_images(hub: Hub) -> None:
    files = {"train/a b.jpg": picture(1), "train/empty.jpg": b"", "train/text.jpg": b"no picture"}
    rows = of(hub, files)
    assert [(row.data, row.text) for row in rows] == [(picture(1), None), (b"", None), (b"no picture", None)]
    listed = [("a b.jpg", "t"), ("empty.jpg", "e"), ("gone.jpg", "g")]
    metadata = "".join(json.dumps({"file_name": name, "text": text}) + "\n" for name, text in listed)
    rows = of(hub, {**files, "train/metadata.jsonl": metadata.encode()})
    assert [(row.data, row.text) for row in rows] == [(picture(1), "t"), (b"", "e"), (None, "g")]
    assert rows[2].error is not None and rows[2].error.code == ErrorCode.UNREADABLE


def test_folders_as_labels(hub: Hub) -> None:
    files = {"cat/1.jpg": picture(1), "dog/2.jpg": picture(2)}
    assert [row.text for row in of(hub, files, text_column="label")] == ["cat", "dog"]


def test_a_zip_of_images(hub: Hub) -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number in range(3):
            archive.writestr(f"train/{number}.jpg", picture(number))
    rows = of(hub, {"data/train.zip": file.getvalue()})
    assert [row.data for row in rows] == [picture(0), picture(1), picture(2)]


def test_webdataset(hub: Hub) -> None:
    names = range(12)
    members: dict[str, bytes] = {}
    for n in names:
        members |= {
            f"{n:03}.jpg": picture(n),
            f"{n:03}.txt": f"text {n}".encode(),
            f"{n:03}.json": b'{"n": 1}',
        }
    members["005.jpg"] = b"no picture"
    rows = of(hub, {"data/train-00000.tar": tar(members)})
    assert [row.data for row in rows] == [members[f"{n:03}.jpg"] for n in names]
    assert [row.text for row in rows] == [f"text {n}" for n in names]


def test_variable_that_is_not_set() -> None:
    with pytest.raises(CatalogError, match=r"source.id .* MY_DATASET is not set"):
        read("${MY_DATASET}")
