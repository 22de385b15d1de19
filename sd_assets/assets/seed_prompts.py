"""The asset seed_prompts."""

import dagster as dg

from sd_assets.assets.common import seed_asset
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.schemas import SEED_PROMPTS
from sd_assets.sources.prompts import read_prompts
from sd_assets.stages.seeds import prompt_batches
from sd_assets.storage.staging import Staged


@seed_asset("seeds", "1", sections=["prompts"])
def seed_prompts(
    context: dg.AssetExecutionContext, catalog: CatalogResource, compute: ComputeResource
) -> dg.MaterializeResult[Staged]:
    """The prompts that a seed dataset starts from, each once."""
    prompts = catalog.entry(context.partition_key).prompts
    rows = read_prompts(prompts) if prompts else iter(())
    return compute.write(context, SEED_PROMPTS, prompt_batches(rows))
