"""Each layout is opened by its consumer, or by its rules."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sd_assets.curation.splits import SPLITS
from sd_assets.errors import ErrorCode
from sd_assets.exports.export import LAYOUTS
from sd_assets.schemas import image_id
from sd_assets_tests.exports import contracts
from sd_assets_tests.exports.kept import MODEL, Kept, encoded, exported, files_of, folder_of, some

WITH_ALL_CAPTIONS = [layout for layout in LAYOUTS if layout != "ai_toolkit"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_original_bytes_are_kept_and_the_rest_is_made_as_it_is_shown(tmp_path: Path, layout: str) -> None:
    pairs = some(6)
    turned = Kept(encoded(50, "turned"), size=(32, 48))
    exported(tmp_path, layout, [*pairs, turned])
    found = contracts.images_in(tmp_path, layout)
    originals = {pair.image for pair in pairs if pair.split == "train"}
    assert originals < found
    (made,) = found - originals
    assert contracts.opened(made).size == turned.size


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_are_resized_if_asked_for(tmp_path: Path, layout: str) -> None:
    exported(tmp_path, layout, some(4), image_size=16, resize_mode="center_crop", image_format="webp")
    found = [contracts.opened(data) for data in contracts.images_in(tmp_path, layout)]
    assert len(found) == 3 and {image.size for image in found} == {(16, 16)}


def captions_of(base: Path, layout: str, split: str) -> dict[str, Any]:
    """What the consumer reads as caption, by image_id."""
    folder = folder_of(base, layout)
    readers: dict[str, Callable[[], dict[str, Any]]] = {
        "imagefolder": lambda: {
            row["image_id"]: row["text"] for row in contracts.imagefolder(folder / split)
        },
        "parquet": lambda: {row["image_id"]: row["text"] for row in contracts.parquet(folder)[split]},
        "kohya": lambda: {
            path.name[:64]: it for path, it in contracts.kohya(folder / "dataset.toml").items()
        },
        "ai_toolkit": lambda: {
            path.name[:64]: it for path, it in contracts.ai_toolkit(folder / split).items()
        },
        "webdataset": lambda: {
            it["__key__"]: it["txt"].decode() for it in contracts.webdataset(folder / split)
        },
        "mds": lambda: {sample["image_id"]: sample["caption"] for sample in contracts.mds(folder / split)},
    }
    return readers[layout]()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_captions_are_with_their_images(tmp_path: Path, layout: str) -> None:
    pairs = some(12)
    exported(
        tmp_path, layout, pairs, **({"shard_pairs": 4} if layout in ("webdataset", "mds", "parquet") else {})
    )
    for split in SPLITS if layout != "kohya" else SPLITS[:1]:
        wanted = {image_id(pair.image): pair.captions[0] for pair in pairs if pair.split == split}
        found = captions_of(tmp_path, layout, split)
        assert {image: it[0] if layout == "kohya" else it for image, it in found.items()} == wanted


@pytest.mark.parametrize("layout", WITH_ALL_CAPTIONS)
def test_all_captions(tmp_path: Path, layout: str) -> None:
    pairs = [Kept(encoded(0), ("a {small|large} room", "two\nlines")), Kept(encoded(1), ("one",))]
    wanted = {
        image_id(pair.image): [" ".join(caption.split()) for caption in pair.captions] for pair in pairs
    }
    exported(tmp_path, layout, pairs, captions="all")
    folder = folder_of(tmp_path, layout) / "train"
    if layout == "webdataset":
        described = [json.loads(sample["json"]) for sample in contracts.webdataset(folder)]
        found = {it["key"]: it["captions"] for it in described}
    elif layout == "mds":
        found = {it["image_id"]: it["captions"] for it in contracts.mds(folder)}
    else:
        found = captions_of(tmp_path, layout, "train")
    if layout == "kohya":  # where a brace begins a choice
        wanted = {
            image: [it.replace("{", "{{").replace("}", "}}") for it in texts]
            for image, texts in wanted.items()
        }
    assert found == wanted


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_provenance_is_there(tmp_path: Path, layout: str) -> None:
    """Of a pair that was found, and of a seed, which has no URL and no similarity: splits of seeds alone are read, too."""
    found, seed = Kept(encoded(0), ("found",)), Kept(encoded(1), ("seed",), "validation", seed=True)
    exported(tmp_path, layout, [found, seed])
    folder = folder_of(tmp_path, layout)
    rows: list[dict[str, Any]] = []
    if layout in ("kohya", "ai_toolkit"):
        rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
        assert all((folder / row["file_name"]).exists() for row in rows)
    elif layout == "webdataset":
        rows = [json.loads(it["json"]) for split in SPLITS for it in contracts.webdataset(folder / split)]
    elif layout == "mds":
        rows = [sample for split in SPLITS for sample in contracts.mds(folder / split)]
    elif layout == "parquet":
        rows = [row for split in SPLITS for row in contracts.parquet(folder)[split]]
    else:
        import datasets

        both = datasets.load_dataset("imagefolder", data_dir=str(folder), cache_dir=str(tmp_path / "cache"))
        rows = [row for split in SPLITS for row in both[split]]
    of_found, of_seed = rows
    image = image_id(found.image)
    assert of_found["image_id"] == image and of_seed["image_id"] == image_id(seed.image)
    assert (of_found["origin"], of_seed["origin"]) == ("retrieved", "seed")
    assert (of_found["url"], of_seed["url"]) == (f"https://example.org/{image[:8]}.jpg", "")
    assert (of_found["licence"], of_found["query_ids"]) == ("CC-BY-4.0", "q1 q2")
    assert (of_found["width"], of_found["height"], of_found["original_width"]) == (48, 32, 96)
    assert of_found["caption_models"] == [MODEL]
    assert scores_of(of_found) == {"resolution": 32, "alignment": 0.25, "similarity": 0.75, "redness": 0.5}
    assert "similarity" not in scores_of(of_seed)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_secrets_of_addresses_are_not_exported(tmp_path: Path, layout: str) -> None:
    url = "https://me:hunter2@example.org/a.png?X-Amz-Signature=0123456789abcdef"
    pair = Kept(encoded(0, "png"), ("a room",), url=url, text=f"see {url}")
    exported(tmp_path, layout, [pair])
    if layout == "parquet":
        said = json.dumps(contracts.parquet(folder_of(tmp_path, layout))["train"].remove_columns("image")[0])
    else:
        said = " ".join(data.decode(errors="replace") for data in files_of(tmp_path, layout).values())
    assert "hunter2" not in said and "0123456789abcdef" not in said
    assert "https://example.org/a.png?" in said


def test_an_empty_caption_is_left_out_with_its_model(tmp_path: Path) -> None:
    pairs = [
        Kept(encoded(0), ("one", " ", "two")),
        Kept(encoded(1), ("", "three")),
        Kept(encoded(2), ("", " ")),
    ]
    assert exported(tmp_path, "parquet", pairs, captions="all").record["failures"] == {
        ErrorCode.EMPTY_CAPTION: 1
    }
    rows = contracts.parquet(folder_of(tmp_path, "parquet"))["train"]
    assert list(rows["text"]) == [["one", "two"], ["three"]]
    assert list(rows["caption_models"]) == [[MODEL, MODEL], [MODEL]]


def scores_of(row: dict[str, Any]) -> dict[str, float]:
    names = ("resolution", "alignment", "similarity", "redness")
    scores = row.get("scores", row.get("own_scores", ()))
    listed = scores if isinstance(scores, dict) else {it["score"]: it["value"] for it in scores}
    return {**listed, **{name: row[name] for name in names if row.get(name) is not None}}


def test_webdataset_lists_its_shards_with_their_samples(tmp_path: Path) -> None:
    exported(tmp_path, "webdataset", some(24), shard_pairs=4)
    folder = folder_of(tmp_path, "webdataset")
    for split in SPLITS:
        index = json.loads((folder / f"{split}.json").read_bytes())
        assert index["__kind__"] == "wids-shard-index-v1"
        counted = {it["url"]: it["nsamples"] for it in index["shardlist"]}
        found: dict[str, int] = {}
        for sample in contracts.webdataset(folder / split):
            name = f"{split}/{Path(sample['__url__']).name}"
            found[name] = found.get(name, 0) + 1
        assert counted == found and len(found) > 1


@pytest.mark.parametrize(("assumed", "taken"), [(None, 0), (0.1, 3)])
def test_trainers_that_ask_for_a_watermark_take_what_is_said_to_have_none(
    tmp_path: Path, assumed: float | None, taken: int
) -> None:
    """As the filter of diffusers' latent consistency distillation, by its keys and their defaults."""
    exported(tmp_path, "webdataset", some(4), pwatermark=assumed)
    samples = contracts.webdataset(folder_of(tmp_path, "webdataset") / "train")
    described = [json.loads(sample["json"]) for sample in samples]
    large = [it for it in described if min(it["original_width"], it["original_height"]) >= 64]
    assert len(large) == 3
    assert sum((it.get("pwatermark", 1.0) or 1.0) <= 0.5 for it in large) == taken


def test_a_score_of_one_s_own_does_not_take_the_place_of_what_trainers_read(tmp_path: Path) -> None:
    exported(tmp_path, "webdataset", [Kept(encoded(0), ("a room",), own_score="width")])
    (sample,) = contracts.webdataset(folder_of(tmp_path, "webdataset") / "train")
    described = json.loads(sample["json"])
    assert (described["width"], described["score_width"], described["alignment"]) == (48, 0.5, 0.25)


def test_datasets_reads_webdataset_whose_images_have_one_extension(tmp_path: Path) -> None:
    """It takes the files of the first samples to be those of all; whether the bytes are of that format it does not ask."""
    import datasets

    pairs = [Kept(encoded(number, kind), ("a room",)) for number, kind in enumerate(("jpeg", "png", "webp"))]
    exported(tmp_path, "webdataset", pairs, image_extension="jpg")
    shards = str(folder_of(tmp_path, "webdataset") / "train" / "*.tar")
    found = datasets.load_dataset(
        "webdataset", data_files={"train": shards}, cache_dir=str(tmp_path / "cache")
    )
    assert [row["jpg"].size for row in found["train"]] == [(48, 32)] * 3


def test_parquet_streams_and_has_no_row_group_of_all_images(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    exported(tmp_path, "parquet", [Kept(encoded(number), (f"room {number}",)) for number in range(250)])
    (path,) = (folder_of(tmp_path, "parquet") / "train").glob("*.parquet")
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [100, 100, 50]
    kinds = {file.metadata.row_group(0).column(number).path_in_schema: number for number in range(3)}
    assert file.metadata.row_group(0).column(kinds["image.bytes"]).compression == "UNCOMPRESSED"
