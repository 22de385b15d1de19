"""What the report says of each pair: three tables joined by image_id, as columns of JSON values, fit to be shown."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.blocked import host_of
from sd_assets.curation.reading import curated_rows
from sd_assets.settings import SCORES
from sd_assets.storage.rows import Rows
from sd_assets.storage.table import Table
from sd_assets.views.text import publisher, visible

# Of a larger partition every second, fourth ... pair is shown: a browser must hold them all.
MAX_PAIRS = 50_000

_SIZES = ("width", "height", "original_width", "original_height")
_COLUMNS = (*_SIZES, "captions", "text", "origin", "url", "licence", "image")
_JUDGED = ("keep", "reasons", "split", *SCORES, "own_scores")
_OF_DUPLICATES = (
    "image_id",
    "cluster",
    "cluster_size",
    "hash_distance",
    "cosine",
    "held_out",
    "elsewhere",
)
_MAX_TEXTS = 20  # of a list that is shown


@dataclass(frozen=True)
class Pair:
    """A pair that is shown.

    Attributes:
        image_id: its key.
        image_digest: 16 bytes that change with the stored image.
        keep: whether it is kept.
        shown: what the page is told of it, JSON values by name.
    """

    image_id: str
    image_digest: bytes
    keep: bool
    shown: Mapping[str, Any]


@dataclass
class Names:
    """Names that many rows share, numbered as they come: a row says the number.

    Attributes:
        numbers: of each name.
        counts: the rows that say it.
    """

    numbers: dict[str, int] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)

    def number(self, name: str | None) -> int | None:
        """The number of a name, a new one for a new name; None for None."""
        if name is None:
            return None
        number = self.numbers.setdefault(name, len(self.numbers))
        if number == len(self.counts):
            self.counts.append(0)
        self.counts[number] += 1
        return number

    def as_json(self) -> list[list[Any]]:
        """Name and count, by number."""
        return [list(pair) for pair in zip(self.numbers, self.counts, strict=True)]


class PairReader:
    """Reads the pairs that are shown, in the order of text_image_pairs, a shard at a time.

    Args:
        text_image_pairs: all of them; those that failed are not shown.
        curated_pairs: judgements and scores.
        near_duplicates: of each image the nearest one; what is alone is not held in memory.

    Attributes:
        step: every so many pairs one is shown: 1, 2, 4 ...
        names: what rows say by number: `origin`, `split`, `reasons`, `host`, `licence`.
        scores: the names of all scores, in the order in which a row says them.
    """

    def __init__(self, text_image_pairs: Table, curated_pairs: Table, near_duplicates: Table) -> None:
        self._pairs = text_image_pairs
        self._curated = curated_pairs
        self._public = publisher()
        self._near = {row["image_id"]: row for row in _near(near_duplicates)}
        self.names = {name: Names() for name in ("origin", "split", "reasons", "host", "licence")}
        self.scores = [*SCORES, *_own_scores(curated_pairs)]
        good = int((text_image_pairs.errors == b"").sum())
        self.step = 1
        while good > MAX_PAIRS * self.step:
            self.step *= 2

    def parts(self) -> Iterator[tuple[Rows, list[int], list[Pair]]]:
        """Of each shard: its rows, of which images can be fetched, the places of those that are shown, and these.

        Raises:
            TableError: curated_pairs was made of another version of text_image_pairs.
        """
        for rows in curated_rows(self._pairs, self._curated, [*_COLUMNS, *_JUDGED], dropped=True):
            assert rows.digests is not None
            ids = rows.known.column("image_id").to_pylist()
            places = [place for place, image_id in enumerate(ids) if is_shown(image_id, self.step)]
            known = rows.known.take(pa.array(places, pa.int64())).to_pylist()
            pairs = [self._pair(rows.digests[place], row) for place, row in zip(places, known, strict=True)]
            yield rows, places, pairs

    def _pair(self, digest: bytes, row: dict[str, Any]) -> Pair:
        url = self._shown(row["url"])
        own = {score["score"]: score["value"] for score in row["own_scores"] or ()}
        near = self._near.get(row["image_id"], {})
        names = self.names
        shown = {
            "id": row["image_id"],
            **{name: row[name] for name in _SIZES},
            "captions": self._all_shown(row["captions"]),
            "text": self._shown(row["text"]),
            "origin": names["origin"].number(row["origin"]),
            "url": url,
            "host": names["host"].number(host_of(url)),
            "licence": names["licence"].number(self._shown(row["licence"])),
            "keep": row["keep"],
            "reasons": [names["reasons"].number(reason) for reason in row["reasons"] or ()],
            "split": names["split"].number(row["split"]),
            "scores": [_rounded(row[name] if name in row else own.get(name)) for name in self.scores],
            "cluster": near.get("cluster") if (near.get("cluster_size") or 1) > 1 else None,
            "distance": near.get("hash_distance"),
            "cosine": _rounded(near.get("cosine")),
            "held_out": self._all_shown(near.get("held_out")),
            "elsewhere": self._all_shown(near.get("elsewhere")),
        }
        return Pair(row["image_id"], digest, row["keep"], shown)

    def _shown(self, text: str | None) -> str | None:
        """A text for everyone's eyes: no secrets, nothing that cannot be seen."""
        return None if text is None else visible(self._public(text))

    def _all_shown(self, texts: Sequence[str] | None) -> list[str]:
        return [visible(self._public(text)) for text in (texts or ())[:_MAX_TEXTS] if text is not None]


def is_shown(image_id: str, step: int) -> bool:
    """Whether a pair is in the sample of one of so many. After a refresh it still is: that hangs on the image alone.

    Args:
        image_id: of the pair.
        step: a power of two, so that a larger one's sample is part of a smaller one's.
    """
    return crc32(image_id.encode()) % step == 0


def _near(near_duplicates: Table) -> Iterator[dict[str, Any]]:
    """The rows of images that are nearly others."""
    for batch in near_duplicates.batches(_OF_DUPLICATES):
        others = [pc.greater(batch.column("cluster_size"), 1)]
        others += [
            pc.greater(pc.list_value_length(batch.column(name)), 0) for name in ("held_out", "elsewhere")
        ]
        any_of = functools.reduce(pc.or_, (pc.fill_null(each, False) for each in others))
        yield from batch.filter(any_of).to_pylist()


def _own_scores(curated_pairs: Table) -> list[str]:
    """The names of the scores of a user's own."""
    found: set[str] = set()
    for batch in curated_pairs.batches(["own_scores"]):
        found.update(batch.column("own_scores").flatten().field("score").drop_null().unique().to_pylist())
    return sorted(found)


def _rounded(value: float | None) -> float | None:
    """Four digits: what is shown, and a third of the bytes. None also for what is no number, which JSON has not."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    return value if isinstance(value, int) else float(f"{value:.4g}")
