"""What all assets share."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import dagster as dg

from sd_assets import catalog
from sd_assets.settings import FaissIndexSettings

# Read when the code location loads: after adding an entry or an index, reload it.
CATALOG: Final = catalog.load()

# One partition per entry of the catalogue.
SEEDS: Final = dg.StaticPartitionsDefinition(list(CATALOG.seed_datasets))

# One partition per index of the catalogue that is a folder; there may be none.
INDICES: Final = dg.StaticPartitionsDefinition(
    [name for name, index in CATALOG.indices.items() if isinstance(index, FaissIndexSettings)]
)

# Assets that hold a model on the device; dagster.yaml limits how many run at once.
GPU_POOL: Final = "gpu"


def section_key(section: str) -> dg.AssetKey:
    """The asset that stands for a section of the catalogue's entries; see `assets.catalog_entry`."""
    return dg.AssetKey(["catalog", section])


def seed_asset(
    group_name: str,
    code_version: str,
    *,
    name: str | None = None,
    description: str | None = None,
    sections: Sequence[str] = (),
    deps: Sequence[dg.AssetKey | dg.AssetDep] = (),
    ins: Mapping[str, dg.AssetIn] | None = None,
    kinds: frozenset[str] = frozenset(),
    pool: str | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """An asset with one partition per seed dataset, kept as Parquet.

    Args:
        group_name: as the asset graph shows it.
        code_version: of the stage: Dagster shows what is stale by it.
        name: of the asset; None: that of the function.
        description: of the asset; None: the function's docstring.
        sections: of the catalogue's entry that it reads: an edit of one shows the asset as stale.
        deps: further assets that it is made from, which it does not take as arguments.
        ins: arguments that are assets of another name.
        kinds: of tool, besides Parquet.
        pool: that limits how many such assets run at once.
    """
    return dg.asset(
        name=name,
        description=description,
        partitions_def=SEEDS,
        io_manager_key="parquet",
        group_name=group_name,
        deps=[*map(section_key, sections), *deps],
        ins=ins,
        code_version=code_version,
        kinds={"parquet", *kinds},
        pool=pool,
        owners=["team:sd_assets"],
    )


def not_asked_for(note: str, key: dg.AssetKey | None = None) -> dg.MaterializeResult[None]:
    """Of an asset that an entry does not choose: a materialization all the same, as a backfill counts one without as failed.

    Args:
        note: that the UI shows.
        key: of the asset, where a step has several.
    """
    return dg.MaterializeResult(asset_key=key, data_version=dg.DataVersion("none"), metadata={"note": note})
