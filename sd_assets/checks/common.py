"""Checks of a table as one `multi_asset_check`: one step a table, whatever the number of its checks.

What is true of partitioned checks in Dagster 1.13 (a preview there):
- `partitions_def` stands on the specs; it puts the partition's key on every evaluation, so that a partition's checks are
  shown with it. Without it one evaluation would stand for all partitions.
- A check that takes the asset as an input gets it from the IO manager: its partition, or every one where the specs name no
  partitions. Ours open tables by name, so that they may look at those before, too, without depending on them.
- A run has the partition's key in its tags, whether it was launched, backfilled, scheduled or in-process. A job of checks
  only has no partitions for Dagster: a run of it has a key if somebody tags it (`dagster/partition`), and is refused with
  what to do otherwise.
- A check that blocks and fails fails its step, so nothing that follows from the asset runs in the same run. A later run of
  what follows alone is not stopped.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import dagster as dg

from sd_assets.assets.common import SEEDS
from sd_assets.errors import SdAssetsError
from sd_assets.quality.finding import Check, Finding, Severity
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import StorageResource
from sd_assets.settings import SeedDataset
from sd_assets.storage.table import Table
from sd_assets.views.text import public, public_json

# Opens a table of the partition that is checked, by the name of its asset.
Tables = Callable[[str], Table]
Judge = Callable[[Tables, SeedDataset], Iterable[Finding]]

_SEVERITIES = {Severity.ERROR: dg.AssetCheckSeverity.ERROR, Severity.WARNING: dg.AssetCheckSeverity.WARN}


def table_checks(asset: str, checks: Sequence[Check], judge: Judge) -> dg.AssetChecksDefinition:
    """The checks of an asset with one partition per seed dataset.

    Those whose severity is an error block: if one fails, nothing that follows from the asset is made in that run.

    Args:
        asset: its name, which is that of its table, too.
        checks: what the judge judges.
        judge: a finding for each of the checks.
    """

    @dg.multi_asset_check(
        name=f"{asset}_checks",
        description=f"Judges {asset} by the limits of the catalogue (`checks:`).",
        specs=[_spec(asset, check) for check in checks],
        can_subset=True,
    )
    def run(
        context: dg.AssetCheckExecutionContext, catalog: CatalogResource, storage: StorageResource
    ) -> Iterator[dg.AssetCheckResult]:
        partition = _partition(context, asset)
        selected = {key.name for key in context.selected_asset_check_keys}
        version = storage.table(asset, partition).manifest.version
        for finding in judge(lambda name: storage.table(name, partition), catalog.entry(partition)):
            if finding.check.name in selected:
                if not finding.passed and finding.check.severity is Severity.WARNING:
                    context.log.warning(public(f"{asset}, {finding.check.name}: {finding.description}"))
                yield _result(asset, finding, version)

    return run


def _spec(asset: str, check: Check) -> dg.AssetCheckSpec:
    with warnings.catch_warnings():
        # Known, and tested against the versions that pyproject.toml allows.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return dg.AssetCheckSpec(
            check.name,
            asset=asset,
            description=check.description,
            blocking=check.severity is Severity.ERROR,
            partitions_def=SEEDS,
        )


def _partition(context: dg.AssetCheckExecutionContext, asset: str) -> str:
    """The partition that the run is of.

    Raises:
        SdAssetsError: it is of none.
    """
    if not context.has_partition_key:
        raise SdAssetsError(
            f"the checks of {asset} judge one partition, and this run has none: materialize {asset} for the partition (its "
            "checks run with it, and rows that are there already are not computed again), or launch the checks with the "
            "tag dagster/partition"
        )
    return str(context.partition_key)


def _result(asset: str, finding: Finding, version: int) -> dg.AssetCheckResult:
    severity = _SEVERITIES[finding.check.severity]
    return dg.AssetCheckResult(
        asset_key=asset,
        check_name=finding.check.name,
        passed=finding.passed,
        severity=severity,
        description=public(finding.description),
        metadata={"severity": severity.value, "table_version": version, **public_json(finding.numbers)},
    )
