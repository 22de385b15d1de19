"""Which candidates may become hits, by what the corpus knows of them and by how similar they are.

Every filter looks at columns, never at a candidate alone, and gives its reason to each that it leaves out. What the corpus
does not know meets no filter, for a reason of its own (`width_unknown`), unless `unknown_passes` says otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.blocked import Blocked
from sd_assets.settings import HitFilters, KnownField

Mask = npt.NDArray[np.bool_]

_NUMBER = r"^\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*$"
# LAION's way of saying that it has found none is a `?`.
_NOTHING_KNOWN = r"^\s*\??\s*$"


class Reason(StrEnum):
    """Why a candidate is no hit; of several reasons the first counts. The value is what stands in `retrieval_hits.left_out`."""

    SIMILARITY = "similarity"
    HOST = "host"
    WIDTH = "width"
    WIDTH_UNKNOWN = "width_unknown"
    HEIGHT = "height"
    HEIGHT_UNKNOWN = "height_unknown"
    ASPECT_RATIO = "aspect_ratio"
    ASPECT_RATIO_UNKNOWN = "aspect_ratio_unknown"
    NSFW = "nsfw"
    NSFW_UNKNOWN = "nsfw_unknown"
    LICENCE = "licence"
    LICENCE_UNKNOWN = "licence_unknown"
    LANGUAGE = "language"
    LANGUAGE_UNKNOWN = "language_unknown"
    # Of what has passed the filters.
    BLOCKED = "blocked"  # on the list `blocked:` of the catalogue
    SAME_URL = "same_url"
    SAME_SHA256 = "same_sha256"
    NEAR_DUPLICATE = "near_duplicate"

    @property
    def unknown(self) -> Reason:
        """That of what is not known."""
        return Reason(f"{self}_unknown")


@dataclass(frozen=True)
class CorpusFilter:
    """A filter on what the corpus knows.

    Attributes:
        reason: of what does not meet it.
        passes: for the hits (columns of `schemas.HIT`) whether each meets it; null where that is not known.
        needs: the fields that it looks at.
    """

    reason: Reason
    passes: Callable[[pa.RecordBatch], pa.Array]
    needs: tuple[KnownField, ...]


class Filters:
    """The filters of an entry.

    Args:
        settings: what they ask for.

    Attributes:
        needs: the fields of a hit without which nothing would pass.
    """

    def __init__(self, settings: HitFilters) -> None:
        self._of_corpus = list(_corpus_filters(settings))
        self._may_be_unknown = frozenset(settings.unknown_passes)
        self._hosts = Blocked(hosts=settings.hosts) if settings.hosts else None
        self._refused_hosts = Blocked(hosts=settings.refused_hosts)
        self._similarity = {
            "image": (settings.min_similarity_images, settings.max_similarity_images),
            "text": (settings.min_similarity_prompts, settings.max_similarity_prompts),
        }
        self.needs = frozenset(
            field
            for filter_ in self._of_corpus
            for field in filter_.needs
            if field not in self._may_be_unknown
        )

    def __bool__(self) -> bool:
        bounds = [bound for pair in self._similarity.values() for bound in pair if bound is not None]
        return bool(self._of_corpus or self._hosts or self._refused_hosts or bounds)

    def least_similarity(self, kinds: pa.Array) -> npt.NDArray[np.float32]:
        """For each query, `image` or `text`, the similarity below which it has no hits; float32, shape (queries,)."""
        return self._bounds(kinds, 0, -np.inf)

    def left_out(
        self, hits: pa.RecordBatch, kinds: pa.Array, owners: npt.NDArray[np.int64]
    ) -> Iterator[tuple[Reason, Mask]]:
        """For each reason the candidates that are left out for it, as a mask; one may be left out for several.

        Args:
            hits: the candidates, columns of `schemas.HIT`.
            kinds: of the queries: `image` or `text`.
            owners: the query of each candidate, as its place among the kinds.
        """
        if any(bound is not None for pair in self._similarity.values() for bound in pair):
            similarity = hits.column("similarity").to_numpy(zero_copy_only=False)
            low, high = self._bounds(kinds, 0, -np.inf), self._bounds(kinds, 1, np.inf)
            yield Reason.SIMILARITY, (similarity < low[owners]) | (similarity > high[owners])
        if self._hosts is not None or self._refused_hosts:
            urls = hits.column("url")
            refused = self._refused_hosts.urls(urls)
            yield Reason.HOST, refused | ~self._hosts.urls(urls) if self._hosts is not None else refused
        for filter_ in self._of_corpus:
            passes = filter_.passes(hits)
            yield filter_.reason, _mask(pc.invert(passes))
            if not self._may_be_unknown.issuperset(filter_.needs):
                yield filter_.reason.unknown, _mask(passes.is_null())

    def _bounds(self, kinds: pa.Array, place: int, otherwise: float) -> npt.NDArray[np.float32]:
        bounds = {kind: pair[place] for kind, pair in self._similarity.items()}
        values = [otherwise if bounds.get(kind) is None else bounds[kind] for kind in kinds.to_pylist()]
        return np.array(values, np.float32)


def _corpus_filters(settings: HitFilters) -> Iterator[CorpusFilter]:
    sides: dict[KnownField, tuple[int | None, int | None]] = {
        "width": (settings.min_width, settings.max_width),
        "height": (settings.min_height, settings.max_height),
    }
    for side, (least, most) in sides.items():
        if least is not None or most is not None:
            yield CorpusFilter(Reason(side), _between(side, least, most), (side,))
    if settings.max_aspect_ratio is not None:
        yield CorpusFilter(
            Reason.ASPECT_RATIO, _aspect_at_most(settings.max_aspect_ratio), ("width", "height")
        )
    if settings.nsfw is not None or settings.max_nsfw is not None:
        yield CorpusFilter(Reason.NSFW, _harmless(settings.nsfw, settings.max_nsfw), ("nsfw",))
    if settings.licences is not None:
        yield CorpusFilter(Reason.LICENCE, _like("licence", settings.licences), ("licence",))
    if settings.languages is not None:
        yield CorpusFilter(Reason.LANGUAGE, _like("language", settings.languages), ("language",))


def _between(column: str, least: int | None, most: int | None) -> Callable[[pa.RecordBatch], pa.Array]:
    def passes(hits: pa.RecordBatch) -> pa.Array:
        values = hits.column(column)
        enough = pc.greater_equal(values, 0 if least is None else least)
        return enough if most is None else pc.and_(enough, pc.less_equal(values, most))

    return passes


def _aspect_at_most(most: float) -> Callable[[pa.RecordBatch], pa.Array]:
    def passes(hits: pa.RecordBatch) -> pa.Array:
        sides = [hits.column(name).cast(pa.float64()) for name in ("width", "height")]
        longer = pc.max_element_wise(*sides, skip_nulls=False)
        shorter = pc.min_element_wise(*sides, skip_nulls=False)
        return pc.less_equal(longer, pc.multiply(shorter, most))

    return passes


def _harmless(labels: Iterable[str] | None, most: float | None) -> Callable[[pa.RecordBatch], pa.Array]:
    allowed = None if labels is None else pa.array([label.strip().lower() for label in labels], pa.string())

    def passes(hits: pa.RecordBatch) -> pa.Array:
        values = _known(hits.column("nsfw"))
        unknown = pa.nulls(len(values), pa.bool_())
        is_score = pc.match_substring_regex(values, _NUMBER)
        by_score = by_label = unknown
        if most is not None:
            scores = pc.if_else(is_score, values, pa.scalar(None, pa.string()))
            by_score = pc.less_equal(pc.utf8_trim_whitespace(scores).cast(pa.float64()), most)
        if allowed is not None:
            in_list = pc.is_in(pc.utf8_lower(pc.utf8_trim_whitespace(values)), allowed)
            by_label = pc.if_else(values.is_valid(), in_list, unknown)
        return pc.if_else(is_score, by_score, by_label)

    return passes


def _like(column: str, patterns: Iterable[str]) -> Callable[[pa.RecordBatch], pa.Array]:
    # As RE2 has it, which is what Arrow matches with.
    choices = "|".join(re.escape(pattern.strip()).replace(r"\*", ".*") for pattern in patterns)
    whole = rf"^\s*(?:{choices})\s*$"

    def passes(hits: pa.RecordBatch) -> pa.Array:
        return pc.match_substring_regex(_known(hits.column(column)), whole, ignore_case=True)

    return passes


def _known(values: pa.Array) -> pa.Array:
    """Texts, with a null for those that say that nothing is known."""
    nothing = pc.match_substring_regex(values, _NOTHING_KNOWN)
    return pc.if_else(nothing, pa.scalar(None, pa.string()), values)


def _mask(values: pa.Array) -> Mask:
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), np.bool_)
