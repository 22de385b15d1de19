"""`python -m benchmarks.vectors FOLDER VECTORS QUERIES`: embeddings and metadata as `clip-retrieval inference` leaves them.

Written are `img_emb/img_emb_N.npy` (float16, 512 dimensions, L2-normalised) and `metadata/metadata_N.parquet`, 100,000 rows
each, `queries.npy` (float32), and `truth.npy`: of the first queries the numbers of the 10 nearest, by exact search. Prints what it
wrote as a JSON line.

The vectors lie as those of images do: around many topics, on a surface of far fewer dimensions than 512, with noise. So much that
of the 10 nearest a single cell of an inverted file with 4,096 cells holds little more than half. Queries are drawn alike, and are
none of the corpus.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

Vectors = npt.NDArray[np.float32]

DIM = 512
K = 10
ROWS_PER_FILE = 100_000
# Queries whose nearest are looked for exactly.
JUDGED = 1_000
_INNER_DIM = 20
_ROWS_PER_TOPIC = 250
# Of the vectors of one topic, and of each dimension, beside topics that lie 1 apart.
_SPREAD, _NOISE = 0.75, 0.3
_WORDS = [
    "a",
    "the",
    "of",
    "and",
    "with",
    "for",
    "in",
    "on",
    "red",
    "blue",
    "green",
    "small",
    "large",
    "old",
    "new",
    "wooden",
    "modern",
    "vintage",
    "chair",
    "table",
    "lamp",
    "sofa",
    "room",
    "kitchen",
    "garden",
    "house",
    "street",
    "city",
    "car",
    "dog",
    "cat",
    "flower",
    "mountain",
    "beach",
    "portrait",
    "photo",
    "design",
    "art",
    "print",
    "poster",
    "free",
    "download",
    "sale",
    "2019",
    "2021",
    "best",
    "style",
    "black",
    "white",
]


def main(folder: Path, vectors: int, queries: int) -> None:
    """Write a corpus, and say what it is."""
    for name in ("img_emb", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    space = Space(vectors)
    asked = space.draw(queries, np.random.default_rng(1))
    nearest = Nearest(asked[:JUDGED])
    random = np.random.default_rng(2)
    for number, start in enumerate(range(0, vectors, ROWS_PER_FILE)):
        rows = min(ROWS_PER_FILE, vectors - start)
        part = space.draw(rows, random).astype(np.float16)
        np.save(folder / "img_emb" / f"img_emb_{number:04}.npy", part)
        pq.write_table(metadata(rows, random), folder / "metadata" / f"metadata_{number:04}.parquet")
        nearest.look(part.astype(np.float32), start)
    np.save(folder / "queries.npy", asked)
    np.save(folder / "truth.npy", nearest.numbers)
    print(json.dumps({"vectors": vectors, "queries": queries, "dim": DIM, "judged": len(nearest.numbers)}))


class Space:
    """Where vectors are drawn from.

    Args:
        vectors: that will be drawn, about: each topic has 250.
    """

    def __init__(self, vectors: int) -> None:
        random = np.random.default_rng(0)
        self._surface = (random.standard_normal((_INNER_DIM, DIM)) / np.sqrt(_INNER_DIM)).astype(np.float32)
        topics = max(8, vectors // _ROWS_PER_TOPIC)
        self._topics = random.standard_normal((topics, _INNER_DIM)).astype(np.float32)

    def draw(self, count: int, random: np.random.Generator) -> Vectors:
        """So many, float32, shape (count, DIM), L2-normalised."""
        inner = self._topics[random.integers(0, len(self._topics), count)]
        inner = inner + _SPREAD * random.standard_normal((count, _INNER_DIM), dtype=np.float32)
        drawn = inner @ self._surface + _NOISE * random.standard_normal((count, DIM), dtype=np.float32)
        return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


class Nearest:
    """Exact search in a corpus of which a part comes after the other.

    Args:
        queries: shape (queries, DIM).
    """

    def __init__(self, queries: Vectors) -> None:
        self._queries = queries
        self._similarities = np.full((len(queries), K), -np.inf, np.float32)
        self.numbers = np.full((len(queries), K), -1, np.int64)

    def look(self, part: Vectors, start: int) -> None:
        """Take a part into account, whose first vector has the number `start`."""
        size = 20_000
        part = part / np.linalg.norm(part, axis=1, keepdims=True)
        for first in range(0, len(part), size):
            scores = self._queries @ part[first : first + size].T
            best = np.argpartition(-scores, min(K, scores.shape[1]) - 1, axis=1)[:, :K]
            similarities = np.hstack([self._similarities, np.take_along_axis(scores, best, axis=1)])
            numbers = np.hstack([self.numbers, best + start + first])
            order = np.argsort(-similarities, axis=1)[:, :K]
            self._similarities = np.take_along_axis(similarities, order, axis=1)
            self.numbers = np.take_along_axis(numbers, order, axis=1)


def recall(found: npt.NDArray[np.int64], truth: npt.NDArray[np.int64]) -> float:
    """The share of the nearest, shape (queries, K), that were found."""
    shares = [len(np.intersect1d(mine, right)) / len(right) for mine, right in zip(found, truth, strict=True)]
    return round(float(np.mean(shares)), 4)


def metadata(rows: int, random: np.random.Generator) -> pa.Table:
    """What LAION says of an image, made up, and its sha256; with the names that `clip-retrieval inference` gives."""

    def some(values: list[Any]) -> pa.Array:
        return pa.array(values).take(pa.array(random.integers(0, len(values), rows)))

    def joined(parts: Iterator[pa.Array], separator: str) -> pa.Array:
        return pc.binary_join_element_wise(*parts, separator)

    hosts = [f"https://images{number}.{_WORDS[number % 40]}-shop.example.com/media" for number in range(500)]
    hashes = _hexadecimal(random.bytes(32 * rows), 64)
    names = _hexadecimal(random.bytes(20 * rows), 40)
    return pa.table(
        {
            "url": joined(iter([some(hosts), pc.binary_join_element_wise(names, "jpg", ".")]), "/"),
            "caption": joined((some(_WORDS) for _ in range(10)), " "),
            "width": pa.array(random.integers(200, 3_000, rows), pa.int32()),
            "height": pa.array(random.integers(200, 3_000, rows), pa.int32()),
            "license": some(["?", "?", "?", "https://creativecommons.org/licenses/by/4.0/"]),
            "NSFW": some(["UNLIKELY", "UNLIKELY", "UNLIKELY", "UNSURE", "NSFW"]),
            "similarity": pa.array(random.uniform(0.28, 0.45, rows)),
            "sha256": hashes,
        }
    )


def _hexadecimal(data: bytes, digits: int) -> pa.Array:
    text = data.hex().encode()
    offsets = np.arange(0, len(text) + 1, digits, dtype=np.int32)
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(text))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
