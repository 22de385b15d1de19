"""Where tables lie: the store as a resource, and the IO manager that commits what assets staged."""

import os
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
from pydantic import Field, model_validator

from sd_assets.compute.run import write_rows
from sd_assets.errors import SdAssetsError, TableError
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.redaction import redact_events
from sd_assets.resources.views import view_metadata
from sd_assets.schemas import ERROR_FIELDS, TableSchema
from sd_assets.settings import BlockedSettings
from sd_assets.storage.area import KEPT_VERSIONS, Area
from sd_assets.storage.files import Files, LocalFiles, S3Connection, S3Files
from sd_assets.storage.files.s3_connection import MAX_ATTEMPTS
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table, TableStore
from sd_assets.takedown import take_down
from sd_assets.views.text import public, shortened

DATA_VARIABLE = "SD_ASSETS_DATA"
KEPT_VERSIONS_VARIABLE = "SD_ASSETS_KEPT_VERSIONS"
# Metadata of an asset that a user adds: the columns that identify a row of its table.
KEY_METADATA = "sd_assets/key"
UNPARTITIONED = "all"
# Error codes that an event names.
_MAX_CODES = 50


def default_base() -> str:
    """The folder or `s3://` prefix that `SD_ASSETS_DATA` names, or `data/` at the top of the project."""
    return os.environ.get(DATA_VARIABLE) or str(Path(__file__).parents[2] / "data")


def default_kept_versions() -> int:
    """What `SD_ASSETS_KEPT_VERSIONS` says, or 3.

    Raises:
        SdAssetsError: it is no whole number from 1.
    """
    value = os.environ.get(KEPT_VERSIONS_VARIABLE) or str(KEPT_VERSIONS)
    if not value.isascii() or not value.isdigit() or not int(value):
        raise SdAssetsError(
            f"{KEPT_VERSIONS_VARIABLE} is {value!r}: it must be a whole number from 1, how many versions of a table "
            "are kept, the current one included"
        )
    return int(value)


class S3Config(dg.Config):
    """How an `s3://` base is reached; see `S3Connection`. What is left out is found as boto3 finds it.

    Credentials are never configured, as Dagster shows and stores what is: they come from the environment (`AWS_ACCESS_KEY_ID`
    and `AWS_SECRET_ACCESS_KEY`), a profile, or the role of the machine.

    Raises:
        SdAssetsError: credentials are given all the same, or are in the endpoint.
    """

    endpoint_url: str | None = None
    region_name: str | None = None
    profile_name: str | None = None
    verify: bool | None = None
    max_attempts: int = Field(default=MAX_ATTEMPTS, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _no_credentials(cls, given: Any) -> Any:
        # Not a ValueError: pydantic would quote what was given.
        unknown = sorted(set(given) - set(cls.model_fields)) if isinstance(given, Mapping) else []
        if unknown:
            raise SdAssetsError(
                f"s3 of the storage has no {', '.join(unknown)}; it has {', '.join(cls.model_fields)}. Credentials are taken "
                "from the environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or a profile"
            )
        return given

    def connection(self) -> S3Connection:
        return S3Connection(**{name: getattr(self, name) for name in type(self).model_fields})


class StorageResource(dg.ConfigurableResource["StorageResource"]):
    """All tables.

    Attributes:
        base: a folder, or `s3://bucket/prefix`; empty: what `SD_ASSETS_DATA` names, or `data/` of the project.
        kept_versions: so many versions of a partition are kept, the current one included; older ones are deleted by the
            next run that commits. None: what `SD_ASSETS_KEPT_VERSIONS` says, or 3.
        s3: how an `s3://` base is reached.
    """

    base: str = ""
    kept_versions: int | None = Field(default=None, ge=1)
    s3: S3Config = S3Config()

    def store(self) -> TableStore:
        """The tables under the base. Raises SdAssetsError if `SD_ASSETS_KEPT_VERSIONS` is no number from 1."""
        return TableStore(self.files(), self.kept_versions or default_kept_versions())

    def table(
        self,
        asset: str,
        partition: str = UNPARTITIONED,
        *,
        version: int | None = None,
        data_version: str | None = None,
    ) -> Table:
        """A version of an asset's table, lazily: how a check or a script reads one.

        Args:
            asset: its name; the parts of a key that has several are joined by `/`.
            partition: the partition's key.
            version: an older one by its number; None: the current one.
            data_version: an older one by its data version, as Dagster shows it; None: the current one.

        Raises:
            TableError: it was never materialized; or that version is not kept, with a list of those that are.
        """
        return self.store().open(asset, partition, version=version, data_version=data_version)

    def files(self, base: str = "") -> Files:
        """The base; or another folder, or `s3://` prefix."""
        base = base or self.base or default_base()
        if base.startswith("s3://"):
            return S3Files(self.s3.connection(), base)
        return LocalFiles(Path(base))


class ParquetIOManager(dg.ConfigurableIOManager):
    """Commits what an asset staged, and gives an asset the tables it asks for, as the type it annotates.

    An asset may return what `ComputeResource` returns, or (an asset that a user adds) a `pyarrow.Table` or a
    `pandas.DataFrame`; its key columns then stand in the asset's metadata: `{"sd_assets/key": ["image_id"]}`, the
    first column otherwise. An input is a `Table` (lazy), a `pyarrow.Table` or a `pandas.DataFrame`.
    """

    storage: dg.ResourceDependency[StorageResource]
    catalog: dg.ResourceDependency[CatalogResource]

    def handle_output(self, context: dg.OutputContext, obj: Any) -> None:
        area = self._area(context)
        staged = obj if isinstance(obj, Staged) else self._staged(context, obj, area)
        with staged.or_nothing():
            blocked = self.catalog.read().blocked  # before the commit: a mistake there must not pass unseen
        manifest = staged.commit()
        ok, failed, reused = (staged.report[f"rows_{what}"] for what in ("ok", "failed", "reused"))
        context.log.info(
            f"{area.folder}: {ok} ok, {failed} failed, {reused} reused; version {manifest.version}"
        )
        if failed > ok:
            worst = sorted(staged.report["failures"].items(), key=lambda item: -item[1])
            named = ", ".join(f"{code} {count}" for code, count in worst[:3])
            named += ", ..." if len(worst) > 3 else ""
            context.log.warning(f"{area.folder}: most rows failed ({named}); their error_detail says more")
        context.add_output_metadata({"version": manifest.version, "dagster/uri": area.uri})
        if blocked.list:
            self._take_down(context, area, blocked)

    def _take_down(self, context: dg.OutputContext, area: Area, blocked: BlockedSettings) -> None:
        """What is blocked goes from what the commit has left behind, and from what Dagster shows of it."""

        def redact() -> None:
            step = context.step_context
            partition = area.partition if context.has_asset_partitions else None
            redacted = redact_events(step.instance, context.asset_key, step.step.key, partition)
            if redacted:
                context.log.info(
                    f"{area.folder}: {redacted} earlier events lost their contact sheets and examples"
                )

        found = take_down(
            self.storage.store(), area, blocked.list, redact, older_versions=blocked.delete_older_versions
        )
        if found.shards:
            versions = ", ".join(map(str, found.versions)) or "none"
            then = "deleted" if blocked.delete_older_versions else "kept: `delete_older_versions` is not set"
            context.log.info(
                f"{area.folder}: {found.shards} shards of unfinished runs and older versions held what is blocked; of the "
                f"older versions {versions} ({then})"
            )

    def load_input(self, context: dg.InputContext) -> Any:
        table = self._table(context)
        wanted = context.dagster_type.typing_type
        if wanted is pa.Table:
            return table.read()
        if getattr(wanted, "__module__", "").startswith("pandas"):
            return table.to_pandas()
        return table

    def _table(self, context: dg.InputContext) -> Table:
        assert context.upstream_output is not None
        area = self._area(context)
        return self.storage.store().open(area.asset, area.partition)

    def _area(self, context: dg.InputContext | dg.OutputContext) -> Area:
        partition = context.asset_partition_key if context.has_asset_partitions else UNPARTITIONED
        return self.storage.store().area("/".join(context.asset_key.path), partition)

    def _staged(self, context: dg.OutputContext, obj: Any, area: Area) -> Staged:
        table = obj if isinstance(obj, pa.Table) else _from_pandas(obj, area)
        schema = _schema_of(area.asset, table, context.definition_metadata or {})
        rows = (
            table.append_column(ERROR_FIELDS[0], pa.nulls(len(table), pa.string()))
            if "error" not in table.column_names
            else table
        )
        if "error_detail" not in rows.column_names:
            rows = rows.append_column(ERROR_FIELDS[1], pa.nulls(len(rows), pa.string()))
        staged = write_rows(
            schema, rows.select(schema.arrow.names).to_batches(), area, attempt_id(context.run_id)
        )
        with staged.or_nothing():
            views = view_metadata(area, staged.table(), schema, (), context.log.warning)
            context.add_output_metadata({**report_metadata(staged), **views})
        return staged


def attempt_id(run_id: str) -> str:
    """Unique for each attempt of a run at a step."""
    return f"{run_id}-{uuid.uuid4().hex[:8]}"


def report_metadata(staged: Staged) -> dict[str, Any]:
    """The report of a staged version as metadata of a materialization."""
    report = staged.report
    metadata: dict[str, Any] = {
        # The address of an index may have a key in it.
        name: public(value) if isinstance(value, str) else value
        for name, value in report.items()
        if value is not None and name != "failures"
    }
    metadata["failures"] = dg.MetadataValue.json(_most_frequent(report["failures"]))
    metadata["dagster/partition_row_count"] = report["rows_ok"] + report["rows_failed"]
    metadata["dagster/storage_kind"] = "parquet"
    return metadata


def _most_frequent(failures: Mapping[str, int]) -> dict[str, int]:
    """Error codes and counts; of the many that an asset of a user's own may have, the rest as one."""
    ranked = sorted(failures.items(), key=lambda item: (-item[1], item[0]))
    shown: Counter[str] = Counter()
    for place, (code, count) in enumerate(ranked):
        shown[shortened(public(code), 48) if place < _MAX_CODES else "other codes"] += count
    return dict(shown)


def column_schema(schema: TableSchema) -> dg.TableSchema:
    """A table's columns as Dagster shows them."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                field.name,
                str(field.type),
                constraints=dg.TableColumnConstraints(
                    nullable=True,
                    other=["key"]
                    if field.name in schema.key
                    else ["bookkeeping"]
                    if field.name in schema.bookkeeping
                    else [],
                ),
            )
            for field in schema.arrow
        ]
    )


def _from_pandas(obj: Any, area: Area) -> pa.Table:
    import pandas as pd

    if not isinstance(obj, pd.DataFrame):
        raise TableError(
            f"{area.asset} returned {type(obj).__name__}; the IO manager takes what ComputeResource returns, a "
            "pyarrow.Table or a pandas.DataFrame"
        )
    return pa.Table.from_pandas(obj, preserve_index=False)


def _schema_of(asset: str, table: pa.Table, metadata: Mapping[str, Any]) -> TableSchema:
    columns: Iterator[pa.Field] = (
        field for field in table.schema if field.name not in ("error", "error_detail")
    )
    fields = [*(field.remove_metadata() for field in columns), *ERROR_FIELDS]
    key = metadata.get(KEY_METADATA) or [fields[0].name]
    key = getattr(key, "value", key)
    unknown = [name for name in key if name not in table.column_names]
    if unknown:
        raise TableError(f"{asset}: its metadata {KEY_METADATA} names columns it does not have: {unknown}")
    return TableSchema(asset, tuple(key), pa.schema(fields))
