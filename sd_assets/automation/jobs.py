"""Jobs: what one launches, backfills and schedules as a whole."""

import dagster as dg

build_dataset = dg.define_asset_job(
    "build_dataset",
    selection=dg.AssetSelection.all(),
    description="Everything for one seed dataset, from its entry of the catalogue to text_image_pairs; computes what is missing.",
)
