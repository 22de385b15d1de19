"""Filling the folder of a new world: seeds, web, index, planted faults and flaws, truth."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from sd_assets.demo import content, scenes
from sd_assets.demo.faults import FAULTS, fault_url
from sd_assets.demo.flaws import FLAWS, MISMATCHED, false_text
from sd_assets.demo.scenes import Scene
from sd_assets.demo.world import Array, Encoder, World, WorldSpec
from sd_assets.errors import SdAssetsError
from sd_assets.retrieval.faiss_index import FaissIndex
from sd_assets.retrieval.layout import write_index
from sd_assets.schemas import image_id

_BATCH = 64
_SEED_FORMATS = ("jpg", "jpg", "png", "webp", "bmp", "jpg")
_NEAR_DUPLICATES = 0.06
_COPIES = 0.01
_PLANTING_ROUNDS = 4
# What is planted must be found with something to spare: another device rounds differently.
_SPARE_RANKS = 3

Progress = Callable[[str], None]


@dataclass(frozen=True)
class _Seed:
    """One seed image: its file, and the picture that the file decodes to. `flaw`: of its text."""

    name: str
    scene: Scene
    data: bytes
    picture: Image.Image
    text: str | None
    flaw: str | None


@dataclass
class _Page:
    """One image of the web. `embedding` is of what the crawler saw, float32, shape (dim,); `seed`: that is to retrieve it."""

    url: str
    name: str
    scene: Scene
    size: tuple[int, int]
    embedding: Array
    group: str
    fault: str | None = None
    flaw: str | None = None
    seed: int | None = None


def fill_world(world: World, encoder: Encoder, progress: Progress) -> None:
    """Make everything of a world but its `world.json`, in its folder, which is empty.

    Raises:
        SdAssetsError: a fault or a flaw is retrieved by no seed image.
    """
    world.seeds_folder.mkdir()
    world.web_folder.mkdir()
    progress(f"building the demo world of seed {world.seed}: {world.spec.seeds} seed images")
    encoder.load()
    seeds = [_seed(world, number) for number in range(world.spec.seeds)]
    _write_seeds(world, seeds)
    queries = _embedded(encoder, [seed.picture for seed in seeds])
    pages = _Web(world, encoder, progress).pages(seeds)
    pages += _plant(world, encoder, progress, seeds, queries, pages)
    scenes.world_rng(world.seed, "order").shuffle(pages)
    _write_index(world, pages)
    _verify(world, queries, pages)
    _write_truth(world, seeds, pages)
    faulty, flawed = (sum(getattr(page, name) is not None for page in pages) for name in ("fault", "flaw"))
    progress(f"the demo world is ready: {len(pages)} pages, {faulty} of them faulty, {flawed} flawed")


def _embedded(encoder: Encoder, pictures: Sequence[Image.Image]) -> Array:
    """Embeddings of RGB pictures, float32, shape (pictures, dim)."""
    parts = [
        encoder.encode_images([encoder.preprocess(picture) for picture in pictures[start : start + _BATCH]])
        for start in range(0, len(pictures), _BATCH)
    ]
    return np.concatenate(parts)


def _decoded(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


# --- seeds -----------------------------------------------------------------------------------------------------------


def _seed(world: World, number: int) -> _Seed:
    rng = scenes.world_rng(world.seed, f"seed:{number}")
    scene = scenes.sample_scene(rng, held_out=True)
    extension = _SEED_FORMATS[number % len(_SEED_FORMATS)]
    data = content.encoded(content.picture(scene, rng), extension, rng.randint(80, 95))
    name = f"{content.opaque_name(world.seed, f'seed:{number}')}.{extension}"
    text, flaw = None, None
    if number % 3 == 0:
        text = scenes.caption(scene)
    elif number % 3 == 1 and number // 3 < world.spec.flaws_per_kind:
        text, flaw = false_text(scene, rng), MISMATCHED
    return _Seed(name, scene, data, _decoded(data), text, flaw)


def _write_seeds(world: World, seeds: Sequence[_Seed]) -> None:
    lines = []
    for seed in seeds:
        (world.seeds_folder / seed.name).write_bytes(seed.data)
        lines.append(json.dumps({"file_name": seed.name, "text": seed.text}))
    (world.seeds_folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


# --- the web ---------------------------------------------------------------------------------------------------------


class _Web:
    """Makes the pages that are well, a batch of pictures in memory at a time."""

    def __init__(self, world: World, encoder: Encoder, progress: Progress) -> None:
        self._world = world
        self._encoder = encoder
        self._progress = progress
        self._pages: list[_Page] = []
        self._waiting: list[tuple[_Page, Image.Image]] = []

    def pages(self, seeds: Sequence[_Seed]) -> list[_Page]:
        """As many as the world has besides what is planted: originals, near-duplicates, and exact copies."""
        spec = self._world.spec
        total = spec.images - len(_planted_kinds(spec))
        if total < 1:
            raise SdAssetsError(
                f"a world of {spec.images} images has no room for its faults and flaws; make it larger"
            )
        duplicates, copies = round(total * _NEAR_DUPLICATES), round(total * _COPIES)
        shared = [seed for seed in seeds if seed.name.endswith(".jpg")][: min(3, (copies + 1) // 2)]
        originals: list[tuple[Scene, bytes]] = []
        for number in range(total - duplicates - copies):
            rng = scenes.world_rng(self._world.seed, f"web:{number}")
            scene = scenes.sample_scene(rng, held_out=True)
            picture = content.picture(scene, rng)
            extension = rng.choices(("jpg", "webp", "png"), (88, 8, 4))[0]
            rotated = rng.random() < 0.02
            data = content.encoded(picture, extension, rng.randint(70, 95), rotated=rotated)
            self._add(f"web:{number}", scene, extension, data, picture)
            if extension == "jpg" and not rotated and len(originals) < duplicates + copies:
                originals.append((scene, data))
        for number in range(duplicates):
            rng = scenes.world_rng(self._world.seed, f"duplicate:{number}")
            origin = number % len(originals)
            scene, data = originals[origin]
            picture = content.near_duplicate(_decoded(data), rng)
            copy = content.encoded(picture, "jpg", rng.randint(60, 85))
            self._add(f"duplicate:{number}", scene, "jpg", copy, picture, group=image_id(data))
        for number in range(copies):
            if number < len(shared):  # a seed image that is on the web as well
                scene, data = shared[number].scene, shared[number].data
            else:
                scene, data = originals[-1 - number % len(originals)]
            self._add(f"copy:{number}", scene, "jpg", data, _decoded(data))
        self._embed()
        return self._pages

    def _add(
        self,
        part: str,
        scene: Scene,
        extension: str,
        data: bytes,
        picture: Image.Image,
        group: str | None = None,
    ) -> None:
        stem = content.opaque_name(self._world.seed, part)
        name = f"{stem}.{extension}"
        (self._world.web_folder / name).write_bytes(data)
        page = _Page(
            f"{self._world.base_url}/{name}",
            name,
            scene,
            picture.size,
            np.empty(0, np.float32),
            group or image_id(data),
        )
        self._waiting.append((page, picture))
        if len(self._waiting) == _BATCH:
            self._embed()

    def _embed(self) -> None:
        if not self._waiting:
            return
        embeddings = _embedded(self._encoder, [picture for _, picture in self._waiting])
        for (page, _), embedding in zip(self._waiting, embeddings, strict=True):
            page.embedding = embedding
            self._pages.append(page)
        self._waiting.clear()
        if len(self._pages) % (4 * _BATCH) == 0:
            self._progress(f"rendered and embedded {len(self._pages)} of {self._world.spec.images} images")


# --- planting faults and flaws ---------------------------------------------------------------------------------------


def _planted_kinds(spec: WorldSpec) -> list[str]:
    """The kind of each page that is planted."""
    faults = [kind for kind in FAULTS for _ in range(spec.faults_per_kind)]
    return faults + [kind for kind in FLAWS for _ in range(spec.flaws_per_kind)]


def _plant(
    world: World,
    encoder: Encoder,
    progress: Progress,
    seeds: Sequence[_Seed],
    queries: Array,
    pages: Sequence[_Page],
) -> list[_Page]:
    """The faulty and flawed pages, spread evenly over the seed images; each shows the scene of one, which retrieves it."""
    kinds = _planted_kinds(world.spec)
    progress(f"planting {len(kinds)} faults and flaws of {len(set(kinds))} kinds")
    order = list(range(len(seeds)))
    scenes.world_rng(world.seed, "plants").shuffle(order)
    owners = [order[number % len(order)] for number in range(len(kinds))]
    planted: list[_Page] = []
    missing = list(range(len(kinds)))
    for round_ in range(_PLANTING_ROUNDS):
        seen = [_seen(world, number, seeds[owners[number]], round_) for number in missing]
        embeddings = _embedded(encoder, seen)
        for number, picture, embedding in zip(missing, seen, embeddings, strict=True):
            page = _planted(world, number, kinds[number], seeds[owners[number]].scene, picture, embedding)
            page.seed = owners[number]
            planted[number : number + 1] = [page]  # appends in the first round, replaces later
        everything = np.stack([page.embedding for page in [*pages, *planted]])
        similar = queries @ everything.T
        # How many pages are nearer to the owner's query than the planted one.
        ranks = [
            int((similar[page.seed] > similar[page.seed, len(pages) + number]).sum())
            for number, page in enumerate(planted)
        ]
        missing = [
            number for number, rank in enumerate(ranks) if rank >= world.spec.images_per_query - _SPARE_RANKS
        ]
        if not missing:
            break
    return planted


def _seen(world: World, number: int, seed: _Seed, round_: int) -> Image.Image:
    """What the crawler saw: at first another rendering of the seed's scene, and, where others look nearer, the seed image itself."""
    rng = scenes.world_rng(world.seed, f"plant:{number}:{round_}")
    if round_ < _PLANTING_ROUNDS - 2:
        return content.picture(seed.scene, rng)
    if round_ < _PLANTING_ROUNDS - 1:
        return content.near_duplicate(seed.picture, rng)
    return seed.picture


def _planted(
    world: World, number: int, kind: str, scene: Scene, picture: Image.Image, embedding: Array
) -> _Page:
    """A page that is no longer what the crawler saw: a fault, or a photograph of the same furniture, with a flaw."""
    rng = scenes.world_rng(world.seed, f"fault:{number}")
    stem = content.opaque_name(world.seed, f"fault:{number}")
    if kind in FLAWS:
        scene = content.rearranged(scene, rng)
        now, extension = FLAWS[kind].spoil(content.picture(scene, rng), rng), "jpg"
        url = f"{world.base_url}/{stem}.{extension}"
    else:
        now = scenes.render(scene, (660, 220), rng) if kind == "elongated" else picture
        extension = FAULTS[kind].extension
        url = fault_url(kind, stem, world.port)
    data = content.encoded(now, extension, rng.randint(70, 95))
    name = f"{stem}.{extension}"
    (world.web_folder / name).write_bytes(data)
    page = _Page(url, name, scene, picture.size, embedding, image_id(data))
    if kind in FLAWS:
        page.flaw = kind
    else:
        page.fault = kind
    return page


def _verify(world: World, queries: Array, pages: Sequence[_Page]) -> None:
    """Ask the index as the pipeline will. Raises `SdAssetsError` unless all that was planted is retrieved by a seed image."""
    answers = FaissIndex("demo world", world.index_folder).search(queries, world.spec.images_per_query)
    retrieved = set(answers.hits.column("url").to_pylist())
    lost = [page for page in pages if page.seed is not None and page.url not in retrieved]
    if lost:
        kinds = sorted({page.fault or page.flaw or "" for page in lost})
        raise SdAssetsError(
            f"the demo world of seed {world.seed} is no good: {len(lost)} planted pages are retrieved by no seed image "
            f"({', '.join(kinds)}); the CLIP {world.model} does not tell its scenes apart"
        )


# --- the files -------------------------------------------------------------------------------------------------------


def _write_index(world: World, pages: Sequence[_Page]) -> None:
    rng = scenes.world_rng(world.seed, "texts")
    metadata = pa.table(
        {
            "url": [page.url for page in pages],
            "caption": pa.array([content.alt_text(page.scene, rng) for page in pages], pa.string()),
            "width": pa.array([page.size[0] for page in pages], pa.int32()),
            "height": pa.array([page.size[1] for page in pages], pa.int32()),
            "license": pa.array([content.licence(rng) for _ in pages], pa.string()),
        }
    )
    write_index(world.index_folder, np.stack([page.embedding for page in pages]), metadata, world.model)


def _truth(scene: Scene) -> dict[str, Any]:
    return {"items": [list(item.pair) for item in scene.items], "wall": scene.wall, "floor": scene.floor}


def _write_truth(world: World, seeds: Sequence[_Seed], pages: Sequence[_Page]) -> None:
    counts: dict[str, int] = {}
    for page in pages:
        counts[page.group] = counts.get(page.group, 0) + 1
    truth = {
        "images": {
            page.url: {
                **_truth(page.scene),
                "fault": page.fault,
                "flaw": page.flaw,
                "group": page.group if counts[page.group] > 1 else None,
            }
            for page in pages
        },
        "seeds": {
            seed.name: {**_truth(seed.scene), "image_id": image_id(seed.data), "flaw": seed.flaw}
            for seed in seeds
        },
    }
    (world.folder / "truth.json").write_text(json.dumps(truth), "utf-8")
    faults = {f"/{page.name}": page.fault for page in pages if page.fault is not None}
    (world.folder / "faults.json").write_text(json.dumps(faults), "utf-8")
