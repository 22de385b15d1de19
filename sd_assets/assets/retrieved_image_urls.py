"""The asset retrieved_image_urls."""

import dagster as dg

from sd_assets.assets.common import seed_asset
from sd_assets.resources.compute import ComputeResource
from sd_assets.schemas import RETRIEVED_IMAGE_URLS
from sd_assets.stages.stage import InputCounts
from sd_assets.stages.urls import VERSION, url_batches
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset("retrieval", VERSION)
def retrieved_image_urls(
    context: dg.AssetExecutionContext, retrieval_hits: Table, compute: ComputeResource
) -> dg.MaterializeResult[Staged]:
    """The retrieved URLs, each once, with the queries that found it."""
    counts = InputCounts()
    rows = url_batches(retrieval_hits, counts)
    return compute.write(context, RETRIEVED_IMAGE_URLS, rows, counts, made_from=[VERSION, retrieval_hits])
