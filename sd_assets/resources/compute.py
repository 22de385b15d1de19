"""Running stages as a resource."""

import os
from collections.abc import Iterable, Sequence

import dagster as dg
import pyarrow as pa
from pydantic import Field

from sd_assets.compute.local import Local
from sd_assets.compute.ray.cluster import RaySettings
from sd_assets.compute.ray.engine import RayEngine
from sd_assets.compute.run import Engine, run_stage, write_rows
from sd_assets.errors import SdAssetsError
from sd_assets.resources.storage import StorageResource, attempt_id, column_schema, report_metadata
from sd_assets.resources.views import view_metadata
from sd_assets.schemas import TableSchema
from sd_assets.stages.stage import InputCounts, Stage
from sd_assets.storage.area import Area
from sd_assets.storage.rows import Rows
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table

COMPUTE_VARIABLE = "SD_ASSETS_COMPUTE"


class ComputeResource(dg.ConfigurableResource["ComputeResource"]):
    """Computes what is missing of an asset's partition; the IO manager then commits it.

    Attributes:
        kind: `local`, the process of the step, or `ray`, a cluster that exists; empty: what `SD_ASSETS_COMPUTE` says, or
            `local`.
        address: see `compute.ray.cluster.RaySettings`, also for those that follow.
    """

    storage: dg.ResourceDependency[StorageResource]
    kind: str = ""
    address: str = ""
    workers: int | None = Field(default=None, ge=1)
    cpus_per_worker: int = Field(default=1, ge=1)
    start_timeout_s: float = Field(default=600.0, gt=0)

    def engine(self) -> Engine:
        """Where stages compute. Raises SdAssetsError if the kind is neither `local` nor `ray`."""
        kind = self.kind or os.environ.get(COMPUTE_VARIABLE) or "local"
        if kind == "local":
            return Local()
        if kind == "ray":
            return RayEngine(
                RaySettings(self.address, self.workers, self.cpus_per_worker, self.start_timeout_s)
            )
        named = "the resource `compute` is of kind" if self.kind else f"{COMPUTE_VARIABLE} is"
        raise SdAssetsError(f"{named} {kind!r}: it must be `local` or `ray`")

    def run(
        self,
        context: dg.AssetExecutionContext,
        stage: Stage,
        rows: Iterable[pa.RecordBatch | Rows],
        *,
        made_from: Sequence[Table | str] = (),
    ) -> dg.MaterializeResult[Staged]:
        """Run a stage over the rows of its input that are missing from the table.

        Args:
            context: of the asset.
            stage: what to compute.
            rows: its input, all of it, in the order that the table is to have.
            made_from: all that `rows` depends on: tables, and texts that name the rest. With it a refresh of what has not
                changed reads no rows, and a table of captions shows the images of these tables on its contact sheet.

        Raises:
            SdAssetsError: see `compute.run.run_stage`.
        """
        area, run_id = self._area(context), attempt_id(context.run.run_id)
        staged = run_stage(stage, rows, area, run_id, context.log.info, made_from, self.engine())
        return _result(context, staged, stage.schema, made_from)

    def write(
        self,
        context: dg.AssetExecutionContext,
        schema: TableSchema,
        rows: Iterable[pa.RecordBatch],
        counts: InputCounts | None = None,
        *,
        made_from: Sequence[Table | str] = (),
    ) -> dg.MaterializeResult[Staged]:
        """Write rows that are ready: a reduction. See `compute.run.write_rows`."""
        area, run_id = self._area(context), attempt_id(context.run.run_id)
        staged = write_rows(schema, rows, area, run_id, counts, made_from)
        return _result(context, staged, schema, made_from)

    def _area(self, context: dg.AssetExecutionContext) -> Area:
        return self.storage.store().area("/".join(context.asset_key.path), context.partition_key)


def _result(
    context: dg.AssetExecutionContext, staged: Staged, schema: TableSchema, made_from: Sequence[Table | str]
) -> dg.MaterializeResult[Staged]:
    tables = [it for it in made_from if isinstance(it, Table)]
    with staged.or_nothing():
        return dg.MaterializeResult(
            value=staged,
            data_version=dg.DataVersion(staged.data_version),
            metadata={
                **report_metadata(staged),
                "dagster/column_schema": column_schema(schema),
                **view_metadata(staged.area, staged.table(), schema, tables, context.log.warning),
            },
        )
