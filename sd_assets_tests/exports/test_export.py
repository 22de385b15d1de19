"""Exports of every layout as they come, are refreshed, interrupted and taken over."""

import json
from pathlib import Path
from typing import Any

import pytest

from sd_assets.errors import ErrorCode, ExportError, WriteError
from sd_assets.exports.export import LAYOUTS
from sd_assets.settings import ExportsSettings
from sd_assets.storage.files import LocalFiles
from sd_assets_tests.exports.kept import Kept, encoded, exported, files_of, folder_of, some, tables_of

FILES = ("imagefolder", "kohya", "ai_toolkit")
SHARDS = ("webdataset", "mds", "parquet")


def settings_of(layout: str) -> dict[str, Any]:
    # Small shards, so that there are several.
    return {"shard_pairs": 4} if layout in SHARDS else {}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    """The files that came, went or are others."""
    return {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}


def is_of_pairs(layout: str, path: str) -> bool:
    settings = ExportsSettings.model_validate({layout: {}}).layout(layout)
    assert settings is not None
    return LAYOUTS[layout](settings).has_pairs(Path(path).name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_unchanged_export_is_not_written_again(tmp_path: Path, layout: str) -> None:
    first = exported(tmp_path, layout, some(), **settings_of(layout))
    assert first.written is not None and first.record["pairs"] == {"train": 6, "validation": 2}
    times = {path: path.stat().st_mtime_ns for path in folder_of(tmp_path, layout).rglob("*")}
    again = exported(tmp_path, layout, **settings_of(layout))
    assert again.written is None and again.record == first.record
    assert times == {path: path.stat().st_mtime_ns for path in folder_of(tmp_path, layout).rglob("*")}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_record_says_which_version_of_the_pairs_it_is(tmp_path: Path, layout: str) -> None:
    tables = tables_of(tmp_path / "data", some())
    record = exported(tmp_path, layout).record
    for name, table in tables.items():
        version = {"version": table.manifest.version, "data_version": table.manifest.data_version}
        assert record[name] == version
    beside = folder_of(tmp_path, layout).with_name("p.json")
    assert json.loads(beside.read_bytes()) == record


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_refreshed_export_is_that_of_a_new_folder(tmp_path: Path, layout: str) -> None:
    """Pairs came, went, have another caption, another image, changed the split: nothing stale is left."""
    exported(tmp_path / "old", layout, some(12), **settings_of(layout))
    pairs = some(16, start=3)
    pairs[2] = Kept(pairs[2].image, ("quite another caption", "and one more"))
    pairs[5] = Kept(pairs[5].image, pairs[5].captions, "validation")
    pairs[7] = Kept(pairs[7].image, pairs[7].captions, keep=False)
    exported(tmp_path / "old", layout, pairs, **settings_of(layout))
    exported(tmp_path / "new", layout, pairs, **settings_of(layout))
    refreshed, fresh = (files_of(tmp_path / name, layout) for name in ("old", "new"))
    # The TOML of kohya names the folder.
    assert {path for path in changed(refreshed, fresh) if path != "dataset.toml"} == set()
    assert fresh


@pytest.mark.parametrize("layout", FILES)
def test_a_new_caption_writes_no_image_again(tmp_path: Path, layout: str) -> None:
    pairs = some()
    exported(tmp_path, layout, pairs)
    before = files_of(tmp_path, layout)
    pairs[0] = Kept(pairs[0].image, ("another caption",), seed=True)
    done = exported(tmp_path, layout, pairs)
    assert done.written is not None
    after = files_of(tmp_path, layout)
    assert {Path(path).suffix for path in changed(before, after)} <= {".txt", ".jsonl"}
    assert before.keys() == after.keys() and done.written.files_kept >= len(pairs) - 1


@pytest.mark.parametrize("layout", SHARDS)
def test_a_pair_at_the_front_changes_few_shards(tmp_path: Path, layout: str) -> None:
    pairs = some(48)
    exported(tmp_path, layout, pairs, shard_pairs=4)
    before = files_of(tmp_path, layout)
    done = exported(tmp_path, layout, [*some(1, start=100), *pairs], shard_pairs=4)
    after = files_of(tmp_path, layout)
    shards = [path for path in after if is_of_pairs(layout, path)]
    new = [path for path in shards if path not in before]
    assert len(shards) > 8 and 1 <= len(new) <= 2
    assert done.written is not None and done.written.files_kept == len(shards) - len(new)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("after", [0, 3])
def test_an_interrupted_export_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, after: int
) -> None:
    put, count = LocalFiles.put, 0

    def failing(self: LocalFiles, path: str, *data: Any) -> None:
        nonlocal count
        if path.startswith("exports/"):
            count += 1
            if count > after:
                raise WriteError("the disk is full")
        put(self, path, *data)

    pairs = some(10)
    tables_of(tmp_path / "data", pairs)
    monkeypatch.setattr(LocalFiles, "put", failing)
    with pytest.raises(WriteError):
        exported(tmp_path, layout, **settings_of(layout))
    monkeypatch.setattr(LocalFiles, "put", put)
    left = {path for path in files_of(tmp_path, layout) if is_of_pairs(layout, path)}
    done = exported(tmp_path, layout, **settings_of(layout))
    exported(tmp_path / "new", layout, pairs, **settings_of(layout))
    finished, fresh = files_of(tmp_path, layout), files_of(tmp_path / "new", layout)
    assert {path for path in changed(finished, fresh) if path != "dataset.toml"} == set()
    assert done.written is not None and left <= finished.keys()
    assert done.written.files_written <= len(fresh) - len(left)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_others_are_left_alone(tmp_path: Path, layout: str) -> None:
    exported(tmp_path, layout, some())
    cache = folder_of(tmp_path, layout) / "train" / "latents.npz"
    cache.write_bytes(b"of a trainer")
    assert exported(tmp_path, layout).written is None
    exported(tmp_path, layout, some(3))
    assert cache.read_bytes() == b"of a trainer"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_that_somebody_deleted_comes_back(tmp_path: Path, layout: str) -> None:
    exported(tmp_path, layout, some(4), **settings_of(layout))
    before = files_of(tmp_path, layout)
    for path in {Path(path).suffix: path for path in before}.values():
        (folder_of(tmp_path, layout) / path).unlink()
        exported(tmp_path, layout, **settings_of(layout))
        assert files_of(tmp_path, layout) == before


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_pair_is_left(tmp_path: Path, layout: str) -> None:
    """What is taken down goes from an export, even if nothing else was there."""
    exported(tmp_path, layout, some())
    done = exported(tmp_path, layout, [Kept(pair.image, keep=False) for pair in some()])
    assert done.record["pairs"] == {} and done.written is not None and done.written.files_deleted
    assert not [path for path in files_of(tmp_path, layout) if is_of_pairs(layout, path)]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_cannot_be_exported_is_counted_each_time(tmp_path: Path, layout: str) -> None:
    broken = Kept(encoded(1)[:-300], ("a broken image",))
    empty = Kept(encoded(2), (" \n",))
    settings = {**settings_of(layout), "image_size": 16}
    pairs = [*some(3), broken, empty]
    done = exported(tmp_path, layout, pairs, **settings)
    wanted = {ErrorCode.CORRUPT_IMAGE: 1, ErrorCode.EMPTY_CAPTION: 1}
    assert done.record["failures"] == wanted and done.record["pairs"] == {"train": 3}
    # As soon as something changes, all is counted again; and nothing is written twice because of it.
    again = exported(tmp_path, layout, [*pairs, *some(1, start=50)], **settings)
    assert again.record["failures"] == wanted and again.record["pairs"] == {"train": 4}
    fresh = exported(tmp_path / "new", layout, [*pairs, *some(1, start=50)], **settings)
    assert fresh.record["failures"] == wanted
    assert not {
        it
        for it in changed(files_of(tmp_path, layout), files_of(tmp_path / "new", layout))
        if it != "dataset.toml"
    }


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_that_can_be_exported_is_an_error(tmp_path: Path, layout: str) -> None:
    with pytest.raises(ExportError, match=r"none of 2 pairs could be written \(empty_caption 2\)"):
        exported(tmp_path, layout, [Kept(pair.image, ("",)) for pair in some(2)])
