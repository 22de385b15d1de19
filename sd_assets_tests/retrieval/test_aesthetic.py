"""Queries that are moved by an aesthetic embedding, and embeddings that are not there or do not fit."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from sd_assets import catalog
from sd_assets.errors import RetrievalError
from sd_assets.retrieval import KnnIndex, open_index
from sd_assets.settings import FaissIndexSettings, RetrievalSettings
from sd_assets_tests.retrieval.answers import asked
from sd_assets_tests.retrieval.conftest import DIM, normalised

RATINGS = np.random.default_rng(9).standard_normal((10, DIM)).astype(np.float32)


def opened(folder: Path, embeddings: Path | None, score: int = 7, weight: float = 0.5) -> KnnIndex:
    settings = FaissIndexSettings(
        kind="faiss",
        path=str(folder),
        aesthetic_embeddings=None if embeddings is None else str(embeddings),
    )
    return open_index("rooms", settings, RetrievalSettings(aesthetic_score=score, aesthetic_weight=weight))


def saved(path: Path, values: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values, allow_pickle=values.dtype == object)
    return path


def ratings(folder: Path, shape: tuple[int, ...] = (DIM,)) -> Path:
    """A folder as LAION's aesthetic-predictor has them."""
    for score, rating in enumerate(RATINGS):
        saved(folder / f"rating{score}.npy", rating.reshape(shape))
    return folder


@pytest.mark.parametrize("layout", ["folder", "folder of matrices", "file"])
def test_the_query_is_moved_by_the_embedding_of_the_score(
    layout: str, folder: Path, vectors: npt.NDArray[np.float32], tmp_path: Path
) -> None:
    where = {
        "folder": lambda: ratings(tmp_path / "ratings"),
        "folder of matrices": lambda: ratings(tmp_path / "ratings", (1, DIM)),
        "file": lambda: saved(tmp_path / "ratings.npy", RATINGS),
    }[layout]()
    queries = normalised(np.random.default_rng(1).standard_normal((4, DIM)))
    index = opened(folder, where)
    index.open()
    # clip-retrieval's own formula.
    moved = queries + RATINGS[7] * 0.5
    moved = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    best = np.sort(vectors @ moved.T, axis=0)[::-1]
    for place, hits in enumerate(asked(index, queries, 5)):
        assert isinstance(hits, list)
        assert np.allclose([hit.similarity for hit in hits], best[:5, place], atol=1e-6)


def test_the_identity_is_of_the_index_and_of_the_embedding(folder: Path, tmp_path: Path) -> None:
    where = ratings(tmp_path / "ratings")
    plain = open_index("rooms", FaissIndexSettings(kind="faiss", path=str(folder)), RetrievalSettings())
    identities = {plain.identity, opened(folder, where).identity, opened(folder, where, score=8).identity}
    assert len(identities) == 3
    elsewhere = ratings(tmp_path / "elsewhere")
    assert opened(folder, elsewhere).identity == opened(folder, where).identity
    saved(where / "rating7.npy", RATINGS[7] + 1)
    assert opened(folder, where).identity not in identities


def test_embeddings_that_are_asked_for_and_absent(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match=r"'rooms' is local.*indices\.rooms\.aesthetic_embeddings"):
        opened(folder, None)
    with pytest.raises(RetrievalError, match=r"there is no .*nowhere; `aesthetic_score: 7` needs a folder"):
        opened(folder, tmp_path / "nowhere").open()
    with pytest.raises(RetrievalError, match=r"there is no .*rating7\.npy"):
        opened(folder, tmp_path).open()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(DIM, np.float32), r"1 rows, for the scores 0 to 0, and `aesthetic_score` is 7"),
        (np.ones((10, DIM + 1), np.float32), r"vectors of 8 dimensions, the aesthetic embedding .* has 9"),
        (
            np.ones((10, 1, DIM), np.float32),
            r"must hold one vector, or a row a score, and holds float32 of the shape",
        ),
        (np.array([["a"] * DIM] * 10), "and holds <U1 of"),
        (np.array([[None] * DIM] * 10, object), r"is no \.npy file of numbers"),
        (np.full((10, DIM), np.nan, np.float32), "the score 7 in .* holds NaN"),
    ],
)
def test_embeddings_that_do_not_fit(values: Any, message: str, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match=message):
        opened(folder, saved(tmp_path / "embeddings.npy", values)).open()


def test_a_file_of_something_else(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "embeddings.npy").write_bytes(b"<html>")
    with pytest.raises(RetrievalError, match=r"embeddings\.npy is no \.npy file of numbers"):
        opened(folder, tmp_path / "embeddings.npy").open()
    with pytest.raises(
        RetrievalError, match=r"rating7\.npy must hold one vector, and holds float32 of the shape"
    ):
        where = saved(tmp_path / "ratings" / "rating7.npy", RATINGS).parent
        opened(folder, where).open()


def test_score_and_weight_go_together() -> None:
    for one in ({"aesthetic_score": 9}, {"aesthetic_weight": 0.5}):
        with pytest.raises(ValidationError, match="has no effect alone"):
            RetrievalSettings(**one)


def test_the_path_is_relative_to_the_catalogue(tmp_path: Path) -> None:
    raw = {
        "indices": {"laion": {"kind": "faiss", "path": "index", "aesthetic_embeddings": "ratings"}},
        "seed_datasets": {
            "one": {"prompts": {"texts": ["x"]}, "clip": {"model": "ViT-B-32", "pretrained": "openai"}}
        },
    }
    index = catalog.parse(raw, tmp_path / "c.yaml").index("laion")
    assert isinstance(index, FaissIndexSettings)
    assert index.aesthetic_embeddings == str(tmp_path / "ratings")
