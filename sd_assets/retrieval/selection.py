"""From queries to their hits: what the index finds, less what is filtered, blocked or a duplicate, until there are enough.

The index is asked for more and more candidates, and each time only for the queries that have too few hits yet. What a query is
asked for depends on the query and the settings alone, so its hits do not depend on the queries beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.batches import one_batch, with_column
from sd_assets.blocked import NOTHING, Blocked
from sd_assets.errors import RetrievalError, RowError
from sd_assets.retrieval.duplicates import near_duplicates, repeated
from sd_assets.retrieval.filters import Filters, Reason
from sd_assets.retrieval.index import HITS, Answers, KnnIndex
from sd_assets.schemas import HIT, LEFT_OUT
from sd_assets.settings import RetrievalSettings

Mask = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

# The first time the index is asked for so many candidates a hit, if some are expected to be left out; and how many times as
# many each further time. What was found before is found again then, and costs at most a third.
_FIRST = 2
_GROWTH = 4
# Candidates that are looked at together, about: some 100 MB.
_AT_ONCE = 200_000
# A service sends them all as JSON.
_MOST_OF_A_SERVICE = 10_000

_NUMBERS = {reason: number for number, reason in enumerate(Reason, 1)}


@dataclass(frozen=True)
class Selected:
    """The hits of a batch of queries.

    Attributes:
        counts: int64, shape (queries,): hits of each query.
        hits: columns of `schemas.HIT`, the queries one after the other, each best first, its ranks from 0.
        left_out: of each query how many candidates became no hit, by reason, as far as they were better than its last hit, or all
            that were looked at where it has fewer than it may; a list of `schemas.LEFT_OUT`.
        blocked_by: by the query's place: the entries of `blocked:` by which candidates were left out, sorted.
        cut_short: bool, shape (queries,): there may be further hits, beyond `max_candidates` or what the index gives at most.
        errors: why a query failed, by its place; it has no hits.
    """

    counts: Numbers
    hits: pa.RecordBatch
    left_out: pa.ListArray
    blocked_by: Mapping[int, list[str]]
    cut_short: Mask
    errors: Mapping[int, RowError]

    def numbers_left_out(self) -> dict[str, int]:
        """Of all queries together, by reason."""
        entries = self.left_out.flatten()
        numbers: Counter[str] = Counter()
        for reason, count in zip(
            entries.field("reason").to_pylist(), entries.field("count").to_pylist(), strict=True
        ):
            numbers[reason] += count
        return dict(numbers)

    def of_queries(self) -> pa.ListArray:
        """The hits as a list of `HIT` a query, null where it failed."""
        failed = np.zeros(len(self.counts), np.bool_)
        failed[list(self.errors)] = True
        return pa.ListArray.from_arrays(
            pa.array(_offsets(self.counts), pa.int32()),
            pa.StructArray.from_arrays(self.hits.columns, fields=list(HIT)),
            mask=pa.array(failed),
        )


@dataclass(frozen=True)
class _Judged:
    """Candidates of some queries, judged.

    Attributes:
        answers: the candidates.
        owners: the query of each candidate.
        ranks: of each candidate among those of its query that stay: how many better ones do.
        reasons: the number of the reason why each is left out, from 1 on in the order of `Reason`; 0: it is not.
        enough: for each query whether asking for more would change nothing.
    """

    answers: Answers
    owners: Numbers
    ranks: Numbers
    reasons: npt.NDArray[np.int16]
    enough: Mask


@dataclass(frozen=True)
class _Part:
    """The hits of some of the queries, as `Selected` has them.

    Attributes:
        places: of the queries.
        left_out: int64, shape (queries, reasons and 1): how many candidates have the reason of this number.
    """

    places: Numbers
    counts: Numbers
    hits: pa.RecordBatch
    left_out: Numbers


class Selection:
    """Chooses the hits of queries.

    Args:
        index: that is asked.
        settings: how many hits, and which.
        blocked: what no hit may be.
    """

    def __init__(self, index: KnnIndex, settings: RetrievalSettings, blocked: Blocked = NOTHING) -> None:
        self._index = index
        self._settings = settings
        self._blocked = blocked
        self._filters = Filters(settings.filters)
        self._wanted = settings.images_per_query
        self._most = max(self._wanted, settings.max_candidates)
        if index.most is not None:
            self._most = min(self._most, index.most)
        if not index.local:
            self._most = min(self._most, max(self._wanted, _MOST_OF_A_SERVICE))
        choosy = bool(self._filters) or settings.near_duplicates is not None
        self._first = min(self._most, self._wanted * (_FIRST if choosy else 1))

    def open(self) -> None:
        """Make ready. Raises `RetrievalError`, also if the index cannot do what is asked for."""
        self._index.open()
        settings = self._settings
        if settings.near_duplicates is not None and not self._index.local:
            raise RetrievalError(
                f"index {settings.index!r} is a service, and gives no vectors to find near-duplicates by: set `near_duplicates` "
                "under `retrieval:` of the entry to null, or use a local index"
            )
        self._check_fields()

    def _check_fields(self) -> None:
        """Raise `RetrievalError` if no image of the index can pass the filters, as far as is known."""
        known = self._index.fields
        missing = sorted(self._filters.needs - known) if known is not None else []
        if missing:
            raise RetrievalError(
                f"index {self._settings.index!r} does not know {' or '.join(f'the {name}' for name in missing)} of any image, so the "
                f"entry's `retrieval: filters:` would leave out all: set those filters to null, or add to them "
                f"`unknown_passes: [{', '.join(missing)}]`"
            )

    def select(self, queries: npt.NDArray[np.float32], kinds: pa.Array) -> Selected:
        """The hits of each query.

        Args:
            queries: float32, shape (queries, dim), L2-normalised.
            kinds: of each query: `image` or `text`.

        Raises:
            RetrievalError: queries and index do not fit, or the index is gone.
        """
        parts: list[_Part] = []
        errors: dict[int, RowError] = {}
        blocked_by: dict[int, list[str]] = {}
        cut_short = np.zeros(len(queries), np.bool_)
        pending, k = np.arange(len(queries)), self._first
        while len(pending):
            unfinished = []
            for places in _chunks(pending, max(1, _AT_ONCE // k)):
                judged = self._judged(queries[places], kinds.take(pa.array(places)), k)
                finished = judged.enough | (k >= self._most)
                parts.append(self._part(judged, places, finished))
                errors |= {int(places[place]): error for place, error in judged.answers.errors.items()}
                blocked_by |= self._entries(judged, places, finished)
                cut_short[places] = finished & ~judged.enough
                unfinished.append(places[~finished])
            pending, k = np.concatenate(unfinished), min(k * _GROWTH, self._most)
        counts, hits, left_out = _joined(parts)
        return Selected(counts, hits, _named(left_out), blocked_by, cut_short, errors)

    # --- one question to the index ---------------------------------------------------------------------------------

    def _judged(self, queries: npt.NDArray[np.float32], kinds: pa.Array, k: int) -> _Judged:
        answers = self._index.search(queries, k)
        self._check_fields()  # of a service only its answers tell
        owners = np.repeat(np.arange(len(queries)), answers.counts)
        reasons = np.zeros(len(owners), np.int16)
        for reason, left_out in self._reasons(answers, kinds, owners, reasons):
            reasons[left_out & (reasons == 0)] = _NUMBERS[reason]
        starts = _offsets(answers.counts)
        stay = np.concatenate([[0], np.cumsum(reasons == 0)])
        ranks = stay[:-1] - stay[starts[:-1]][owners]
        enough = answers.exhausted | (stay[starts[1:]] - stay[starts[:-1]] >= self._wanted)
        enough[list(answers.errors)] = True
        if self._filters:
            enough |= self._too_far(answers, kinds, starts)
        return _Judged(answers, owners, ranks, reasons, enough)

    def _reasons(
        self, answers: Answers, kinds: pa.Array, owners: Numbers, reasons: npt.NDArray[np.int16]
    ) -> Iterator[tuple[Reason, Mask]]:
        """What leaves candidates out, one reason after the other. `reasons` has those that were given before."""
        if self._filters:
            yield from self._filters.left_out(answers.hits, kinds, owners)
        if self._blocked:
            # After the filters: that a query is blocked by an entry is to say that it would have a hit without.
            yield Reason.BLOCKED, self._blocked.hits(answers.hits.to_struct_array())
        yield Reason.SAME_URL, repeated(answers.hits.column("url"), owners, reasons == 0)
        yield Reason.SAME_SHA256, repeated(answers.hits.column("sha256"), owners, reasons == 0)
        if self._settings.near_duplicates is not None:
            yield Reason.NEAR_DUPLICATE, self._near(answers, reasons == 0, self._settings.near_duplicates)

    def _near(self, answers: Answers, alive: Mask, least: float) -> Mask:
        assert answers.ids is not None
        near = np.zeros(len(alive), np.bool_)
        starts = _offsets(answers.counts)
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            places = start + np.flatnonzero(alive[start:end])
            near[places] = near_duplicates(answers.ids[places], self._wanted, least, self._vectors)
        return near

    def _vectors(self, ids: Numbers) -> npt.NDArray[np.float32]:
        vectors = self._index.vectors(ids)
        assert vectors is not None  # `open` has refused what has none
        return vectors

    def _too_far(self, answers: Answers, kinds: pa.Array, starts: Numbers) -> Mask:
        """The queries whose last candidate is under the least similarity: all further ones are."""
        similarity = answers.hits.column("similarity").to_numpy(zero_copy_only=False)
        far = np.zeros(len(answers), np.bool_)
        some = answers.counts > 0
        far[some] = similarity[starts[1:][some] - 1] < self._filters.least_similarity(kinds)[some]
        return far

    # --- what comes of it ------------------------------------------------------------------------------------------

    def _part(self, judged: _Judged, places: Numbers, finished: Mask) -> _Part:
        looked_at = (judged.ranks < self._wanted) & finished[judged.owners]
        is_hit = looked_at & (judged.reasons == 0)
        hits = judged.answers.hits
        if not is_hit.all():
            kept = np.flatnonzero(is_hit)
            hits = hits.take(pa.array(kept))
            ranks = pa.array(judged.ranks[kept], pa.int32())
            hits = with_column(hits, "rank", ranks)
        size = (len(places), 1 + len(Reason))
        pairs = judged.owners[looked_at] * size[1] + judged.reasons[looked_at]
        numbers = np.bincount(pairs, minlength=size[0] * size[1]).reshape(size)
        return _Part(places[finished], numbers[finished, 0], hits, numbers[finished])

    def _entries(self, judged: _Judged, places: Numbers, finished: Mask) -> dict[int, list[str]]:
        held = (judged.reasons == _NUMBERS[Reason.BLOCKED]) & (judged.ranks < self._wanted)
        found: dict[int, set[str]] = {}
        for place in np.flatnonzero(held & finished[judged.owners]).tolist():
            url, sha256 = (judged.answers.hits.column(name)[place].as_py() for name in ("url", "sha256"))
            entry = self._blocked.url(url) or self._blocked.image(sha256)
            if entry is not None:
                found.setdefault(int(places[judged.owners[place]]), set()).add(entry)
        return {place: sorted(entries) for place, entries in found.items()}


def _named(left_out: Numbers) -> pa.ListArray:
    """Counts, shape (queries, reasons and 1), as a list a query of those that are not 0."""
    queries, numbers = np.nonzero(left_out[:, 1:])
    entries = [
        pa.array(list(Reason), pa.string()).take(pa.array(numbers)),
        pa.array(left_out[queries, numbers + 1], pa.int64()),
    ]
    offsets = _offsets(np.bincount(queries, minlength=len(left_out)))
    return pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.StructArray.from_arrays(entries, fields=list(LEFT_OUT))
    )


def _joined(parts: list[_Part]) -> tuple[Numbers, pa.RecordBatch, Numbers]:
    """The counts, hits and numbers left out of all queries, in their order."""
    if len(parts) == 1:
        return parts[0].counts, parts[0].hits, parts[0].left_out
    if not parts:
        nothing = pa.RecordBatch.from_pylist([], HITS)
        return np.zeros(0, np.int64), nothing, np.zeros((0, 1 + len(Reason)), np.int64)
    order = np.argsort(np.concatenate([part.places for part in parts]))
    counts = np.concatenate([part.counts for part in parts])
    starts = _offsets(counts)[:-1][order]
    counts = counts[order]
    within = np.arange(counts.sum()) - np.repeat(_offsets(counts)[:-1], counts)
    hits = one_batch([part.hits for part in parts])
    left_out = np.concatenate([part.left_out for part in parts])[order]
    return counts, hits.take(pa.array(np.repeat(starts, counts) + within)), left_out


def _offsets(counts: Numbers) -> Numbers:
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


def _chunks(places: Numbers, size: int) -> Iterator[Numbers]:
    for start in range(0, len(places), size):
        yield places[start : start + size]
