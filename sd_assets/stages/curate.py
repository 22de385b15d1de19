"""curated_pairs: of every pair whether it is kept, and all that speaks against it; no image is read."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.blocked import normal_host
from sd_assets.curation import reasons as codes
from sd_assets.curation.joining import columns_for
from sd_assets.curation.ranking import best_first, beyond, not_the_best
from sd_assets.curation.splits import split_of
from sd_assets.curation.thresholds import against_origin, against_scores
from sd_assets.errors import SdAssetsError
from sd_assets.mistakes import did_you_mean
from sd_assets.schemas import CURATED_PAIRS, OWN_SCORE
from sd_assets.settings import LICENCE, SCORES, CurationSettings
from sd_assets.stages.stage import InputCounts
from sd_assets.storage.rows import as_array
from sd_assets.storage.table import Table

VERSION = "1"
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
        SdAssetsError: the settings name a score that there is none of; or a scorer's table has no column of its name.
        TableError: a table has no row for a pair: it was made from other pairs.
    """
    _require_known(settings, judgements.own)
    pairs = text_image_pairs.read([*_PAIR_COLUMNS, "error"])
    counts.rows = len(pairs)
    pairs = pairs.filter(pc.is_null(pairs.column("error")))
    counts.skipped = counts.rows - len(pairs)
    columns = {name: as_array(pairs.column(name)) for name in _PAIR_COLUMNS}
    ids = columns["image_id"]
    columns |= _score_columns(ids, judgements)
    near = columns_for(ids, judgements.near_duplicates, ["cluster", "held_out", "elsewhere"])
    reasons = _reasons(columns, near, judgements.own, settings)
    keep = [not listed for listed in reasons]
    columns |= {
        "keep": pa.array(keep, pa.bool_()),
        "reasons": pa.array(reasons, pa.list_(pa.string())),
        "split": pa.array(
            [
                split_of(identity, settings.validation) if kept else None
                for identity, kept in zip(ids.to_pylist(), keep, strict=True)
            ],
            pa.string(),
        ),
        "cluster": near["cluster"],
        "own_scores": _own_scores(columns, judgements.own),
    }
    schema = CURATED_PAIRS.arrow
    rows = [
        columns[field.name].cast(field.type) if field.name in columns else pa.nulls(len(ids), field.type)
        for field in schema
    ]
    yield from pa.table(rows, schema=schema).to_batches(max_chunksize=_ROWS_AT_ONCE)


def _require_known(settings: CurationSettings, own: Collection[str]) -> None:
    known = [*SCORES, *own]
    for name, field in settings.names.items():
        if name not in known and not (field == "unknown_passes" and name == LICENCE):
            raise SdAssetsError(
                f"curation.{field} of the catalogue: there is no score {name!r}; there are: {', '.join(known)}"
                f"{did_you_mean(name, known)} One of your own comes of an asset of its name, which is given to "
                "build_definitions(scorers=[...])"
            )


def _score_columns(ids: pa.Array, judgements: Judgements) -> dict[str, pa.Array]:
    """The scores of the pairs; null where they are not known, or were not asked for."""
    columns = columns_for(ids, judgements.image_quality, _QUALITY)
    columns |= columns_for(ids, judgements.alignment_scores, ["alignment"])
    for name, table in (("aesthetic", judgements.aesthetic_scores), ("nsfw", judgements.nsfw_scores)):
        columns |= columns_for(ids, table, [name], may_lack=table.num_rows == 0)
    for name, table in judgements.own.items():
        if missing := {"image_id", name}.difference(table.schema.names):
            raise SdAssetsError(
                f"the scorer {name}: its table has no column {', '.join(sorted(missing))}; it must have the image_id, and the "
                f"score as {name}"
            )
        columns |= columns_for(ids, table, [name], may_lack=True)
    return columns


def _reasons(
    columns: Mapping[str, pa.Array],
    near: Mapping[str, pa.Array],
    own: Collection[str],
    settings: CurationSettings,
) -> list[list[str]]:
    """For each pair all that speaks against it."""
    ids = columns["image_id"]
    scores = {name: _numbers(columns[name]) for name in (*SCORES, *own)}
    retrieved = np.asarray(pc.not_equal(columns["origin"], "seed").fill_null(True))
    against = dict(against_scores(scores, settings, retrieved))
    against |= against_origin(columns["url"], columns["licence"], settings, retrieved)
    against[codes.HELD_OUT] = _has_entries(near["held_out"])
    against[codes.ELSEWHERE] = _has_entries(near["elsewhere"])
    clean = ~np.any(list(against.values()), axis=0)
    ranked = best_first(ids, scores, settings.best)
    clusters = np.asarray(near["cluster"].dictionary_encode().indices)
    against[codes.NEAR_DUPLICATE] = not_the_best(clusters, ranked, clean)
    left = clean & ~against[codes.NEAR_DUPLICATE] & retrieved
    if settings.max_per_host is not None:
        hosts = [_hosts(url) for url in columns["url"].to_pylist()]
        against[codes.PER_HOST] = beyond(settings.max_per_host, hosts, ranked, left)
        left &= ~against[codes.PER_HOST]
    if settings.max_per_query is not None:
        queries = [found_by or () for found_by in columns["query_ids"].to_pylist()]
        against[codes.PER_QUERY] = beyond(settings.max_per_query, queries, ranked, left)
    listed: list[list[str]] = [[] for _ in range(len(ids))]
    for reason in codes.in_order(against):
        for place in np.flatnonzero(against[reason]).tolist():
            listed[place].append(reason)
    return listed


def _own_scores(columns: Mapping[str, pa.Array], own: Collection[str]) -> pa.Array:
    values = {name: columns[name].to_pylist() for name in sorted(own)}
    listed = [
        [{"score": name, "value": values[name][row]} for name in values]
        for row in range(len(columns["image_id"]))
    ]
    return pa.array(listed, pa.list_(OWN_SCORE))


def _numbers(column: pa.Array) -> npt.NDArray[np.float64]:
    """Null as NaN."""
    return np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False), np.float64)


def _has_entries(lists: pa.Array) -> npt.NDArray[np.bool_]:
    return np.asarray(pc.greater(pc.list_value_length(lists).fill_null(0), 0))


def _hosts(url: str | None) -> tuple[str, ...]:
    """The host of a URL, if there is one."""
    try:
        host = normal_host(urlsplit(url or "").hostname or "")
    except ValueError:
        return ()
    return (host,) if host else ()
