"""A small dataset as the tables that a report is made of, committed for real."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sd_assets.compute.run import write_rows
from sd_assets.images import encode
from sd_assets.report.write import Report, Tables, write_report
from sd_assets.schemas import (
    CURATED_PAIRS,
    DOWNLOADED_IMAGES,
    NEAR_DUPLICATES,
    RETRIEVED_IMAGE_URLS,
    SEED_IMAGES,
    TEXT_IMAGE_PAIRS,
    image_id,
)
from sd_assets.stages.stage import rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore

PARTITION = "demo_prompts"  # one of the catalogue that ships: partitions are read from there
OBJECTS = ("sofa", "lamp", "clock", "plant")
SCHEMAS = (
    SEED_IMAGES,
    RETRIEVED_IMAGE_URLS,
    DOWNLOADED_IMAGES,
    TEXT_IMAGE_PAIRS,
    NEAR_DUPLICATES,
    CURATED_PAIRS,
)


def picture(number: int, side: int = 64) -> bytes:
    """A plain JPEG whose colour tells its number, up to 4,095."""
    colour = (number % 16 * 16 + 8, number // 16 % 16 * 16 + 8, number // 256 * 16 + 8)
    return encode(Image.fromarray(np.full((side, side, 3), colour, np.uint8)), "jpg", 90)


@dataclass
class Dataset:
    """A partition's rows, which a test changes, and the folder that its tables are written to.

    Attributes:
        base: of the tables and the reports.
        rows: by table.
    """

    base: Path
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @classmethod
    def of(cls, base: Path, count: int) -> "Dataset":
        """Pairs of which every fifth is not kept, every tenth besides is of low sharpness, and the first two are near-duplicates."""
        found = cls(base, {schema.name: [] for schema in SCHEMAS})
        found.add(range(count))
        ids = found.ids()
        for member, nearest in ((0, 1), (1, 0)):
            found.rows["near_duplicates"][member] |= {
                "cluster": min(ids[:2]),
                "cluster_size": 2,
                "nearest": ids[nearest],
                "hash_distance": 3,
                "cosine": 0.97,
            }
        return found

    def add(self, numbers: Iterable[int]) -> None:
        """More pairs."""
        for number in numbers:
            data = picture(number)
            identity = {"image_id": image_id(data)}
            url = f"https://www{number % 3}.example.org/{number}.jpg?sig=5ec2e7"
            reasons = ["near_duplicate"] if number % 5 == 1 else []
            reasons += ["low_sharpness"] if number % 10 == 1 else []
            self.rows["text_image_pairs"].append(
                identity
                | {
                    "image": data,
                    "width": 64,
                    "height": 64,
                    "original_width": 80,
                    "original_height": 64,
                    "captions": [f"a {OBJECTS[number % 4]}, number {number}"],
                    "text": f"web text {number}",
                    "origin": "retrieved" if number % 7 else "seed",
                    "url": url if number % 7 else None,
                    "licence": "CC0" if number % 2 else None,
                    "similarity": 0.3,
                    "query_ids": [],
                }
            )
            self.rows["curated_pairs"].append(
                identity
                | {
                    "keep": not reasons,
                    "reasons": reasons,
                    "split": None if reasons else "validation" if number % 9 == 0 else "train",
                    "resolution": 64,
                    "sharpness": number / 7,
                    "alignment": None if number % 4 == 3 else 0.2 + number / 10_000,
                    "own_scores": [{"score": "colourfulness", "value": float(number)}],
                }
            )
            alone = {"cluster": identity["image_id"], "cluster_size": 1, "held_out": [], "elsewhere": []}
            self.rows["near_duplicates"].append(identity | alone)

    def ids(self) -> list[str]:
        """The image_ids, in order."""
        return [row["image_id"] for row in self.rows["text_image_pairs"]]

    def against(self, reason: str) -> list[dict[str, Any]]:
        """The rows of curated_pairs that a reason is against."""
        return [row for row in self.rows["curated_pairs"] if reason in row["reasons"]]

    def remove(self, place: int) -> str:
        """Take a pair out; returns its image_id."""
        gone: str = self.ids()[place]
        for name in ("text_image_pairs", "curated_pairs", "near_duplicates"):
            del self.rows[name][place]
        return gone

    def commit(self) -> Tables:
        """Write all tables, and open them."""
        store = TableStore(LocalFiles(self.base))
        for number, schema in enumerate(SCHEMAS):
            area = store.area(schema.name, PARTITION)
            if not self.rows[schema.name] and area.versions():
                continue
            run_id = f"run-{number}-{len(area.versions())}"
            write_rows(schema, [rows_of(schema, self.rows[schema.name])], area, run_id).commit()
        return Tables(*(store.open(schema.name, PARTITION) for schema in _in_order()))

    def report(self) -> Report:
        """Write all tables, and their report."""
        return write_report(LocalFiles(self.base), PARTITION, self.commit(), print)


def _in_order() -> list[Any]:
    by_name = {schema.name: schema for schema in SCHEMAS}
    return [by_name[name] for name in Tables.__dataclass_fields__]
