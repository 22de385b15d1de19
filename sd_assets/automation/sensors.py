"""Sensors: what Dagster is told of the world outside."""

import json

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from sd_assets.assets.catalog_entry import section_digest, section_metadata
from sd_assets.assets.common import SEEDS, section_key
from sd_assets.resources.catalog import CatalogResource


# It only tells Dagster of edits and launches nothing, so it need not wait for somebody to start it.
@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def catalog_edits(context: dg.SensorEvaluationContext, catalog: CatalogResource) -> dg.SensorResult:
    """Shows as stale what an edit of the catalogue touches: of the edited entries, the assets that read that section."""
    known: dict[str, str] = json.loads(context.cursor or "{}")
    found: dict[str, str] = {}
    events = []
    current = catalog.read()
    # An entry that was added or taken away counts when the code location is loaded again.
    for partition in set(SEEDS.get_partition_keys()) & set(current.seed_datasets):
        for name, section in current.sections(partition).items():
            place, digest = f"{partition}/{name}", section_digest(section)
            found[place] = digest[:16]
            if known.get(place) != found[place]:
                events.append(
                    dg.AssetMaterialization(
                        asset_key=section_key(name),
                        partition=partition,
                        metadata=section_metadata(section),
                        tags={DATA_VERSION_TAG: digest},
                    )
                )
    return dg.SensorResult(cursor=json.dumps(found), asset_events=events)
