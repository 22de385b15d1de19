"""The asset nsfw_scores."""

import dagster as dg

from sd_assets.assets.common import GPU_POOL, seed_asset
from sd_assets.assets.model_scores import scored
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.resources.models import ScoreModelResource
from sd_assets.schemas import NSFW_SCORES
from sd_assets.stages.model_score import VERSION
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table


@seed_asset("scores", VERSION, sections=["scores"], kinds=frozenset({"pytorch"}), pool=GPU_POOL)
def nsfw_scores(
    context: dg.AssetExecutionContext,
    text_image_pairs: Table,
    image_embeddings: Table,
    catalog: CatalogResource,
    score_models: ScoreModelResource,
    compute: ComputeResource,
) -> dg.MaterializeResult[Staged]:
    """How unsafe to look at every image is, by the model that the entry names; empty if it names none."""
    asked = catalog.entry(context.partition_key).scores.nsfw
    model = score_models.model(asked, "nsfw") if asked is not None else None
    return scored(context, compute, NSFW_SCORES, model, text_image_pairs, image_embeddings)
