"""What the assets of scores by a model of their own have in common."""

import dagster as dg

from sd_assets.models.scoring.classifier import ImageClassifier
from sd_assets.models.scoring.head import Head
from sd_assets.resources.compute import ComputeResource
from sd_assets.schemas import TableSchema
from sd_assets.stages.embedded import embedded_rows
from sd_assets.stages.model_score import ClassifierStage, HeadStage
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table

NOT_ASKED_FOR = "not asked for: see `scores:` of the catalogue"


def scored(
    context: dg.AssetExecutionContext,
    compute: ComputeResource,
    schema: TableSchema,
    model: Head | ImageClassifier | None,
    text_image_pairs: Table,
    image_embeddings: Table,
) -> dg.MaterializeResult[Staged]:
    """The scores of every image by a model; without one an empty table."""
    if model is None:
        context.log.info(NOT_ASKED_FOR)
        return compute.write(context, schema, (), made_from=[NOT_ASKED_FOR])
    if isinstance(model, Head):
        rows = embedded_rows(image_embeddings)
        return compute.run(context, HeadStage(schema, model), rows, made_from=[image_embeddings])
    images = text_image_pairs.rows(["image_id", "image", "error"])
    return compute.run(context, ClassifierStage(schema, model), images, made_from=[text_image_pairs])
