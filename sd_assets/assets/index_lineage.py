"""Which partitions of the indices hang on which seed datasets, and the other way round, as the catalogue says.

Dagster reads it when the code location loads. What an index is really made of, and a query really asked of, is read from the
catalogue by each run.
"""

from collections import defaultdict
from collections.abc import Iterator

import dagster as dg

from sd_assets.catalog import Catalog
from sd_assets.settings import FaissIndexSettings, PartitionCorpus


def asked_indices(catalog: Catalog) -> dg.StaticPartitionMapping:
    """Index -> the seed datasets whose queries are asked of it.

    An index that is brought (without `corpus`), or a service, is made by nobody here: its entries hang on no partition, so that
    they are built without it.
    """
    asked: dict[str, set[str]] = defaultdict(set)
    made = {name for name, index in _local(catalog) if index.corpus is not None}
    for dataset, entry in catalog.seed_datasets.items():
        if entry.retrieval.index in made:
            asked[entry.retrieval.index].add(dataset)
    return dg.StaticPartitionMapping(asked)


def indexed_seeds(catalog: Catalog) -> dg.StaticPartitionMapping:
    """Seed dataset -> the indices that are built of its embeddings."""
    indexed: dict[str, set[str]] = defaultdict(set)
    for name, index in _local(catalog):
        if isinstance(index.corpus, PartitionCorpus):
            indexed[index.corpus.partition].add(name)
    return dg.StaticPartitionMapping(indexed)


def _local(catalog: Catalog) -> Iterator[tuple[str, FaissIndexSettings]]:
    for name, index in catalog.indices.items():
        if isinstance(index, FaissIndexSettings):
            yield name, index
