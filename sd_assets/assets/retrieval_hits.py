"""The asset retrieval_hits."""

import dagster as dg

from sd_assets.assets.common import CATALOG, seed_asset
from sd_assets.assets.index_lineage import asked_indices
from sd_assets.assets.knn_index import knn_index
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.retrieval.fit import check_queries
from sd_assets.retrieval.index import open_index
from sd_assets.stages.retrieve import RetrieveStage, embedding_batches
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset(
    "retrieval",
    RetrieveStage.version,
    sections=["retrieval", "blocked"],
    deps=[dg.AssetDep(knn_index, partition_mapping=asked_indices(CATALOG))],
)
def retrieval_hits(
    context: dg.AssetExecutionContext,
    seed_embeddings: Table,
    catalog: CatalogResource,
    compute: ComputeResource,
) -> dg.MaterializeResult[Staged]:
    """For every seed, the images of the kNN index that are most like it."""
    current = catalog.read()
    settings = current.entry(context.partition_key).retrieval
    definition = current.index(settings.index)
    check_queries(settings.index, definition, seed_embeddings)
    index = open_index(settings.index, definition, settings)
    return compute.run(
        context,
        RetrieveStage(index, settings, current.blocked.list),
        embedding_batches(seed_embeddings),
        made_from=[seed_embeddings],
    )
