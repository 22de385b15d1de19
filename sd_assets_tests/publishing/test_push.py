"""Pushing to the local Hub with the real client, and reading it back with `datasets`."""

import io
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from sd_assets.errors import ExportError, HubError
from sd_assets.exports.export import TABLES
from sd_assets.publishing.publish import Pushed, push
from sd_assets.schemas import DOWNLOADED_IMAGES, RETRIEVED_IMAGE_URLS, SEED_PROMPTS, text_id
from sd_assets.settings import SeedDataset
from sd_assets_tests.hub.repos import Repo
from sd_assets_tests.hub.server import READER, STRANGER, WRITER, Hub
from sd_assets_tests.small_partition import (
    PARTITION,
    PROMPT,
    SmallPartition,
    picture,
    write_partition,
)
from sd_assets_tests.tables import table_of

REPO = "me/rooms"
# What changes the Hub.
WRITES = ("create", "upload", "commit")


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallPartition:
    return write_partition(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def of_60(tmp_path_factory: pytest.TempPathFactory) -> SmallPartition:
    return write_partition(tmp_path_factory.mktemp("data"), 60)


def pushed(
    small: SmallPartition,
    partition: str = PARTITION,
    log: Callable[[str], None] = print,
    **settings: Any,
) -> Pushed:
    entry = SeedDataset.model_validate(
        {
            "clip": {"model": "toy", "pretrained": "toy"},
            "source": {"kind": "hub", "id": "somebody/rooms"},
            "push_to_hub": {"repo_id": REPO, **settings},
        }
    )
    assert entry.push_to_hub is not None
    tables = {name: small.store.open(name, PARTITION) for name in TABLES}
    return push(small.store, partition, entry, entry.push_to_hub, tables, log)


def files(repo: Repo) -> dict[str, bytes]:
    """Of the newest commit."""
    return dict(repo.commits[repo.refs["main"]])


def shards(repo: Repo) -> set[str]:
    return {path for path in files(repo) if path.endswith(".parquet")}


def said(repo: Repo) -> str:
    """All rows of the newest commit, without their images, as a text."""
    tables = [pq.read_table(io.BytesIO(files(repo)[path])).drop(["image"]) for path in shards(repo)]
    return repr([table.to_pylist() for table in tables])


def writes(hub: Hub) -> list[str]:
    return [request.what for request in hub.requests if request.what in WRITES]


def test_datasets_reads_what_was_pushed(hub: Hub, tmp_path: Path) -> None:
    import datasets

    small = write_partition(tmp_path, captions=2)
    done = pushed(small, captions="all")
    repo = hub.repo("datasets", REPO)
    assert repo.private and done.commit == repo.refs["main"] and len(repo.messages) == 1
    found = datasets.load_dataset(REPO)
    assert {split: len(rows) for split, rows in found.items()} == {"train": 6, "validation": 2}
    rows = {
        row["image_id"]: row
        for split in found.values()
        for row in split.cast_column("image", datasets.Image(decode=False))
    }
    assert set(rows) == set(small.images[:-1])  # the last is not kept
    for number, image in enumerate(small.images[:-1]):
        assert rows[image]["image"]["bytes"] == picture(number)
        assert rows[image]["text"] == [f"picture {image[:6]}, v0", f"picture {image[:6]}, v1"]
        assert rows[image]["caption_models"] == ["captioner-1", "captioner-1"]
    found_by = json.loads(rows[small.images[small.seeds]]["provenance"])
    assert (found_by["found_by"][0]["prompt"], found_by["found_by"][0]["rank"]) == (PROMPT, small.seeds)
    assert found["train"][0]["image"].size == (32, 32)


def test_an_unchanged_set_makes_no_commit(hub: Hub, small: SmallPartition) -> None:
    first = pushed(small)
    hub.requests.clear()
    again = pushed(small)
    assert first.changed and not again.changed
    assert (again.commit, again.written) == (first.commit, None)
    assert writes(hub) == []


def test_tables_that_were_built_anew_of_the_same_make_no_commit(
    hub: Hub, small: SmallPartition, tmp_path: Path
) -> None:
    first = pushed(small)
    assert pushed(write_partition(tmp_path)).commit == first.commit


def test_a_change_sends_the_shards_that_it_changes_only(
    hub: Hub, of_60: SmallPartition, tmp_path: Path
) -> None:
    pushed(of_60, shard_pairs=4)
    repo = hub.repo("datasets", REPO)
    before = shards(repo)
    assert len(before) > 8
    hub.requests.clear()
    pushed(write_partition(tmp_path, 60, without=frozenset({20})), shard_pairs=4)
    after = shards(repo)
    assert 0 < len(before - after) <= 2
    # A shard or two, and the contact sheet.
    assert writes(hub).count("upload") <= len(after - before) + 1
    assert writes(hub).count("commit") == 1
    found = [pq.read_table(io.BytesIO(files(repo)[path]))["image_id"].to_pylist() for path in after]
    assert sorted(itertools.chain(*found)) == sorted({*of_60.images[:-1]} - {of_60.images[20]})


def test_another_card_makes_a_commit_without_data(hub: Hub, small: SmallPartition) -> None:
    first = pushed(small)
    hub.requests.clear()
    again = pushed(small, contact="who@example.org", licence="cc-by-4.0")
    assert again.commit != first.commit and again.written is None
    assert writes(hub) == ["commit"]
    readme = files(hub.repo("datasets", REPO))["README.md"].decode()
    assert "who@example.org" in readme and 'license: "cc-by-4.0"' in readme


def test_a_push_that_was_interrupted_is_finished_by_the_next(hub: Hub, of_60: SmallPartition) -> None:
    hub.fail("/commit/main", 500, times=1)
    with pytest.raises(HubError, match="Run again: what was uploaded is not uploaded again"):
        pushed(of_60, shard_pairs=4)
    repo = hub.repo("datasets", REPO)
    assert shards(repo) == set()
    hub.requests.clear()
    pushed(of_60, shard_pairs=4)
    assert len(shards(repo)) > 8
    assert "upload" not in writes(hub)


def test_who_commits_meanwhile_is_not_overwritten(
    hub: Hub, small: SmallPartition, of_60: SmallPartition
) -> None:
    pushed(small)
    repo = hub.repo("datasets", REPO)
    changed = {**files(repo), "NOTES.md": b"mine"}
    with pytest.raises(HubError, match="was changed by somebody else meanwhile: run again"):
        pushed(of_60, log=lambda line: print(repo.push(changed)))  # when the files are written
    assert files(repo) == changed
    pushed(of_60)
    assert files(repo)["NOTES.md"] == b"mine" and not shards(repo) & changed.keys()


def test_the_record_says_of_which_versions_it_is(hub: Hub, small: SmallPartition) -> None:
    pushed(small)
    record = json.loads(files(hub.repo("datasets", REPO))["sd_assets.json"])
    version = small.store.open("curated_pairs", PARTITION).manifest.data_version
    assert record["curated_pairs"]["data_version"] == version
    assert (record["partition"], record["pairs"]) == (PARTITION, {"train": 6, "validation": 2})


def test_a_public_dataset_is_public(hub: Hub, small: SmallPartition) -> None:
    pushed(small, private=False)
    assert not hub.repo("datasets", REPO).private


def test_what_is_meant_to_be_private_is_not_pushed_to_a_public_dataset(
    hub: Hub, small: SmallPartition
) -> None:
    hub.dataset(REPO, {".gitattributes": b""})
    with pytest.raises(HubError, match="it is public, and `push_to_hub:` has `private: true`"):
        pushed(small)
    assert writes(hub) == []


def test_a_dataset_of_somebody_elses_making_is_not_overwritten(hub: Hub, small: SmallPartition) -> None:
    hub.dataset(REPO, {"README.md": b"# mine", ".gitattributes": b""}, private=True)
    with pytest.raises(HubError, match=r"holds files that did not come from here \(README.md\)"):
        pushed(small)
    assert writes(hub) == []


def test_a_dataset_holds_one_partition(hub: Hub, small: SmallPartition) -> None:
    pushed(small)
    with pytest.raises(HubError, match="holds the pairs of 'p': name another one for 'q'"):
        pushed(small, "q")


@pytest.mark.parametrize("record", [b"{}", b"[]", b"{dam", b'{"partition": "p"}', b'{"layout": "parquet"}'])
def test_a_record_of_somebody_elses_making_makes_no_dataset_ours(
    hub: Hub, small: SmallPartition, record: bytes
) -> None:
    hub.dataset(REPO, {"data/train/mine.parquet": b"PAR1", "sd_assets.json": record}, private=True)
    with pytest.raises(
        HubError, match=r"\(data/train/mine.parquet, sd_assets.json\): sd_assets.json is not there"
    ):
        pushed(small)
    assert writes(hub) == []


def test_nothing_kept_is_nothing_pushed(hub: Hub, tmp_path: Path) -> None:
    small = write_partition(tmp_path, 4, without=frozenset(range(4)))
    with pytest.raises(HubError, match="p: no pair is kept"):
        pushed(small)
    assert writes(hub) == []


@pytest.mark.parametrize(
    ("left", "error"),
    [
        ({"without": frozenset(range(9))}, HubError),  # no pair is kept
        ({"captions": 0}, ExportError),  # none can be written
    ],
)
def test_what_was_pushed_goes_with_the_last_pair(
    hub: Hub, small: SmallPartition, tmp_path: Path, left: dict[str, Any], error: type[Exception]
) -> None:
    pushed(small)
    repo = hub.repo("datasets", REPO)
    repo.push({**files(repo), "NOTES.md": b"mine"})
    nothing = write_partition(tmp_path, **left)
    with pytest.raises(error):
        pushed(nothing)
    assert set(files(repo)) == {".gitattributes", "NOTES.md", "sd_assets.json"}
    emptied = repo.refs["main"]
    with pytest.raises(error):
        pushed(nothing)
    assert repo.refs["main"] == emptied
    assert pushed(small).changed
    assert {"README.md", "contact_sheet.jpg", "NOTES.md"} < set(files(repo)) and shards(repo)


def test_what_only_the_provenance_names_goes_when_it_is_taken_down(hub: Hub, tmp_path: Path) -> None:
    small = write_partition(tmp_path)
    pushed(small)
    repo = hub.repo("datasets", REPO)
    assert "b.example.org" in said(repo)
    tables = {
        schema: small.store.open(schema.name, PARTITION)
        for schema in (RETRIEVED_IMAGE_URLS, DOWNLOADED_IMAGES)
    }
    for schema, table in tables.items():
        rows = [row for row in table.read().to_pylist() if "b.example.org" not in row["url"]]
        table_of(small.base, schema, rows, PARTITION)
    assert pushed(small).changed
    assert "b.example.org" not in said(repo) and "a.example.org" in said(repo)


def test_the_card_is_of_the_tables_as_they_are(hub: Hub, tmp_path: Path) -> None:
    small = write_partition(tmp_path)
    pushed(small)
    repo = hub.repo("datasets", REPO)
    data = shards(repo)
    prompts = [{"prompt_id": text_id(text), "prompt": text} for text in (PROMPT, "a lamp", "a clock")]
    assert b"- seed prompts: 1\n" in files(repo)["README.md"]
    table_of(small.base, SEED_PROMPTS, sorted(prompts, key=lambda row: row["prompt_id"]), PARTITION)
    pushed(small)
    assert b"- seed prompts: 3\n" in files(repo)["README.md"] and shards(repo) == data


@pytest.mark.parametrize("name", ["README.md", "contact_sheet.jpg"])
def test_what_was_deleted_on_the_hub_comes_back(hub: Hub, small: SmallPartition, name: str) -> None:
    pushed(small)
    repo = hub.repo("datasets", REPO)
    before = files(repo)
    repo.push({path: data for path, data in before.items() if path != name})
    assert pushed(small).changed
    assert files(repo)[name] == before[name]


@pytest.mark.parametrize("bad", [None, READER, STRANGER, "hf_expired"])
def test_who_may_not_write_is_told_so(
    hub: Hub, small: SmallPartition, monkeypatch: pytest.MonkeyPatch, bad: str | None
) -> None:
    monkeypatch.delenv("HF_TOKEN") if bad is None else monkeypatch.setenv("HF_TOKEN", bad)
    with pytest.raises(HubError, match="set HF_TOKEN to a token that may write to it") as raised:
        pushed(small)
    assert "hf_" not in str(raised.value)


def test_no_hub(no_hub: None, no_pauses: None, small: SmallPartition) -> None:
    with pytest.raises(HubError, match="Check the network and HF_ENDPOINT"):
        pushed(small)
