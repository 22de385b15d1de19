"""What filters, deduplication and the aesthetic embedding do to what is retrieved, by the truth of the embedded world."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from sd_assets.demo.scenes import Pair, phrase
from sd_assets.demo.truth import Truth
from sd_assets.demo.world import World
from sd_assets.models.clip import ClipEncoder
from sd_assets.retrieval import open_index
from sd_assets.retrieval.selection import Selected, Selection
from sd_assets.schemas import image_id
from sd_assets.settings import ClipSettings, FaissIndexSettings, RetrievalSettings
from sd_assets_tests.pipeline.conftest import CLIP

Array = npt.NDArray[np.float32]

# Between images of the world that show the same scene, cropped and coloured otherwise, and all others.
NEAR = 0.978
AT = 10


class Judged:
    """The world's truth, and queries of both kinds about it.

    Attributes:
        truth: of the world.
        pairs: (colour, object) pairs that at least ten pages show; the prompts ask for them.
        prompts: their embeddings, float32, shape (pairs, dim).
        pictures: those of the seed images, float32, shape (seeds, dim).
        vectors: those of the pages, by URL.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.truth = Truth(world.folder)
        shown = Counter(pair for pairs in self.truth.pairs.values() for pair in pairs)
        self.pairs: list[Pair] = sorted(pair for pair, pages in shown.items() if pages >= AT)
        encoder = ClipEncoder(ClipSettings(model=f"local-dir:{CLIP}"))
        encoder.load()
        self.prompts = encoder.encode_texts([phrase(*pair) for pair in self.pairs])
        files = sorted(path for path in world.seeds_folder.iterdir() if path.suffix != ".jsonl")
        self.pictures = encoder.encode_images(
            [encoder.preprocess(Image.open(path).convert("RGB")) for path in files]
        )
        index = open_index("demo", self._index(), RetrievalSettings())
        index.open()
        self.metadata = {
            row["url"]: row for row in pq.read_table(world.index_folder / "metadata").to_pylist()
        }
        known = index.vectors(np.arange(len(self.metadata)))
        assert known is not None
        self.vectors = dict(zip(self.metadata, known, strict=True))

    def _index(self, aesthetic: Path | None = None) -> FaissIndexSettings:
        return FaissIndexSettings(
            kind="faiss",
            path=str(self.world.index_folder),
            aesthetic_embeddings=None if aesthetic is None else str(aesthetic),
        )

    def hits(
        self, queries: Array, kind: str = "text", *, aesthetic: Path | None = None, **settings: Any
    ) -> tuple[list[list[dict[str, Any]]], Selected]:
        """The hits of each query."""
        chosen = RetrievalSettings(**{"index": "demo", "images_per_query": AT, **settings})
        selection = Selection(open_index("demo", self._index(aesthetic), chosen), chosen)
        selection.open()
        selected = selection.select(queries, pa.array([kind] * len(queries)))
        return selected.of_queries().to_pylist(), selected

    def precision(self, hits: list[list[dict[str, Any]]]) -> float:
        """Of the hits of the prompts, the share that shows what was asked for."""
        true = [
            pair in self.truth.pairs[hit["url"]]
            for pair, found in zip(self.pairs, hits, strict=True)
            for hit in found
        ]
        return float(np.mean(true))

    def repeats(self, hits: list[list[dict[str, Any]]]) -> int:
        """Hits that are a near-duplicate or copy of a better one of the same query."""
        groups = [[self.truth.groups.get(hit["url"], hit["url"]) for hit in found] for found in hits]
        return sum(len(found) - len(set(found)) for found in groups)

    def size(self, url: str) -> tuple[int, int]:
        """Of the page's file as it is shown, px."""
        with Image.open(self.world.web_folder / url.rpartition("/")[2]) as picture:
            return ImageOps.exif_transpose(picture).size


def _urls(hits: list[list[dict[str, Any]]]) -> list[str]:
    return [hit["url"] for found in hits for hit in found]


@pytest.fixture(scope="module")
def judged(world: World) -> Judged:
    return Judged(world)


def test_without_filters_the_hits_are_those_of_exact_search(judged: Judged) -> None:
    hits, selected = judged.hits(judged.prompts)
    assert judged.precision(hits) >= 0.85
    pages = np.stack(list(judged.vectors.values()))
    for query, found in zip(judged.prompts, hits, strict=True):
        best = np.sort(pages @ query)[::-1][:AT]
        assert np.allclose([hit["similarity"] for hit in found], best, atol=1e-6)
    assert selected.numbers_left_out() == {}


@pytest.mark.parametrize("kind", ["text", "image"])
def test_near_duplicates_make_room_for_others(judged: Judged, kind: str) -> None:
    queries = judged.prompts if kind == "text" else judged.pictures
    before, _ = judged.hits(queries, kind)
    after, selected = judged.hits(queries, kind, near_duplicates=NEAR)
    assert judged.repeats(before) > 0
    assert judged.repeats(after) == 0
    assert all(len(found) == AT for found in after)
    assert selected.numbers_left_out()["near_duplicate"] >= judged.repeats(before)
    if kind == "text":
        # What comes in their place shows what was asked for, too.
        assert judged.precision(after) >= 0.85


def test_sizes_are_those_of_the_files(judged: Judged) -> None:
    filters = {"min_width": 260, "min_height": 256, "max_aspect_ratio": 1.2}
    before, _ = judged.hits(judged.prompts)
    after, selected = judged.hits(judged.prompts, filters=filters)

    def meets(url: str) -> bool:
        width, height = judged.size(url)
        return width >= 260 and height >= 256 and max(width, height) <= 1.2 * min(width, height)

    # Faulty and flawed pages had another size when the crawler came.
    planted = judged.truth.faults | judged.truth.flaws
    share_before, share_after = (
        np.mean([meets(url) for url in _urls(hits) if url not in planted]) for hits in (before, after)
    )
    assert share_before < 0.8
    assert share_after == 1
    assert all(len(found) == AT for found in after)
    assert set(selected.numbers_left_out()) == {"width", "height", "aspect_ratio"}


def test_licences_are_those_asked_for_and_known(judged: Judged) -> None:
    after, selected = judged.hits(judged.prompts, filters={"licences": ["CC0", "cc-by*"]})
    assert {hit["licence"] for found in after for hit in found} == {"cc0", "cc-by", "cc-by-sa"}
    assert set(selected.numbers_left_out()) == {"licence_unknown"}
    strict, selected = judged.hits(
        judged.prompts, filters={"licences": ["cc0"], "unknown_passes": ["licence"]}
    )
    assert {hit["licence"] for found in strict for hit in found} == {"cc0", None}
    assert set(selected.numbers_left_out()) == {"licence"}


def test_a_least_similarity_leaves_what_is_true(judged: Judged) -> None:
    # Three times as many as show it, so that most are wrong.
    many, _ = judged.hits(judged.prompts, images_per_query=3 * AT)
    precisions = [judged.precision(many)]
    for least in (0.2, 0.3, 0.4):
        filters = {"min_similarity_prompts": least, "min_similarity_images": 0.99}
        some, _ = judged.hits(judged.prompts, images_per_query=3 * AT, filters=filters)
        precisions.append(judged.precision(some))
    assert precisions == sorted(precisions)
    assert precisions[-1] > precisions[0] + 0.3


def test_what_is_all_but_the_seed_itself_is_left_out(judged: Judged, world: World) -> None:
    seeds = {image_id(path.read_bytes()) for path in world.seeds_folder.iterdir()}
    copies = {
        f"{world.base_url}/{path.name}"
        for path in world.web_folder.iterdir()
        if image_id(path.read_bytes()) in seeds
    }
    assert copies
    before, _ = judged.hits(judged.pictures, "image")
    filters = {"max_similarity_images": 0.995, "min_similarity_prompts": 0.99}
    after, _ = judged.hits(judged.pictures, "image", filters=filters)
    assert copies <= set(_urls(before))
    assert not copies & set(_urls(after))
    assert all(len(found) == AT for found in after)


def test_the_aesthetic_embedding_pulls_the_results_towards_what_it_is_of(
    judged: Judged, tmp_path: Path
) -> None:
    sofa = ("black", "sofa")
    rated = [url for url, pairs in judged.truth.pairs.items() if sofa in pairs]
    ratings = np.zeros((10, judged.prompts.shape[1]), np.float32)
    ratings[9] = np.mean([judged.vectors[url] for url in rated], axis=0)
    np.save(tmp_path / "ratings.npy", ratings)
    others = judged.prompts[[pair != sofa for pair in judged.pairs]]
    shares = []
    for weight in (0.0, 0.3, 0.6, 2.0):
        hits, _ = judged.hits(
            others, aesthetic=tmp_path / "ratings.npy", aesthetic_score=9, aesthetic_weight=weight
        )
        shares.append(np.mean([sofa in judged.truth.pairs[url] for url in _urls(hits)]))
    plain, _ = judged.hits(others)
    none = np.mean([sofa in judged.truth.pairs[url] for url in _urls(plain)])
    assert shares[0] == none
    assert shares == sorted(shares)
    assert shares[-1] > none + 0.3
