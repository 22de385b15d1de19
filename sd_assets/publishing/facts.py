"""What the tables of a partition say of the pairs that are kept: the numbers of a dataset card."""

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from sd_assets.blocked import host_of
from sd_assets.curation.funnel import Funnel, funnel
from sd_assets.curation.reading import curated_rows
from sd_assets.schemas import (
    AESTHETIC_SCORES,
    ALIGNMENT_SCORES,
    IMAGE_CAPTIONS,
    IMAGE_EMBEDDINGS,
    NSFW_SCORES,
    RETRIEVAL_HITS,
    SEED_EMBEDDINGS,
    SEED_IMAGES,
    SEED_PROMPTS,
    TABLES,
    TableSchema,
)
from sd_assets.settings import SCORES
from sd_assets.stages.stage import each_row
from sd_assets.storage.table import Table, TableStore, spread

UNKNOWN: Final = "unknown"
# What each table names as the model that made it.
_MODELS: Final = {
    "embedding of seeds and prompts": SEED_EMBEDDINGS,
    "captions": IMAGE_CAPTIONS,
    "embedding of images": IMAGE_EMBEDDINGS,
    "alignment of image and caption": ALIGNMENT_SCORES,
    "aesthetic score": AESTHETIC_SCORES,
    "NSFW score": NSFW_SCORES,
}
_READ: Final = ("captions", "origin", "url", "licence", *SCORES, "own_scores")


@dataclass(frozen=True)
class Stage:
    """What became of the rows of a table.

    Attributes:
        table: its name.
        ok: rows.
        failed: rows with an error.
    """

    table: str
    ok: int
    failed: int


@dataclass(frozen=True)
class Facts:
    """What a card says of a partition; all but `stages`, `funnel` and `seeds` of the pairs that are kept.

    Attributes:
        pairs: that are kept.
        captions: how many, over all pairs.
        origins: pairs by `seed` and `retrieved`.
        hosts: pairs that have a URL, by its host.
        licences: of these, by licence; `unknown`: the corpus had none.
        scores: by name, all values that are known.
        funnel: how many pairs are kept, and what the others were lost by.
        stages: the tables that there are, in the order in which they are made.
        revisions: of the source that the seeds were read at.
        prompts: seed prompts.
        indices: that were asked.
        models: what they were used for -> their names, with commits or digests.
    """

    pairs: int
    captions: int
    origins: Counter[str]
    hosts: Counter[str]
    licences: Counter[str]
    scores: dict[str, npt.NDArray[np.float32]]
    funnel: Funnel
    stages: list[Stage]
    revisions: list[str]
    prompts: int
    indices: list[str]
    models: dict[str, list[str]]


def current_tables(store: TableStore, partition: str) -> dict[str, Table]:
    """The current tables of a partition, in the order in which they are made."""
    found = {schema.name: store.find(schema.name, partition) for schema in TABLES}
    return {name: table for name, table in found.items() if table is not None}


def facts_of(store: TableStore, partition: str, text_image_pairs: Table, curated_pairs: Table) -> Facts:
    """The facts of a partition; no image is read. Of tables besides the two that are given the current versions count."""
    origins: Counter[str] = Counter()
    hosts: Counter[str] = Counter()
    licences: Counter[str] = Counter()
    scores: defaultdict[str, array[float]] = defaultdict(lambda: array("f"))
    captions = 0
    for rows in curated_rows(text_image_pairs, curated_pairs, _READ):
        for row in each_row([rows.known]):
            origins[row["origin"]] += 1
            captions += len(row["captions"])
            if row["url"] is not None:
                hosts[host_of(row["url"]) or UNKNOWN] += 1
                licences[row["licence"] or UNKNOWN] += 1
            own = {it["score"]: it["value"] for it in row["own_scores"] or ()}
            for name, value in {**{name: row[name] for name in SCORES}, **own}.items():
                if value is not None:
                    scores[name].append(value)
    tables = current_tables(store, partition)
    return Facts(
        pairs=origins.total(),
        captions=captions,
        origins=origins,
        hosts=hosts,
        licences=licences,
        scores={name: np.frombuffer(values, np.float32) for name, values in scores.items()},
        funnel=funnel(curated_pairs),
        stages=[
            Stage(name, int((table.errors == b"").sum()), int((table.errors != b"").sum()))
            for name, table in tables.items()
        ],
        revisions=_distinct(tables, SEED_IMAGES, "source_revision"),
        prompts=tables[SEED_PROMPTS.name].num_rows if SEED_PROMPTS.name in tables else 0,
        indices=_distinct(tables, RETRIEVAL_HITS, "index"),
        models={
            what: names for what, schema in _MODELS.items() if (names := _distinct(tables, schema, "model"))
        },
    )


def _distinct(tables: dict[str, Table], schema: TableSchema, column: str) -> list[str]:
    """The texts of a column, the most frequent first."""
    counts: Counter[str] = Counter()
    table = tables.get(schema.name)
    for batch in table.batches([column]) if table else ():
        counts.update(text for text in batch.column(column).to_pylist() if text is not None)
    return [text for text, _ in counts.most_common()]


def sample(
    text_image_pairs: Table, curated_pairs: Table, pairs: int, count: int
) -> Iterable[tuple[bytes, str]]:
    """Image and first caption of some of the kept pairs, spread over all; only their images are read.

    Args:
        text_image_pairs: with the images.
        curated_pairs: says which are kept.
        pairs: how many that are.
        count: how many are wanted.
    """
    wanted = spread(count, pairs)
    start = 0
    for rows in curated_rows(text_image_pairs, curated_pairs, ["image", "captions"]):
        places = [place - start for place in wanted if start <= place < start + len(rows.known)]
        start += len(rows.known)
        for row in rows.take(places).to_pylist() if places else ():
            yield row["image"], row["captions"][0]
