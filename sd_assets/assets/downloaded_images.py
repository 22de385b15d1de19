"""The asset downloaded_images."""

import dagster as dg

from sd_assets.assets.common import seed_asset
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.stages.download import DownloadStage
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset("images", DownloadStage.version, sections=["download", "blocked"])
def downloaded_images(
    context: dg.AssetExecutionContext,
    retrieved_image_urls: Table,
    catalog: CatalogResource,
    compute: ComputeResource,
) -> dg.MaterializeResult[Staged]:
    """The image behind every URL, judged and resized, or why it could not be had."""
    current = catalog.read()
    blocked = current.blocked.list
    stage = DownloadStage(current.entry(context.partition_key).download, blocked)
    rows = stage.url_rows(retrieved_image_urls)
    return compute.run(context, stage, rows, made_from=[retrieved_image_urls, blocked.digest])
