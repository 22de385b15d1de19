"""The asset knn_index."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg

from sd_assets.assets.common import CATALOG, INDICES
from sd_assets.assets.index_lineage import indexed_seeds
from sd_assets.catalog import require_set
from sd_assets.models.naming import clip_name
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import StorageResource
from sd_assets.retrieval.fit import model_of
from sd_assets.retrieval.layout import size_of
from sd_assets.retrieval.record import IndexRecord
from sd_assets.settings import FaissIndexSettings
from sd_assets.storage.table import TableStore

# Shows what is stale. What is built again is decided by `retrieval.build` alone.
VERSION = "1"

_UNKNOWN = "unknown: say it under `clip:` of the index"

Log = Callable[[str], None]


@dg.asset(
    partitions_def=INDICES,
    group_name="retrieval",
    # Mapped are indices of our own embeddings only; the edges are there all the same. Without them this asset would be a root
    # of the graph with partitions of its own, and "Materialize all" in the UI would offer no partition to choose.
    deps=[
        dg.AssetDep(name, partition_mapping=indexed_seeds(CATALOG))
        for name in ("seed_images", "seed_embeddings")
    ],
    code_version=VERSION,
    kinds={"faiss"},
    owners=["team:sd_assets"],
)
def knn_index(
    context: dg.AssetExecutionContext, catalog: CatalogResource, storage: StorageResource
) -> dg.MaterializeResult[None]:
    """A folder with a kNN index: built of its `corpus` if anything has changed; or somebody else's, and checked."""
    from sd_assets.retrieval.faiss_index import FaissIndex

    name = context.partition_key
    index = catalog.read().folder_index(name)
    folder = Path(require_set(index.path, f"indices.{name}.path"))
    started = time.monotonic()
    if index.corpus is None:
        found = _brought(name, index, folder)
    else:
        found = _built(name, index, folder, storage.store(), context.log.info)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(FaissIndex(name, folder).identity),
        metadata={
            **found,
            "seconds": round(time.monotonic() - started, 1),
            "path": dg.MetadataValue.path(str(folder)),
            "dagster/storage_kind": "faiss",
        },
    )


def _built(
    name: str, index: FaissIndexSettings, folder: Path, tables: TableStore, log: Log
) -> dict[str, Any]:
    """Build an index of its corpus, if it is not there, and tell what it is now."""
    from sd_assets.retrieval.build import build_index
    from sd_assets.retrieval.corpora import open_corpus

    assert index.corpus is not None
    before = IndexRecord.read(folder)
    clip = clip_name(index.clip) if index.clip else None
    record = build_index(open_corpus(name, index.corpus, tables), index.build, folder, log, clip=clip)
    kept = before is not None and (before.made_from, before.built_at) == (record.made_from, record.built_at)
    return {
        "vectors": record.vectors,
        "dim": record.dim,
        "kind": record.factory,
        "model": record.clip or _UNKNOWN,
        "bytes": size_of(folder),
        "rows": record.rows,
        **{f"skipped_{reason}": count for reason, count in record.skipped.items()},
        "corpus": record.corpus,
        "built_at": record.built_at,
        "note": "nothing has changed: not built again" if kept else "built",
    }


def _brought(name: str, index: FaissIndexSettings, folder: Path) -> dict[str, Any]:
    """What is found in a folder that somebody else built."""
    from sd_assets.retrieval.brought import examined

    found = examined(name, folder)
    return {
        "vectors": found.vectors,
        "dim": found.dim,
        "kind": found.kind,
        "model": model_of(name, index) or _UNKNOWN,
        "bytes": size_of(folder),
        "metadata_rows": found.metadata_rows,
        "note": found.note,
    }
