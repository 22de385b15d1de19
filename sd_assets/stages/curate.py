"""curated_pairs: of every pair whether it is kept, and all that speaks against it; no image is read."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.blocked import host_of, normal_host
from sd_assets.curation import reasons as codes
from sd_assets.curation.joining import columns_for
from sd_assets.curation.names import require_known
from sd_assets.curation.ranking import Cap, best_first, not_the_best, without_room
from sd_assets.curation.splits import split_of
from sd_assets.curation.thresholds import against_origin, against_scores
from sd_assets.errors import SdAssetsError
from sd_assets.schemas import CURATED_PAIRS, OWN_SCORE
from sd_assets.settings import SCORES, CurationSettings
from sd_assets.stages.stage import InputCounts
from sd_assets.storage.rows import as_array
from sd_assets.storage.table import Table

VERSION = "2"
_ROWS_AT_ONCE = 4_096
_QUALITY = ("resolution", "aspect_ratio", "sharpness", "blockiness", "flat_border")
_PAIR_COLUMNS = ("image_id", "origin", "url", "licence", "similarity", "query_ids")


@dataclass(frozen=True)
class Judgements:
    """The tables that pairs are judged by; each has a row for each pair, but for what was not asked for.

    Attributes:
        image_quality: of the pixels.
        alignment_scores: of image and captions.
        aesthetic_scores: no row at all if no model is named.
        nsfw_scores: likewise.
        near_duplicates: clusters.
        own: by name, those of scorers of a user's own; a pair without a row has an unknown score.
    """

    image_quality: Table
    alignment_scores: Table
    aesthetic_scores: Table
    nsfw_scores: Table
    near_duplicates: Table
    own: Mapping[str, Table]

    @property
    def tables(self) -> list[Table]:
        return [
            self.image_quality,
            self.alignment_scores,
            self.aesthetic_scores,
            self.nsfw_scores,
            self.near_duplicates,
            *self.own.values(),
        ]


def curation_rows(
    text_image_pairs: Table, judgements: Judgements, settings: CurationSettings, counts: InputCounts
) -> Iterator[pa.RecordBatch]:
    """Rows of curated_pairs, in the order of text_image_pairs; a pair that failed is skipped. Fills `counts`.

    Raises:
        SdAssetsError: the settings name a score that there is none of; or a scorer's table has no column of its name, or one
            that is no number.
        TableError: a table has no row for a pair: it was made from other pairs.
    """
    require_known(settings, judgements.own, "curation")
    pairs = text_image_pairs.read([*_PAIR_COLUMNS, "error"])
    counts.rows = len(pairs)
    pairs = pairs.filter(pc.is_null(pairs.column("error")))
    counts.skipped = counts.rows - len(pairs)
    columns = {name: as_array(pairs.column(name)) for name in _PAIR_COLUMNS}
    ids = columns["image_id"]
    columns |= _score_columns(ids, judgements)
    own = _own_columns(ids, judgements.own)
    known = columns_for(ids, judgements.near_duplicates, ["cluster", "held_out", "elsewhere"])
    known |= columns_for(ids, judgements.image_quality, ["error"])
    against = _against(columns, own, known, settings)
    reasons = codes.in_order(against)
    holds = np.stack([against[reason] for reason in reasons], axis=1)
    keep = ~np.any(holds, axis=1)
    columns |= {
        "keep": pa.array(keep),
        "reasons": _listed(reasons, holds),
        "split": pa.array(
            [
                split_of(identity, settings.validation) if kept else None
                for identity, kept in zip(ids.to_pylist(), keep.tolist(), strict=True)
            ],
            pa.string(),
        ),
        "cluster": known["cluster"],
        "own_scores": _own_scores(own, len(ids)),
    }
    schema = CURATED_PAIRS.arrow
    rows = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(len(ids), field.type)
        for field in schema
    ]
    yield from pa.table(rows, schema=schema).to_batches(max_chunksize=_ROWS_AT_ONCE)


def _score_columns(ids: pa.Array, judgements: Judgements) -> dict[str, pa.Array]:
    """The scores of the pairs; null where they are not known, or were not asked for."""
    columns = columns_for(ids, judgements.image_quality, _QUALITY)
    columns |= columns_for(ids, judgements.alignment_scores, ["alignment"])
    for name, table in (("aesthetic", judgements.aesthetic_scores), ("nsfw", judgements.nsfw_scores)):
        columns |= columns_for(ids, table, [name], may_lack=table.num_rows == 0)
    return columns


def _own_columns(ids: pa.Array, own: Mapping[str, Table]) -> dict[str, pa.Array]:
    """Scores of a user's own, by name, float64; null where there is no row, or it failed."""
    columns = {}
    for name, table in own.items():
        if missing := {"image_id", name}.difference(table.schema.names):
            raise SdAssetsError(
                f"the scorer {name}: its table has no column {', '.join(sorted(missing))}; it must have the image_id, and the "
                f"score as {name}"
            )
        kind = table.schema.field(name).type
        if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
            raise SdAssetsError(
                f"the scorer {name}: its column {name} is of type {kind}, and must be numbers"
            )
        errors = [column for column in ("error",) if column in table.schema.names]
        found = columns_for(ids, table, [name, *errors], may_lack=True)
        values = found[name].cast(pa.float64())
        if errors:
            values = pc.if_else(found["error"].is_null(), values, None)
        columns[name] = values
    return columns


def _against(
    columns: Mapping[str, pa.Array],
    own: Mapping[str, pa.Array],
    known: Mapping[str, pa.Array],
    settings: CurationSettings,
) -> dict[str, npt.NDArray[np.bool_]]:
    """By reason the pairs that it is against, shape (n,)."""
    ids = columns["image_id"]
    scores = {name: _numbers(column) for name, column in own.items()}
    scores |= {name: _numbers(columns[name]) for name in SCORES}
    retrieved = np.asarray(pc.not_equal(columns["origin"], "seed").fill_null(True))
    against = dict(against_scores(scores, settings, retrieved))
    against |= against_origin(columns["url"], columns["licence"], settings, retrieved)
    against[codes.UNREADABLE] = np.asarray(known["error"].is_valid())
    against[codes.HELD_OUT] = _has_entries(known["held_out"])
    against[codes.UNKNOWN_HELD_OUT] = np.asarray(known["held_out"].is_null())
    against[codes.ELSEWHERE] = _has_entries(known["elsewhere"])
    against[codes.UNKNOWN_ELSEWHERE] = np.asarray(known["elsewhere"].is_null())
    clean = ~np.any(list(against.values()), axis=0)
    ranked = best_first(ids, scores, settings.best)
    clusters = np.asarray(known["cluster"].dictionary_encode().indices)
    caps = _caps(columns, settings, retrieved)
    if not caps:
        against[codes.NEAR_DUPLICATE] = not_the_best(clusters, ranked, clean)
        return against
    against[codes.NEAR_DUPLICATE], no_room = without_room(list(caps.values()), clusters, ranked, clean)
    return against | dict(zip(caps, no_room, strict=True))


def _caps(
    columns: Mapping[str, pa.Array], settings: CurationSettings, retrieved: npt.NDArray[np.bool_]
) -> dict[str, Cap]:
    """By reason what is capped. Seeds belong to no group."""
    caps = {}
    if settings.max_per_host is not None:
        urls = pc.if_else(pa.array(retrieved), columns["url"], None)
        caps[codes.PER_HOST] = Cap(settings.max_per_host, [_hosts(url) for url in urls.to_pylist()])
    if settings.max_per_query is not None:
        queries = pc.if_else(pa.array(retrieved), columns["query_ids"], None)
        caps[codes.PER_QUERY] = Cap(
            settings.max_per_query, [found_by or () for found_by in queries.to_pylist()]
        )
    return caps


def _listed(reasons: Sequence[str], holds: npt.NDArray[np.bool_]) -> pa.Array:
    """For each pair those of the reasons that hold, in their order.

    Args:
        reasons: r of them.
        holds: shape (n, r).
    """
    ends = np.cumsum(holds.sum(axis=1))
    names = pa.array(reasons, pa.string()).take(pa.array(np.nonzero(holds)[1]))
    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), names)


def _own_scores(own: Mapping[str, pa.Array], count: int) -> pa.Array:
    """For each of so many pairs all of its own scores, by name."""
    names = sorted(own)
    values = pa.concat_arrays([pa.array([], pa.float64()), *(own[name] for name in names)]).cast(pa.float32())
    # From score by score to pair by pair.
    order = np.arange(len(names) * count).reshape(len(names), count).T.ravel()
    pairs = [pa.array(names * count, pa.string()), values.take(pa.array(order))]
    listed = pa.StructArray.from_arrays(pairs, fields=list(OWN_SCORE))
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1) * len(names), pa.int32()), listed)


def _numbers(column: pa.Array) -> npt.NDArray[np.float64]:
    """Null as NaN."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _has_entries(lists: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.greater(pc.list_value_length(lists).fill_null(0), 0))


def _hosts(url: str | None) -> tuple[str, ...]:
    """The host of a URL, if there is one."""
    host = normal_host(host_of(url) or "")
    return (host,) if host else ()
