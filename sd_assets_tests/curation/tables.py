"""Pairs with their scores, in real tables."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sd_assets.compute.run import write_rows
from sd_assets.schemas import (
    AESTHETIC_SCORES,
    ALIGNMENT_SCORES,
    CURATED_PAIRS,
    HELD_OUT_IMAGES,
    IMAGE_EMBEDDINGS,
    IMAGE_QUALITY,
    NEAR_DUPLICATES,
    NSFW_SCORES,
    TEXT_IMAGE_PAIRS,
    TableSchema,
)
from sd_assets.settings import CurationSettings, NearDuplicateSettings
from sd_assets.stages.curate import Judgements, curation_rows
from sd_assets.stages.near_duplicates import Images, near_duplicate_rows
from sd_assets.stages.stage import InputCounts, rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore

PARTITION = "p"
Row = Mapping[str, Any]


def pair(name: str, **facts: Any) -> dict[str, Any]:
    """A retrieved pair and its scores. `degrees` is its embedding: the cosine of two is that of their difference."""
    return {
        "image_id": name,
        "image": name.encode(),
        "captions": ["a room"],
        "origin": "retrieved",
        "url": f"http://host.test/{name}.jpg",
        "similarity": 0.5,
        "query_ids": ["q"],
        "resolution": 256,
        "sharpness": 0.5,
        "alignment": 0.3,
        **facts,
    }


class Tables:
    """The tables under a folder, which are written and judged without Dagster."""

    def __init__(self, folder: Path) -> None:
        self.store = TableStore(LocalFiles(folder))

    def write(self, schema: TableSchema, rows: Iterable[Row], partition: str = PARTITION) -> Table:
        """The next version of a table; what it has no column for is passed over."""
        listed = list(rows)
        area = self.store.area(schema.name, partition)
        write_rows(schema, [rows_of(schema, listed)], area, f"run-{id(listed)}").commit()
        return self.store.open(schema.name, partition)

    def given(self, pairs: Iterable[Row], partition: str = PARTITION, model: str = "m") -> None:
        """Everything up to the scores."""
        listed = [{**it, **_embedding(it.get("degrees"), model)} for it in pairs]
        for schema in (TEXT_IMAGE_PAIRS, IMAGE_EMBEDDINGS, IMAGE_QUALITY, ALIGNMENT_SCORES):
            self.write(schema, listed, partition)
        for schema in (AESTHETIC_SCORES, NSFW_SCORES, HELD_OUT_IMAGES):
            self.write(schema, [], partition)

    def table(self, schema: TableSchema, partition: str = PARTITION) -> Table:
        return self.store.open(schema.name, partition)

    def images(self, partition: str = PARTITION) -> Images:
        return Images(self.table(IMAGE_EMBEDDINGS, partition), self.table(IMAGE_QUALITY, partition))

    def near_duplicates(self, *elsewhere: str, **settings: Any) -> dict[str, dict[str, Any]]:
        """Rows of near_duplicates by image, by these settings and against these partitions."""
        nearness = NearDuplicateSettings(**settings)
        others = {partition: self.images(partition) for partition in elsewhere}
        rows = near_duplicate_rows(self.images(), nearness, others, self.table(HELD_OUT_IMAGES))
        listed = [row for batch in rows for row in batch.to_pylist()]
        self.write(NEAR_DUPLICATES, listed)
        return {row["image_id"]: row for row in listed}

    def curated(self, own: Mapping[str, Table] | None = None, **settings: Any) -> dict[str, list[str]]:
        """After curation by these settings what speaks against each pair."""
        self.near_duplicates()
        judgements = Judgements(
            image_quality=self.table(IMAGE_QUALITY),
            alignment_scores=self.table(ALIGNMENT_SCORES),
            aesthetic_scores=self.table(AESTHETIC_SCORES),
            nsfw_scores=self.table(NSFW_SCORES),
            near_duplicates=self.table(NEAR_DUPLICATES),
            own=own or {},
        )
        counts = InputCounts()
        rows = curation_rows(self.table(TEXT_IMAGE_PAIRS), judgements, CurationSettings(**settings), counts)
        listed = [row for batch in rows for row in batch.to_pylist()]
        self.write(CURATED_PAIRS, listed)
        assert counts.rows == len(listed) + counts.skipped
        assert all(row["keep"] == (not row["reasons"]) == (row["split"] is not None) for row in listed)
        return {row["image_id"]: row["reasons"] for row in listed}


def _embedding(degrees: float | None, model: str) -> dict[str, Any]:
    if degrees is None:
        return {}
    radians = np.radians(degrees)
    return {"embedding": [float(np.cos(radians)), float(np.sin(radians))], "model": model}
