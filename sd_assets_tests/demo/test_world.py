"""Building a world: what is in it, that it follows from its seed, and that an interrupted build leaves none."""

import hashlib
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from sd_assets.demo import building, scenes
from sd_assets.demo.faults import FAULTS
from sd_assets.demo.flaws import FLAWS, MISMATCHED
from sd_assets.demo.world import World, build_world
from sd_assets.errors import SdAssetsError
from sd_assets.retrieval import open_index
from sd_assets.retrieval.record import RECORD_FILE
from sd_assets.settings import FaissIndexSettings, RetrievalSettings
from sd_assets_tests.demo.conftest import SPEC, PixelEncoder, made


def truth_of(world: World) -> dict[str, Any]:
    truth: dict[str, Any] = json.loads((world.folder / "truth.json").read_text())
    return truth


def contents(world: World) -> dict[str, str]:
    """Digest of every file, by its path; the port is in URLs, so two worlds compare only if they share it.

    What says when the index was built is left out.
    """
    return {
        path.relative_to(world.folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(world.folder.rglob("*"))
        if path.is_file() and path.name != RECORD_FILE
    }


def test_every_fault_and_flaw_is_retrieved_by_a_seed_image(world: World) -> None:
    images = truth_of(world)["images"]
    faults, flaws = (
        {url: image[name] for url, image in images.items() if image[name]} for name in ("fault", "flaw")
    )
    assert sorted(faults.values()) == sorted(FAULTS)
    assert sorted(flaws.values()) == sorted(FLAWS)
    assert len(FAULTS) >= 14
    index = open_index(
        "rooms",
        FaissIndexSettings(kind="faiss", path=str(world.index_folder)),
        RetrievalSettings(index="rooms"),
    )
    encoder = PixelEncoder()
    rows = [json.loads(line) for line in (world.seeds_folder / "metadata.jsonl").read_text().splitlines()]
    pictures = [Image.open(world.seeds_folder / row["file_name"]).convert("RGB") for row in rows]
    queries = encoder.encode_images([encoder.preprocess(picture) for picture in pictures])
    answers = index.search(queries, SPEC.images_per_query)
    assert set(faults) | set(flaws) <= set(answers.hits.column("url").to_pylist())


def test_the_index_knows_every_page_and_no_truth(world: World) -> None:
    images = truth_of(world)["images"]
    metadata = pq.read_table(world.index_folder / "metadata" / "metadata_0000.parquet")
    assert set(metadata["url"].to_pylist()) == set(images)
    assert len(images) == SPEC.images
    assert set(metadata.column_names) == {"url", "caption", "width", "height", "license"}
    texts = metadata["caption"].to_pylist()
    truthful = sum(
        {(colour, kind) for colour, kind in images[url]["items"]} <= scenes.pairs_in(text or "")
        for url, text in zip(metadata["url"].to_pylist(), texts, strict=True)
    )
    assert None in texts
    assert truthful < 0.3 * len(texts)


def test_the_pictures_show_what_the_truth_says_in_several_formats(world: World) -> None:
    extensions = set()
    for url, image in truth_of(world)["images"].items():
        path = world.web_folder / url.rpartition("/")[2]
        extensions.add(path.suffix)
        picture = ImageOps.exif_transpose(Image.open(path))
        picture.load()
        if image["fault"] == "elongated":
            assert picture.width / picture.height > 2.5
        elif image["flaw"] == "tiny":
            assert max(picture.size) < 200
        else:
            assert 200 <= min(picture.size) <= max(picture.size) <= 384
    assert {".jpg", ".png", ".webp"} <= extensions


def test_near_duplicates_and_copies_are_of_one_group(world: World) -> None:
    groups: dict[str, list[str]] = {}
    for url, image in truth_of(world)["images"].items():
        if image["group"]:
            groups.setdefault(image["group"], []).append(url)
    assert groups
    images = truth_of(world)["images"]
    for urls in groups.values():
        assert len({json.dumps([images[url]["items"], images[url]["wall"]]) for url in urls}) == 1
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in world.web_folder.iterdir()]
    assert len(set(digests)) < len(digests)  # some are exact copies


def test_seeds_are_an_image_folder_with_some_texts(world: World) -> None:
    rows = [json.loads(line) for line in (world.seeds_folder / "metadata.jsonl").read_text().splitlines()]
    files = {path.name for path in world.seeds_folder.iterdir()} - {"metadata.jsonl"}
    assert {row["file_name"] for row in rows} == files
    assert len(files) == SPEC.seeds
    assert 0 < sum(row["text"] is not None for row in rows) <= SPEC.seeds / 2
    seeds = truth_of(world)["seeds"]
    for row in rows:
        data = (world.seeds_folder / row["file_name"]).read_bytes()
        assert seeds[row["file_name"]]["image_id"] == hashlib.sha256(data).hexdigest()
        Image.open(io.BytesIO(data)).load()
        seed = seeds[row["file_name"]]
        named, shown = scenes.pairs_in(row["text"] or ""), {tuple(pair) for pair in seed["items"]}
        assert named == (shown if row["text"] and not seed["flaw"] else named - shown)
    assert sum(seed["flaw"] == MISMATCHED for seed in seeds.values()) == SPEC.flaws_per_kind
    assert len({Path(name).suffix for name in files}) >= 4


def test_it_follows_from_the_seed(tmp_path: Path) -> None:
    # Of a seed that no other test serves: its port, and so its URLs, would be taken.
    world, again = (made(tmp_path / name, 70_001) for name in ("world", "again"))
    assert contents(again) == contents(world)
    assert again.id == world.id
    other = made(tmp_path / "other", 70_002)
    assert other.id != world.id
    assert not set(truth_of(other)["images"]) & set(truth_of(world)["images"])


def test_a_complete_world_is_not_built_again(tmp_path: Path) -> None:
    first = made(tmp_path / "world")
    before = contents(first)
    said: list[str] = []
    encoder = PixelEncoder()
    assert build_world(tmp_path / "world", first.seed, encoder, progress=said.append, spec=SPEC) == first
    assert (said, encoder.loads, contents(first)) == ([], 0, before)
    # Another seed, model or size is another world in the same folder; the same seed keeps its URLs.
    larger = made(tmp_path / "world", first.seed, replace(SPEC, images=240))
    assert len(truth_of(larger)["images"]) == 240
    assert larger.port == first.port
    assert made(tmp_path / "world", first.seed + 1).seed == first.seed + 1


def test_an_interrupted_build_leaves_no_world_and_is_built_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(PixelEncoder):
        def encode_images(self, images: Any, /) -> Any:
            self.loads += 1
            if self.loads > 3:
                raise KeyboardInterrupt
            return super().encode_images(images)

    with pytest.raises(KeyboardInterrupt):
        build_world(tmp_path / "world", 7, Interrupted(), progress=lambda _: None, spec=SPEC)
    with pytest.raises(SdAssetsError, match="no complete demo world"):
        World.open(tmp_path / "world")
    assert made(tmp_path / "world").seed == 7
    assert {path.name for path in tmp_path.iterdir()} == {"world", "world.lock"}


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    with pytest.raises(SdAssetsError, match="no demo world"):
        made(tmp_path / "photos")
    assert (tmp_path / "photos" / "mine.jpg").exists()


def test_a_fault_that_nobody_retrieves_stops_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blind(PixelEncoder):
        """Sees something else every time."""

        def encode_images(self, images: Any, /) -> Any:
            random = np.random.default_rng(self.loads)
            self.loads += 1
            vectors = random.standard_normal((len(images), 16)).astype(np.float32)
            return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    monkeypatch.setattr(building, "_PLANTING_ROUNDS", 3)
    with pytest.raises(SdAssetsError, match="retrieved by no seed image"):
        build_world(
            tmp_path / "world", 7, Blind(), progress=lambda _: None, spec=replace(SPEC, images_per_query=1)
        )
    assert not (tmp_path / "world").exists()
