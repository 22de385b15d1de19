"""Judges `curated_pairs` of a finished run against the world's truth: filters, near-duplicates, alignment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from sd_assets.demo.flaws import MISMATCHED, REASONS
from sd_assets.demo.tables import rows_of
from sd_assets.demo.truth import Truth

TABLES = ("downloaded_images", "curated_pairs")
"""The tables that are read."""


@dataclass(frozen=True)
class Found:
    """What was found of what is to be found. A ratio is None where there is nothing to measure it by.

    Attributes:
        precision: of what was found, the share that is right.
        recall: of what is to be found, the share that was.
        planted: how much is to be found in the run's tables.
    """

    precision: float | None
    recall: float | None
    planted: int

    @classmethod
    def of(cls, found: set[Any], wanted: set[Any]) -> Found:
        """From what was found and what was to be."""
        right = len(found & wanted)
        return cls(
            right / len(found) if found else None, right / len(wanted) if wanted else None, len(wanted)
        )


@dataclass(frozen=True)
class CurationEvaluation:
    """How well a run curates.

    Attributes:
        filters: reason -> the images that have it, against those with the flaw that it is the reason for. Images with another
            flaw are left out: whether a tiny image, made larger, counts as blurred, too, is nobody's mistake.
        duplicates: pairs of images that are in one cluster, against pairs of one picture (crops and other sizes of it).
        alignment_auc: the probability that a pair with a false text has a lower alignment than one without a flaw.
    """

    filters: dict[str, Found]
    duplicates: Found
    alignment_auc: float | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, under the names of the attributes."""
        return asdict(self)


def evaluate_curation(truth: Truth, tables: Mapping[str, Path]) -> CurationEvaluation:
    """Judge `curated_pairs`.

    Args:
        truth: of the world that the run was on.
        tables: table name -> its folder of Parquet shards; at least `TABLES`.

    Raises:
        SdAssetsError: a table is missing.
    """
    urls: dict[str, list[str]] = {}
    for row in rows_of(tables, "downloaded_images", ["url", "image_id"]):
        if row["image_id"] is not None:
            urls.setdefault(row["image_id"], []).append(row["url"])
    columns = ["image_id", "reasons", "cluster", "alignment", "error"]
    pairs = {
        row["image_id"]: row for row in rows_of(tables, "curated_pairs", columns) if row["error"] is None
    }
    flaws = {
        identity: truth.seed_flaws.get(identity) or _first(truth.flaws, urls.get(identity, ()))
        for identity in pairs
    }
    filters = {}
    for flaw, reason in REASONS.items():
        judged = {identity for identity, kind in flaws.items() if kind in (flaw, None)}
        found = {identity for identity in judged if reason in (pairs[identity]["reasons"] or ())}
        filters[reason] = Found.of(found, {identity for identity in judged if flaws[identity] == flaw})
    groups = {identity: _first(truth.groups, urls.get(identity, ())) for identity in pairs}
    clusters = {identity: row["cluster"] for identity, row in pairs.items()}
    return CurationEvaluation(
        filters=filters,
        duplicates=Found.of(_together(clusters), _together(groups)),
        alignment_auc=_auc(
            [row["alignment"] for identity, row in pairs.items() if flaws[identity] == MISMATCHED],
            [row["alignment"] for identity, row in pairs.items() if flaws[identity] is None],
        ),
    )


def _first(named: Mapping[str, str], urls: Iterable[str]) -> str | None:
    """What the first of the URLs that has a name is named."""
    return next((named[url] for url in urls if url in named), None)


def _together(groups: Mapping[str, str | None]) -> set[tuple[str, str]]:
    """The pairs of members of a group, each in order."""
    members: dict[str, list[str]] = {}
    for identity, group in groups.items():
        if group is not None:
            members.setdefault(group, []).append(identity)
    return {pair for several in members.values() for pair in combinations(sorted(several), 2)}


def _auc(lower: Iterable[float | None], higher: Iterable[float | None]) -> float | None:
    """The share of (lower, higher) pairs in the right order, ties by half: the area under the ROC curve."""
    low, high = (np.array([x for x in values if x is not None]) for values in (lower, higher))
    if not low.size or not high.size:
        return None
    return float(((low[:, None] < high).sum() + 0.5 * (low[:, None] == high).sum()) / (low.size * high.size))
