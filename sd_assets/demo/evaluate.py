"""Judges a finished run of a demo partition: its Parquet against the world's truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sd_assets.demo.evaluate_curation import CurationEvaluation, evaluate_curation
from sd_assets.demo.faults import FAULTS
from sd_assets.demo.scenes import objects_in, pairs_in
from sd_assets.demo.tables import rows_of
from sd_assets.demo.truth import Truth

TABLES = (
    "seed_prompts",
    "retrieval_hits",
    "retrieved_image_urls",
    "downloaded_images",
    "image_captions",
    "curated_pairs",
)
"""The tables that are read."""

_FIRST = 10


@dataclass(frozen=True)
class Evaluation:
    """What a run achieved. A ratio is None where the run has nothing to measure it by.

    Attributes:
        retrieval_precision_at_10: over the prompts that name (colour, object) pairs: the share of ten hits that show them all.
            A prompt with fewer hits lost the rest.
        caption_pair_accuracy: of the (colour, object) pairs that captions of retrieved images name, those that are true.
        caption_object_recall: of the objects in view in the retrieved images with a caption, those that it names.
        fault_kinds: planted in the world.
        faults_planted: URLs, whether retrieved or not.
        faults_classified_right: URLs that have the error code of their kind.
        false_faults: URLs with an error that have no planted fault.
        curation: of the pairs.
    """

    retrieval_precision_at_10: float | None
    caption_pair_accuracy: float | None
    caption_object_recall: float | None
    fault_kinds: int
    faults_planted: int
    faults_classified_right: int
    false_faults: int
    curation: CurationEvaluation

    def as_dict(self) -> dict[str, Any]:
        """For JSON, under the names of the attributes."""
        return asdict(self)


def evaluate(world_folder: Path, tables: Mapping[str, Path]) -> Evaluation:
    """Judge a run.

    Args:
        world_folder: of the world that it ran on.
        tables: table name -> its folder of Parquet shards; at least `TABLES`, but a partition without prompts may leave
            seed_prompts out.

    Raises:
        SdAssetsError: the truth or a table is missing.
    """
    truth = Truth(world_folder)
    errors = dict(_errors(tables))
    planted = truth.faults
    right = sum(errors.get(url) == FAULTS[kind].expected for url, kind in planted.items())
    accuracy, recall = _captions(truth, tables)
    return Evaluation(
        retrieval_precision_at_10=_precision(truth, tables),
        caption_pair_accuracy=accuracy,
        caption_object_recall=recall,
        fault_kinds=len(set(planted.values())),
        faults_planted=len(planted),
        faults_classified_right=right,
        false_faults=sum(url not in planted for url in errors),
        curation=evaluate_curation(truth, tables),
    )


def _errors(tables: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """(URL, error code) of every URL that failed, in whichever of the two tables."""
    for name in ("retrieved_image_urls", "downloaded_images"):
        for row in rows_of(tables, name, ["url", "error"]):
            if row["error"] is not None:
                yield row["url"], row["error"]


def _precision(truth: Truth, tables: Mapping[str, Path]) -> float | None:
    if "seed_prompts" not in tables:
        return None
    wanted = {
        row["prompt_id"]: pairs_in(row["prompt"] or "")
        for row in rows_of(tables, "seed_prompts", ["prompt_id", "prompt"])
    }
    shares = []
    for row in rows_of(tables, "retrieval_hits", ["query_id", "kind", "hits"]):
        pairs = wanted.get(row["query_id"])
        if row["kind"] != "text" or not pairs:
            continue
        first = sorted(row["hits"] or [], key=lambda hit: hit["rank"])[:_FIRST]
        shares.append(sum(pairs <= truth.pairs.get(hit["url"], frozenset()) for hit in first) / _FIRST)
    return sum(shares) / len(shares) if shares else None


def _captions(truth: Truth, tables: Mapping[str, Path]) -> tuple[float | None, float | None]:
    """(Pair accuracy, object recall) over the generated captions of retrieved images."""
    shown = {
        row["image_id"]: truth.pairs[row["url"]]
        for row in rows_of(tables, "downloaded_images", ["url", "image_id"])
        if row["image_id"] is not None and row["url"] in truth.pairs
    }
    named = true = in_view = found = 0
    for row in rows_of(tables, "image_captions", ["image_id", "caption", "origin"]):
        pairs = shown.get(row["image_id"])
        if row["origin"] != "retrieved" or row["caption"] is None or pairs is None:
            continue
        claimed = pairs_in(row["caption"])
        objects = {kind for _, kind in pairs}
        named += len(claimed)
        true += len(claimed & pairs)
        in_view += len(objects)
        found += len(objects & objects_in(row["caption"]))
    return (true / named if named else None), (found / in_view if in_view else None)
