"""The asset dataset_report."""

import time

import dagster as dg

from sd_assets.assets.common import SEEDS
from sd_assets.report.write import VERSION, Tables, write_report
from sd_assets.resources.storage import StorageResource
from sd_assets.storage.table import Table


@dg.asset(
    partitions_def=SEEDS,
    group_name="dataset",
    code_version=VERSION,
    kinds={"html"},
    owners=["team:sd_assets"],
)
def dataset_report(
    context: dg.AssetExecutionContext,
    seed_images: Table,
    retrieved_image_urls: Table,
    downloaded_images: Table,
    text_image_pairs: Table,
    near_duplicates: Table,
    curated_pairs: Table,
    storage: StorageResource,
) -> dg.MaterializeResult[None]:
    """A folder of static HTML that shows the dataset: gallery, funnel, distributions, near-duplicates, what changed."""
    started = time.monotonic()
    tables = Tables(
        seed_images=seed_images,
        retrieved_image_urls=retrieved_image_urls,
        downloaded_images=downloaded_images,
        text_image_pairs=text_image_pairs,
        near_duplicates=near_duplicates,
        curated_pairs=curated_pairs,
    )
    report = write_report(storage.files(), context.partition_key, tables, context.log.info)
    context.log.info(f"{report.page}: open it in a browser")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(report.data_version),
        metadata={
            "path": dg.MetadataValue.path(report.page),
            "pairs": report.pairs,
            "of_pairs": report.of_pairs,
            "changed": dg.MetadataValue.json(report.changed),
            "bytes": report.bytes,
            "bytes_written": report.bytes_written,
            "seconds": round(time.monotonic() - started, 1),
        },
    )
