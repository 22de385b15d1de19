"""Which commit of a Hub's dataset is read, by whom, and what becomes of it when the Hub or the network fails."""

import random
from pathlib import Path
from typing import Any

import datasets
import pytest

from sd_assets.errors import SourceError
from sd_assets.settings import FolderSource, HubSource, UrlsSource
from sd_assets.sources.images import pinned, read_images
from sd_assets.sources.rows import SourceRow
from sd_assets_tests.hub.server import READER, STRANGER, Hub, loopback, url_of
from sd_assets_tests.sources.conftest import picture
from sd_assets_tests.sources.hub_data import SHARD, bare_parquet, pictures, tar

ID = "org/pictures"


def source(**fields: Any) -> HubSource:
    return HubSource(kind="hub", id=ID, **fields)


def read(**fields: Any) -> list[SourceRow]:
    return list(read_images(source(**fields)))


def texts(rows: list[SourceRow]) -> list[str | None]:
    return [row.text for row in rows]


# --- revisions -------------------------------------------------------------------------------------------------------


def test_the_revision_asked_for_is_read_wherever_main_is(hub: Hub) -> None:
    repo = hub.dataset(ID, {SHARD: pictures(2)})
    first = repo.refs["main"]
    repo.tag("v1", first)
    second = repo.push({SHARD: pictures(3)})
    draft = repo.push({SHARD: pictures(4)}, branch="draft/of mine")
    for revision, commit, count in [
        (None, second, 3),
        ("main", second, 3),
        ("v1", first, 2),
        (first, first, 2),
        ("draft/of mine", draft, 4),
    ]:
        hub.requests.clear()
        rows = read(revision=revision)
        assert {row.revision for row in rows} == {commit} and len(rows) == count
        # Whatever was asked for was asked for by its commit, but for the first question.
        assert {request.revision for request in hub.requests[1:] if request.repo} == {commit}
    with pytest.raises(SourceError, match="has no revision 'v9': name a branch, a tag or a commit of it"):
        read(revision="v9")


def test_a_push_in_the_middle_changes_nothing(hub: Hub) -> None:
    shards = [f"data/train-{number:05}.parquet" for number in range(3)]
    repo = hub.dataset(ID, {name: pictures(4, first=4 * number) for number, name in enumerate(shards)})
    commit = repo.refs["main"]
    rows = read_images(source())
    started = [next(rows)]
    repo.push(dict.fromkeys(shards, pictures(4, first=100)))
    found = started + list(rows)
    assert texts(found) == [f"text {number}" for number in range(12)]
    assert {row.revision for row in found} == {commit}


def test_what_a_cache_holds_of_another_commit_is_not_read(hub: Hub, no_pauses: None) -> None:
    """`datasets` falls back on it, under the same name, when the Hub fails while a dataset is opened."""
    repo = hub.dataset(ID, {SHARD: pictures(2)})
    assert datasets.load_dataset(ID, split="train").num_rows == 2
    repo.push({SHARD: pictures(3)})
    hub.fail("/data", 500, times=100)
    with pytest.raises(SourceError, match=r"cannot be opened .*: .*500"):
        read()


def test_a_pinned_source_is_read_at_the_commit_that_it_was_pinned_at(hub: Hub) -> None:
    repo = hub.dataset(ID, {SHARD: pictures(2)})
    commit = repo.refs["main"]
    pinned_first, identity = pinned(source())
    repo.push({SHARD: pictures(3)})
    assert {row.revision for row in read_images(pinned_first)} == {commit}
    assert len(list(read_images(pinned_first))) == 2
    # Whatever name the commit is asked for by, its rows are the same; those of another are not.
    repo.tag("v1", commit)
    assert pinned(source(revision="v1")) == pinned(source(revision=commit)) == (pinned_first, identity)
    assert pinned(source())[1] not in (None, identity)


def test_the_identity_of_a_source_changes_with_what_is_read_of_it(hub: Hub) -> None:
    hub.dataset(ID, {SHARD: pictures(2)})
    edits: list[dict[str, Any]] = [
        {},
        {"max_rows": 1},
        {"text_column": ""},
        {"image_column": "image"},
        {"split": "test"},
        {"config": "a"},
    ]
    identities = [pinned(source(**edit))[1] for edit in edits]
    assert None not in identities and len(set(identities)) == len(edits)
    assert not hub.asked("file")


def test_of_other_sources_only_reading_tells(hub: Hub, tmp_path: Path) -> None:
    for other in (
        HubSource(kind="hub", id=str(tmp_path), revision="0" * 40),  # a folder here
        FolderSource(kind="folder", path=str(tmp_path)),
        UrlsSource(kind="urls", path="urls.txt"),
    ):
        assert pinned(other) == (other, None)
    assert not hub.requests


# --- who may read ----------------------------------------------------------------------------------------------------


def test_a_private_dataset_is_read_with_a_token(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.dataset(ID, {SHARD: pictures(2), "one.txt": b"-"}, private=True)
    missing = "does not exist, or is private: check `source.id`, or set HF_TOKEN to a token that may read it"
    with pytest.raises(SourceError, match=missing):
        read()
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(SourceError, match=missing):
        read()
    hub.requests.clear()
    monkeypatch.setenv("HF_TOKEN", READER)
    assert texts(read()) == ["text 0", "text 1"]
    assert {request.token for request in hub.requests if request.repo and request.what != "store"} == {READER}
    # The host that large files lie on is another's: it gets no token.
    assert {request.token for request in hub.asked("store")} == {None}


def test_private_images_that_are_files_of_their_own(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.dataset(ID, {f"{number}.jpg": picture(number) for number in range(3)}, private=True)
    monkeypatch.setenv("HF_TOKEN", READER)
    assert [row.data for row in read()] == [picture(0), picture(1), picture(2)]


def test_a_gated_dataset(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.dataset(ID, {SHARD: pictures(2)}, gated=True)
    gated = "is gated: accept its terms on its page, then set HF_TOKEN to a token of that account"
    with pytest.raises(SourceError, match=gated):
        read()
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(SourceError, match=gated):
        read()
    monkeypatch.setenv("HF_TOKEN", READER)
    assert texts(read()) == ["text 0", "text 1"]


def test_a_token_that_the_hub_does_not_know(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.dataset(ID, {SHARD: pictures(2)})
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(SourceError, match=r"does not accept the token that HF_TOKEN .* gives: renew it"):
        read()


def test_a_dataset_that_does_not_exist(hub: Hub) -> None:
    with pytest.raises(SourceError, match="'org/pictures' does not exist, or is private"):
        read()


# --- failures --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_hub")
def test_no_hub() -> None:
    with pytest.raises(
        SourceError, match=r"cannot be reached: .*Check the network and HF_ENDPOINT, or read a copy"
    ):
        read()
    with pytest.raises(SourceError, match="an id is `owner/name`"):
        list(read_images(HubSource(kind="hub", id="a/b/c")))


def test_a_hub_that_accepts_and_never_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sd_assets.sources.hub._TIMEOUT_S", 0.1)
    with loopback() as silent:
        silent.listen()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url_of(silent))
        with pytest.raises(SourceError, match=r"cannot be reached: .*Check the network and HF_ENDPOINT"):
            read()


def test_offline_mode(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match=r"cannot be reached: .*unset the `HF_HUB_OFFLINE`"):
        read()
    assert not hub.requests


def test_a_hub_that_fails_at_once(hub: Hub) -> None:
    hub.dataset(ID, {SHARD: pictures(2)})
    hub.fail(ID, 503)
    with pytest.raises(SourceError, match=r"cannot be reached: .*503"):
        read()


SHARDS = {
    "parquet": {f"data/train-{number}.parquet": pictures(20, 20 * number) for number in range(2)},
    "tar": {
        # Each sample, a text and an image, fills a block of those in which a tar is read. A block ends between two
        # samples: there a stream that ends looks like the end of the tar.
        f"data/train-{number}.tar": tar(
            {
                name: data
                for sample in range(20 * number, 20 * number + 20)
                for name, data in {
                    f"{sample:03}.jpg": picture(sample).ljust(8704, b"\0"),
                    f"{sample:03}.txt": f"text {sample}".encode(),
                }.items()
            },
            folders=["data"],
        )
        for number in range(2)
    },
    "images": {f"train/{number:03}.jpg": picture(number) for number in range(40)},
}
LAST = {"parquet": "data/train-1.parquet", "tar": "data/train-1.tar", "images": "train/030.jpg"}
every_form = pytest.mark.parametrize("form", SHARDS)


@every_form
@pytest.mark.parametrize("after", [0, 100, 11 * 10_240])
def test_a_connection_that_is_lost_is_taken_up_again(
    hub: Hub, no_pauses: None, form: str, after: int
) -> None:
    hub.dataset(ID, SHARDS[form])
    whole = read()
    assert len(whole) == 40
    hub.cut(LAST[form], after)
    assert read() == whole
    hub.fail(LAST[form], 503, times=2)
    assert read() == whole


@every_form
@pytest.mark.parametrize("after", [0, 11 * 10_240])
def test_a_connection_that_stays_lost_is_an_error_and_no_end(
    hub: Hub, no_pauses: None, form: str, after: int
) -> None:
    hub.dataset(ID, SHARDS[form])
    hub.cut(LAST[form], after if form == "tar" else 100)
    hub.cut(LAST[form], 0, times=1_000)
    rows: list[SourceRow] = []
    with pytest.raises(SourceError, match=r"could not be read from row \d+ on: .*run it again"):
        rows.extend(read_images(source()))
    assert len(rows) < 40


def test_a_shard_that_is_none(hub: Hub) -> None:
    hub.dataset(ID, {"data/train-0.parquet": pictures(2), "data/train-1.parquet": b"not parquet at all"})
    with pytest.raises(SourceError, match=r"could not be read from row 2 on: .*run it again"):
        read()


# --- how much is fetched ---------------------------------------------------------------------------------------------


def test_only_what_is_asked_for_is_fetched(hub: Hub) -> None:
    shards = {f"data/train-{number}.parquet": pictures(20, 20 * number) for number in range(4)}
    hub.dataset(ID, shards)
    assert texts(read(max_rows=22)) == [f"text {number}" for number in range(22)]
    assert {request.path for request in hub.asked("store")} == {
        "data/train-0.parquet",
        "data/train-1.parquet",
    }


def test_images_that_are_files_of_their_own_are_fetched_as_far_as_asked(hub: Hub) -> None:
    hub.dataset(ID, SHARDS["images"])
    assert [row.data for row in read(max_rows=10)] == [picture(number) for number in range(10)]
    assert len(hub.asked("store")) == 10


def test_other_columns_are_not_fetched(hub: Hub) -> None:
    heavy = random.Random(0).randbytes(12_000_000)  # more than clients read ahead
    shard = bare_parquet({"depth": [heavy], "image": [picture(0)], "text": ["text 0"]})
    hub.dataset(ID, {SHARD: shard})
    assert texts(read(image_column="image")) == ["text 0"]
    assert sum(request.sent for request in hub.asked("store")) < len(shard)
