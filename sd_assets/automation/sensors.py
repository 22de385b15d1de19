"""Sensors: what Dagster is told of the world outside, and what it is to do about that."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import dagster as dg
from dagster._core.definitions.data_version import (
    DATA_VERSION_TAG,
    extract_data_provenance_from_entry,
    extract_data_version_from_entry,
)

from sd_assets.assets.catalog_entry import SECTIONS, section_digest, section_metadata
from sd_assets.assets.common import SEEDS, section_key
from sd_assets.assets.hub_revision import hub_revision, revision_metadata
from sd_assets.assets.seed_images import seed_images
from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.errors import SdAssetsError, SourceError
from sd_assets.resources.catalog import CatalogResource
from sd_assets.settings import HubSource, SeedDataset
from sd_assets.sources.hub import hub_commit

# How often the Hub is asked: at most once in so many seconds.
HUB_INTERVAL_S: Final = 3_600
# A tick has a minute (DAGSTER_SENSOR_GRPC_TIMEOUT_SECONDS), and a Hub that does not answer takes 10 s an entry.
_ASKED_AT_ONCE = 16


# It only tells Dagster of edits and launches nothing, so it need not wait for somebody to start it.
@dg.sensor(minimum_interval_seconds=30, default_status=dg.DefaultSensorStatus.RUNNING)
def catalog_edits(context: dg.SensorEvaluationContext, catalog: CatalogResource) -> dg.SensorResult:
    """Shows as stale what an edit of the catalogue touches: of the edited entries, the assets that read that section."""
    current = catalog.read()
    # What Dagster knows, from here or from runs; one query a section, whatever the number of partitions.
    known = {name: _versions(context.instance, section_key(name)) for name in SECTIONS}
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


# What it starts costs downloads and GPU time: like the schedules it waits for somebody who wants it.
@dg.sensor(job_name=BUILD_DATASET, minimum_interval_seconds=HUB_INTERVAL_S)
def hub_revisions(context: dg.SensorEvaluationContext, catalog: CatalogResource) -> dg.SensorResult:
    """Asks the Hub for the commits of the catalogue's datasets: what was built of another one shows as stale, and is run.

    A partition that was never built is not run: a first build is somebody's decision. What the tick asks for follows from
    what was built, not from what the last tick saw, so that nothing is lost with a tick that breaks off.
    """
    sources = _hub_sources(catalog.read().seed_datasets)
    if not sources:
        return dg.SensorResult(skip_reason="no entry of the catalogue has a source of the kind hub")
    commits, reasons = _asked(sources)
    for partition, reason in reasons.items():
        context.log.warning(f"{partition}: {reason} (the next tick asks again)")
    if reasons and not commits:
        raise SourceError("\n".join(["no commit could be had:", *reasons.values()]))
    known = _versions(context.instance, hub_revision.key)
    events, requests = [], []
    for partition, commit in commits.items():
        if known.get(partition) != commit:
            events.append(
                dg.AssetMaterialization(
                    asset_key=hub_revision.key,
                    partition=partition,
                    metadata=revision_metadata(sources[partition], commit),
                    tags={DATA_VERSION_TAG: commit},
                )
            )
        built = _latest(context.instance, seed_images.key, partition)
        before = built and _commit_of(context.instance, built, partition)
        if built is not None and before != commit:
            context.log.info(f"{partition}: built of commit {before}; the Hub has {commit} now")
            requests.append(
                # What was built gets one run for a commit, whatever becomes of the run and of the daemon.
                dg.RunRequest(
                    run_key=f"{hub_revision.key.to_user_string()}/{partition}/{built.storage_id}..{commit}",
                    partition_key=partition,
                )
            )
    if requests:
        return dg.SensorResult(run_requests=requests, asset_events=events)
    not_had = f"; the Hub did not tell of {', '.join(reasons)}: see the log" if reasons else ""
    return dg.SensorResult(skip_reason=f"nothing that was built has changed{not_had}", asset_events=events)


def _hub_sources(entries: Mapping[str, SeedDataset]) -> dict[str, HubSource]:
    """The sources of the partitions that are of the Hub."""
    sources = {name: entries[name].source for name in SEEDS.get_partition_keys() if name in entries}
    return {name: source for name, source in sources.items() if isinstance(source, HubSource)}


def _asked(sources: Mapping[str, HubSource]) -> tuple[dict[str, str], dict[str, str]]:
    """The commit of each partition now, and of the others why there is none."""

    def ask(source: HubSource) -> str | SdAssetsError | None:
        try:
            return hub_commit(source)
        except SdAssetsError as error:
            return error

    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        answers = dict(zip(sources, pool.map(ask, sources.values()), strict=True))
    commits = {name: answer for name, answer in answers.items() if isinstance(answer, str)}
    return commits, {name: str(it) for name, it in answers.items() if isinstance(it, SdAssetsError)}


def _commit_of(instance: dg.DagsterInstance, seeds: dg.EventLogRecord, partition: str) -> str:
    """The commit that Dagster knew of when it made these seed_images, or "unknown".

    This looks where Dagster does to say whether seed_images are stale.
    """
    provenance = extract_data_provenance_from_entry(seeds.event_log_entry)
    # The last event of hub_revision, of whichever partition, that was there when these seed_images were made.
    last = provenance.input_storage_ids.get(hub_revision.key) if provenance else None
    known = last and _latest(instance, hub_revision.key, partition, before_storage_id=last + 1)
    version = known and extract_data_version_from_entry(known.event_log_entry)
    return version.value if version else "unknown"


def _latest(
    instance: dg.DagsterInstance, key: dg.AssetKey, partition: str, before_storage_id: int | None = None
) -> dg.EventLogRecord | None:
    """The last materialization of a partition, before a point in Dagster's log if one is given."""
    wanted = dg.AssetRecordsFilter(
        asset_key=key, asset_partitions=[partition], before_storage_id=before_storage_id
    )
    return next(iter(instance.fetch_materializations(wanted, limit=1).records), None)


def _versions(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, str]:
    """The data version of an asset by partition."""
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, [DATA_VERSION_TAG]
    )
    return {partition: found[DATA_VERSION_TAG] for partition, found in tags.items()}
