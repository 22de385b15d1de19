"""Exports of every layout as they come, are refreshed, interrupted and taken over."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sd_assets.errors import ErrorCode, ExportError, WriteError
from sd_assets.exports import mds
from sd_assets.exports.export import LAYOUTS
from sd_assets.exports.folder import ExportFolder
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


@contextmanager
def disk_full(monkeypatch: pytest.MonkeyPatch, layout: str, after: int) -> Iterator[None]:
    """So many files can be written to the folder of a layout, and then no more: the run is expected to fail."""
    put, count = LocalFiles.put, 0

    def failing(self: LocalFiles, path: str, *data: Any) -> None:
        nonlocal count
        if path.startswith(f"{layout}/"):
            count += 1
            if count > after:
                raise WriteError("the disk is full")
        put(self, path, *data)

    with monkeypatch.context() as patched, pytest.raises(WriteError):
        patched.setattr(LocalFiles, "put", failing)
        yield


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupted_export_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, after: int
) -> None:
    pairs = some(10)
    tables_of(tmp_path / "data", pairs)
    with disk_full(monkeypatch, layout, after):
        exported(tmp_path, layout, **settings_of(layout))
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
def test_nothing_that_can_be_exported_is_an_error_and_what_was_there_goes(
    tmp_path: Path, layout: str
) -> None:
    exported(tmp_path, layout, some(4))
    before = files_of(tmp_path, layout)
    for _ in range(2):
        with pytest.raises(ExportError, match=r"none of 2 pairs could be written \(empty_caption 2\)"):
            exported(tmp_path, layout, [Kept(pair.image, ("",)) for pair in some(2)])
        assert not [path for path in files_of(tmp_path, layout) if is_of_pairs(layout, path)]
    exported(tmp_path, layout, some(4))
    assert files_of(tmp_path, layout) == before


@pytest.mark.parametrize("layout", ["kohya", "mds"])
@pytest.mark.parametrize("after", [1, 2])
def test_an_interrupted_export_is_finished_even_if_the_tables_go_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, after: int
) -> None:
    pairs = some(6)
    exported(tmp_path, layout, pairs)
    before = files_of(tmp_path, layout)
    others = [Kept(pair.image, ("another caption",), pair.split) for pair in pairs]
    tables_of(tmp_path / "data", others)
    with disk_full(monkeypatch, layout, after):
        exported(tmp_path, layout)
    done = exported(tmp_path, layout, pairs)
    assert done.written is not None and files_of(tmp_path, layout) == before


INDICES = [(layout, *place) for layout, made in LAYOUTS.items() for place in sorted(made.indices)]


@pytest.mark.parametrize(("layout", "split", "name"), INDICES)
def test_a_folder_that_no_export_wrote_is_not_touched(
    tmp_path: Path, layout: str, split: str, name: str
) -> None:
    path = folder_of(tmp_path, layout) / split / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"mine")
    with pytest.raises(ExportError, match=f"holds what no export of p wrote .*{name}.*: name another place"):
        exported(tmp_path, layout, some(4))
    assert files_of(tmp_path, layout) == {str(Path(split) / name): b"mine"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_files_of_others_that_are_named_like_ours_elsewhere_are_left_alone(
    tmp_path: Path, layout: str
) -> None:
    exported(tmp_path, layout, some(4))
    ours = {(split, name) for it, split, name in INDICES if it == layout}
    folder = folder_of(tmp_path, layout)
    names = (
        "metadata.jsonl",
        "index.json",
        "train.json",
        "dataset.toml",
        f"{'0' * 32}.tar",
        f"{'0' * 32}.mds",
    )
    mine = [folder / split / name for split in ("", "train") for name in names if (split, name) not in ours]
    mine = [path for path in mine if path.parent == folder or not is_of_pairs(layout, path.name)]
    for path in mine:
        path.write_bytes(b"mine")
    exported(tmp_path, layout, [Kept(pair.image, keep=False) for pair in some(4)])
    assert {path.read_bytes() for path in mine} == {b"mine"}


@pytest.mark.parametrize(
    "record", [b"[]", b"{", b'{"layout": "mds", "partition": "another"}', b'{"mine": 1}']
)
def test_a_record_of_others_is_not_written_over(tmp_path: Path, record: bytes) -> None:
    path = folder_of(tmp_path, "mds").with_name("p.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(record)
    with pytest.raises(ExportError, match=r"p\.json"):
        exported(tmp_path, "mds", some(2))
    assert path.read_bytes() == record and files_of(tmp_path, "mds") == {}


def test_a_partition_that_is_named_like_the_record_of_another_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"p\.json: the folder of its export .* the record of 'p'"):
        ExportFolder(LocalFiles(tmp_path), "mds", "p.json")


def test_what_a_killed_run_left_half_written_is_deleted(tmp_path: Path) -> None:
    folder = ExportFolder(LocalFiles(tmp_path), "mds", "p")
    folder.put("train", "a", [b"a"])
    old, new = (tmp_path / "_sd_assets" / "tmp" / name for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    folder.sweep()
    assert not old.exists() and new.exists()


def test_the_index_of_mds_says_how_large_a_shard_is_that_was_made_again(tmp_path: Path) -> None:
    """As another version of an encoder makes it: what the old index says is not trusted."""
    exported(tmp_path, "mds", some(12), **settings_of("mds"))
    index = folder_of(tmp_path, "mds") / "train" / "index.json"
    before = json.loads(index.read_bytes())
    assert len(before["shards"]) > 1
    for number, shard in enumerate(json.loads(index.read_bytes())["shards"]):
        before["shards"][number]["raw_data"]["bytes"] = 1
        if number == 0:
            (index.parent / shard["raw_data"]["basename"]).unlink()
    index.write_text(json.dumps(before))
    exported(tmp_path, "mds", **settings_of("mds"))
    for shard in json.loads(index.read_bytes())["shards"]:
        path = index.parent / shard["raw_data"]["basename"]
        assert shard["raw_data"]["bytes"] == path.stat().st_size


def test_a_shard_that_is_too_large_for_mds_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mds, "_MOST_BYTES", 2_000)
    with pytest.raises(ExportError, match=r"a shard of [\d,]+ bytes, .* 2,000: set a smaller .*shard_mb"):
        exported(tmp_path, "mds", some(8))
