"""What a report writes: only what has changed, whole or not at all, and nothing that is to be kept secret."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd_assets.errors import TableError
from sd_assets.report import pairs as report_pairs
from sd_assets.report.folder import ReportFolder
from sd_assets.report.thumbnails import packs
from sd_assets.report.write import write_report
from sd_assets.storage.files import LocalFiles
from sd_assets_tests.report.dataset import PARTITION, Dataset
from sd_assets_tests.s3 import s3_server

Files = dict[str, bytes]


def files_of(dataset: Dataset) -> Files:
    """The files of the report, and their bytes."""
    folder = dataset.base / "reports" / PARTITION
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def thumbnails(files: Files) -> set[str]:
    return {name for name in files if name.startswith("thumbnails-")}


def index_of(files: Files) -> dict[str, Any]:
    page = files["index.html"].decode()
    _, _, rest = page.partition('<script type="application/json" id="index">')
    index: dict[str, Any] = json.loads(rest.partition("</script>")[0])
    return index


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset.of(tmp_path, 300)


def test_what_has_not_changed_is_not_written_again(dataset: Dataset) -> None:
    first = dataset.report()
    before = files_of(dataset)
    again = dataset.report()
    assert first.bytes_written == first.bytes == sum(map(len, before.values()))
    assert again.bytes_written == 0
    assert (again.data_version, again.pairs, again.bytes) == (first.data_version, 300, first.bytes)
    assert files_of(dataset) == before


def test_a_changed_judgement_leaves_all_thumbnails(dataset: Dataset) -> None:
    first = dataset.report()
    before = files_of(dataset)
    dataset.rows["curated_pairs"][3].update(keep=False, reasons=["licence"], split=None)
    report = dataset.report()
    after = files_of(dataset)
    assert thumbnails(after) == thumbnails(before)
    assert report.bytes_written < first.bytes_written / 2
    assert report.data_version != first.data_version
    assert report.changed == {"no longer kept": 1}
    assert index_of(after)["curation"]["kept"] == index_of(before)["curation"]["kept"] - 1


def test_a_new_image_changes_a_pack_or_two(dataset: Dataset) -> None:
    dataset.report()
    before = files_of(dataset)
    dataset.add([4_000])
    for name in ("text_image_pairs", "curated_pairs", "near_duplicates"):
        dataset.rows[name].insert(0, dataset.rows[name].pop())
    report = dataset.report()
    after = files_of(dataset)
    assert report.changed == {"added": 1}
    assert 1 <= len(thumbnails(after) - thumbnails(before)) <= 3
    assert len(thumbnails(after) & thumbnails(before)) >= 3


def test_what_is_gone_is_gone_from_every_file(dataset: Dataset) -> None:
    row = dataset.rows["text_image_pairs"][20]
    row["captions"] = ["taken down"]
    dataset.report()
    before = files_of(dataset)
    assert any(b"taken down" in data for data in before.values())
    removed = dataset.remove(20)
    assert dataset.report().changed == {"removed": 1}
    after = files_of(dataset)
    assert not any(b"taken down" in data for data in after.values())
    assert index_of(after)["changes"]["counts"] == {"removed": 1}
    assert not any(removed.encode() in data for data in after.values())
    # The pack that showed it, and the pairs.
    assert len(before.keys() - after.keys()) >= 2


def test_changes_stay_until_the_data_change(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    assert dataset.report().changed == {}
    dataset.rows["text_image_pairs"][4]["captions"] = ["another caption"]
    dataset.rows["curated_pairs"][1].update(keep=True, reasons=[], split="train")
    assert dataset.report().changed == {"captions changed": 1, "now kept": 1}
    since = index_of(files_of(dataset))["changes"]["since"]
    assert "text_image_pairs version 1 " in since
    # The page comes to look different: the data are the same.
    monkeypatch.setattr("sd_assets.report.write.VERSION", "another")
    report = dataset.report()
    assert report.bytes_written and report.changed == {"captions changed": 1, "now kept": 1}
    assert index_of(files_of(dataset))["changes"]["since"] == since
    # What is shown of other tables changes, but no pair.
    monkeypatch.undo()
    dataset.rows["near_duplicates"][5]["held_out"] = ["evaluation/1.jpg"]
    assert dataset.report().changed == {"captions changed": 1, "now kept": 1}
    dataset.add([301])
    assert dataset.report().changed == {"added": 1}


def test_bookkeeping_is_nothing_new(dataset: Dataset) -> None:
    downloaded = {"url_id": "a", "url": "http://x.example/a", "error": "timeout", "attempts": 1}
    dataset.rows["downloaded_images"].append(downloaded)
    assert dataset.report().bytes_written
    dataset.rows["downloaded_images"][0]["attempts"] = 2
    assert dataset.report().bytes_written == 0
    dataset.rows["downloaded_images"][0]["error"] = "not_found"
    assert dataset.report().bytes_written
    assert index_of(files_of(dataset))["stages"][2]["failed"] == {"not_found": 1}


def test_a_report_that_was_killed_is_finished_by_the_next(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset.report()
    before = files_of(dataset)
    dataset.add([302])
    dataset.remove(0)
    put = ReportFolder.put
    steps = 0

    def killed_at(step: int) -> Callable[..., None]:
        def one(folder: ReportFolder, name: str, data: bytes) -> None:
            nonlocal steps
            steps += 1
            if steps > step:
                raise KeyboardInterrupt
            put(folder, name, data)

        return one

    for step in range(0, 20, 2):
        steps = 0
        monkeypatch.setattr(ReportFolder, "put", killed_at(step))
        try:
            dataset.report()
            break
        except KeyboardInterrupt:
            now = files_of(dataset)
            # Whatever page is there finds its files.
            named = index_of(now)
            assert {*named["chunks"], *(name for name, _ in named["packs"])} <= now.keys()
            assert before.keys() <= now.keys()
    else:
        raise AssertionError("it was never finished")
    after = files_of(dataset)
    named = index_of(after)
    assert after.keys() == {
        "index.html",
        "state.json",
        *named["chunks"],
        *(name for name, _ in named["packs"]),
    }
    assert named["changes"]["counts"] == {"added": 1, "removed": 1}


def test_files_that_are_gone_are_written_again_and_those_of_others_stay(dataset: Dataset) -> None:
    dataset.report()
    before = files_of(dataset)
    folder = dataset.base / "reports" / PARTITION
    lost = min(thumbnails(before))
    (folder / lost).unlink()
    (folder / "notes.txt").write_text("mine")
    stale = f"pairs-{'0' * 24}.js"
    (folder / stale).write_text("of a report that was killed")
    dataset.report()
    after = files_of(dataset)
    assert after[lost] == before[lost]
    assert after.keys() == {*before, "notes.txt"}


def test_a_damaged_state_is_as_none(dataset: Dataset) -> None:
    dataset.report()
    before = files_of(dataset)
    for damaged in (b"[]", before["state.json"][:100]):
        (dataset.base / "reports" / PARTITION / "state.json").write_bytes(damaged)
        dataset.report()
        assert files_of(dataset) == before


def test_images_that_cannot_be_decoded_say_why(dataset: Dataset) -> None:
    row = dataset.rows["text_image_pairs"][7]
    row["image"] = row["image"][:100]
    dataset.report()
    packs_there = (data for name, data in files_of(dataset).items() if name.startswith("thumbnails-"))
    assert sum(data.count(b'"!corrupt_image"') for data in packs_there) == 1


def test_no_secrets_and_no_pairs_that_failed(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hunter2hunter2")
    dataset.rows["text_image_pairs"][8].update(captions=["hunter2hunter2"], text="https://u:p4ss@x.example/")
    failed = {"image_id": "f" * 64, "error": "empty_caption", "error_detail": "none"}
    dataset.rows["text_image_pairs"].append(failed)
    report = dataset.report()
    files = files_of(dataset)
    assert report.pairs == report.of_pairs == 300
    for secret in (b"hunter2", b"p4ss", b"5ec2e7", b"f" * 64):
        assert not any(secret in data for name, data in files.items() if name[0] != "t")
    assert index_of(files)["stages"][-1] == {
        "name": "text_image_pairs",
        "ok": 300,
        "failed": {"empty_caption": 1},
    }


def test_of_many_pairs_a_sample_is_shown_and_said_to_be_one(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_pairs, "MAX_PAIRS", 100)
    said: list[str] = []
    report = write_report(LocalFiles(dataset.base), PARTITION, dataset.commit(), said.append)
    assert 50 <= report.pairs <= 100 and report.of_pairs == 300
    assert any("one of 4" in line for line in said)
    index = index_of(files_of(dataset))
    assert (index["pairs"], index["of_pairs"]) == (report.pairs, 300)
    # The funnel is of all.
    assert index["curation"]["pairs"] == 300


@pytest.mark.parametrize(("before", "after"), [(100, 1_000), (1_000, 100)])
def test_a_sample_of_another_size_is_compared_in_what_both_show(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch, before: int, after: int
) -> None:
    monkeypatch.setattr(report_pairs, "MAX_PAIRS", before)
    dataset.report()
    monkeypatch.setattr(report_pairs, "MAX_PAIRS", after)
    in_both = [place for place, image in enumerate(dataset.ids()) if report_pairs.is_shown(image, 4)]
    elsewhere = next(
        place for place, image in enumerate(dataset.ids()) if not report_pairs.is_shown(image, 4)
    )
    for place in (elsewhere, in_both[1]):
        dataset.rows["text_image_pairs"][place]["captions"] = ["another caption"]
    dataset.remove(in_both[0])
    assert dataset.report().changed == {"captions changed": 1, "removed": 1}


def test_a_table_of_another_version_is_an_error(dataset: Dataset) -> None:
    del dataset.rows["curated_pairs"][10]
    with pytest.raises(TableError, match="materialize curated_pairs again"):
        dataset.report()
    assert not (dataset.base / "reports" / PARTITION / "index.html").exists()


def test_a_partition_without_pairs_has_a_report(tmp_path: Path) -> None:
    empty = Dataset.of(tmp_path, 2)
    for rows in empty.rows.values():
        rows.clear()
    report = empty.report()
    assert report.pairs == 0 and index_of(files_of(empty))["packs"] == []


@pytest.mark.s3
def test_a_report_in_a_bucket(dataset: Dataset) -> None:
    with s3_server() as s3:
        files = s3.files("s3://data/base")
        first = write_report(files, PARTITION, dataset.commit(), print)
        assert first.page == f"s3://data/base/reports/{PARTITION}/index.html"
        names = set(files.names(f"reports/{PARTITION}"))
        dataset.remove(3)
        second = write_report(files, PARTITION, dataset.commit(), print)
        assert second.changed == {"removed": 1}
        assert 0 < second.bytes_written < first.bytes_written
        assert names - set(files.names(f"reports/{PARTITION}"))
        assert write_report(files, PARTITION, dataset.commit(), print).bytes_written == 0


def test_packs_hold_all_images_in_order_within_bounds() -> None:
    digests = [number.to_bytes(16, "little") for number in range(1_000)]
    assert [place for pack in packs(digests) for place in pack] == list(range(1_000))
    same = [bytes(16)] * 500
    assert {len(pack) for pack in packs(same)} <= {16, 500 % 16}
    assert list(packs([])) == []
