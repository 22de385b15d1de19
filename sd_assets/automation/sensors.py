"""Sensors: what Dagster is told of the world outside."""

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from sd_assets.assets.catalog_entry import SECTIONS, section_digest, section_metadata
from sd_assets.assets.common import SEEDS, section_key
from sd_assets.resources.catalog import CatalogResource


# It only tells Dagster of edits and launches nothing, so it need not wait for somebody to start it.
@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def catalog_edits(context: dg.SensorEvaluationContext, catalog: CatalogResource) -> dg.SensorResult:
    """Shows as stale what an edit of the catalogue touches: of the edited entries, the assets that read that section."""
    current = catalog.read()
    # What Dagster knows, from here or from runs; one query a section, whatever the number of partitions.
    known = {name: _versions(context.instance, name) for name in SECTIONS}
    events = []
    # An entry that was added or taken away counts when the code location is loaded again.
    for partition in set(SEEDS.get_partition_keys()) & set(current.seed_datasets):
        for name, section in current.sections(partition).items():
            digest = section_digest(section)
            if known[name].get(partition) != digest:
                events.append(
                    dg.AssetMaterialization(
                        asset_key=section_key(name),
                        partition=partition,
                        metadata=section_metadata(section),
                        tags={DATA_VERSION_TAG: digest},
                    )
                )
    return dg.SensorResult(asset_events=events)


def _versions(instance: dg.DagsterInstance, section: str) -> dict[str, str]:
    """The data version of a section by partition."""
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        section_key(section), dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    return {partition: found[DATA_VERSION_TAG] for partition, found in tags.items()}
