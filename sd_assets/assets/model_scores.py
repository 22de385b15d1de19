"""The assets aesthetic_scores and nsfw_scores: scores by a model of their own."""

import dagster as dg

from sd_assets.assets.common import GPU_POOL, seed_asset
from sd_assets.models.scoring.head import Head
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.resources.models import ScoreModelResource
from sd_assets.schemas import AESTHETIC_SCORES, NSFW_SCORES, TableSchema
from sd_assets.stages.embedded import embedded_rows
from sd_assets.stages.model_score import VERSION, ClassifierStage, HeadStage
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table

NOT_ASKED_FOR = "not asked for: see `scores:` of the catalogue"


def _scores_by_a_model(score: str, schema: TableSchema, description: str) -> dg.AssetsDefinition:
    """The asset of a field of `scores:`.

    Args:
        score: the field, and the column.
        schema: of the table; its name is that of the asset.
        description: of the asset.
    """

    @seed_asset(
        "scores",
        VERSION,
        name=schema.name,
        description=description,
        sections=["scores"],
        kinds=frozenset({"pytorch"}),
        pool=GPU_POOL,
    )
    def scores(
        context: dg.AssetExecutionContext,
        text_image_pairs: Table,
        image_embeddings: Table,
        catalog: CatalogResource,
        score_models: ScoreModelResource,
        compute: ComputeResource,
    ) -> dg.MaterializeResult[Staged]:
        asked = getattr(catalog.entry(context.partition_key).scores, score)
        if asked is None:
            context.log.info(NOT_ASKED_FOR)
            return compute.write(context, schema, (), made_from=[NOT_ASKED_FOR])
        model = score_models.model(asked, score)
        if isinstance(model, Head):
            rows = embedded_rows(image_embeddings)
            return compute.run(context, HeadStage(schema, model), rows, made_from=[image_embeddings])
        images = text_image_pairs.rows(["image_id", "image", "error"])
        return compute.run(context, ClassifierStage(schema, model), images, made_from=[text_image_pairs])

    return scores


aesthetic_scores = _scores_by_a_model(
    "aesthetic",
    AESTHETIC_SCORES,
    "How beautiful every image is, by the model that the entry names; empty if it names none.",
)

nsfw_scores = _scores_by_a_model(
    "nsfw",
    NSFW_SCORES,
    "How unsafe to look at every image is, by the model that the entry names; empty if it names none.",
)
