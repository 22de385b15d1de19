"""Which seeds are embedded anew: those whose image or text has changed, whatever their ids are; with an encoder that counts."""

import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sd_assets.compute.run import run_stage
from sd_assets.images import inspect
from sd_assets.models.clip import ClipEncoder
from sd_assets.schemas import SEED_IMAGES, SEED_PROMPTS
from sd_assets.settings import ClipSettings
from sd_assets.stages.embed import EmbedStage, query_batches
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table
from sd_assets_tests.tables import table_of

Vectors = npt.NDArray[np.float32]


class CountingEncoder(ClipEncoder):
    """A text's vector is its length, an image's its width."""

    def __init__(self) -> None:
        super().__init__(ClipSettings(model="local-dir:counting"))
        self.encoded = 0

    @cached_property
    def identity(self) -> str:
        return "counting"

    def load(self) -> None: ...

    def pixels(self, data: bytes) -> Vectors:
        return np.array([inspect(data).width], np.float32)

    def encode_images(self, pixels: Sequence[Vectors], failed: Any = None) -> Vectors:
        self.encoded += len(pixels)
        return np.stack(pixels)

    def encode_texts(self, texts: Sequence[str], failed: Any = None) -> Vectors:
        self.encoded += len(texts)
        return np.array([[len(text)] for text in texts], np.float32)


class Seeds:
    """A user's own seeds, of ids that a user gave, and their embeddings."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._area = Area(LocalFiles(base), "seed_embeddings", "p")
        self._runs = 0

    def embed(self, images: Mapping[str, int], prompts: Mapping[str, str]) -> tuple[dict[str, float], int]:
        """The embedding of each seed, and how many were computed; images by their width."""
        self._runs += 1
        base = self._base / f"seeds-{self._runs}"
        seeds = (
            table_of(
                base, SEED_IMAGES, [{"image_id": id, "image": png(width)} for id, width in images.items()]
            ),
            table_of(base, SEED_PROMPTS, [{"prompt_id": id, "prompt": text} for id, text in prompts.items()]),
        )
        encoder = CountingEncoder()
        staged = run_stage(
            EmbedStage(encoder), query_batches(*seeds), self._area, f"run{self._runs}", print, seeds
        )
        rows: list[dict[str, Any]] = Table(self._area, staged.commit()).read().to_pylist()
        return {row["query_id"]: row["embedding"][0] for row in rows}, encoder.encoded


def png(width: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 8)).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def seeds(tmp_path: Path) -> Seeds:
    return Seeds(tmp_path)


def test_an_edited_text_is_embedded_anew(seeds: Seeds) -> None:
    images = {"photo": 20}
    assert seeds.embed(images, {"kitchen": "a", "hall": "an oak"}) == (
        {"photo": 20, "kitchen": 1, "hall": 6},
        3,
    )
    after = seeds.embed(images, {"kitchen": "a stove", "hall": "an oak"})
    assert after == ({"photo": 20, "kitchen": 7, "hall": 6}, 1)


def test_an_edited_image_is_embedded_anew(seeds: Seeds) -> None:
    prompts = {"kitchen": "a"}
    assert seeds.embed({"photo": 20, "other": 30}, prompts) == ({"photo": 20, "other": 30, "kitchen": 1}, 3)
    assert seeds.embed({"photo": 25, "other": 30}, prompts) == ({"photo": 25, "other": 30, "kitchen": 1}, 1)


def test_a_seed_that_moves_is_not(seeds: Seeds) -> None:
    before, _ = seeds.embed({"photo": 20, "other": 30}, {"kitchen": "a"})
    assert seeds.embed({"other": 30, "photo": 20}, {"kitchen": "a"}) == (before, 0)
