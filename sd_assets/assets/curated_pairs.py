"""The asset curated_pairs."""

import json
from collections.abc import Sequence
from typing import Final

import dagster as dg

from sd_assets.assets.common import SEEDS, seed_asset
from sd_assets.curation.funnel import funnel
from sd_assets.curation.names import reserved_names
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.schemas import CURATED_PAIRS
from sd_assets.stages.curate import VERSION, Judgements, curation_rows
from sd_assets.stages.stage import InputCounts
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table
from sd_assets.views.funnel import funnel_view

# The arguments of the asset that are scorers begin so: their names are a user's.
_SCORER = "scorer_"


def curated_pairs_of(scorers: Sequence[dg.AssetsDefinition] = ()) -> dg.AssetsDefinition:
    """The asset curated_pairs.

    Args:
        scorers: assets whose tables have a row for each pair, by `image_id`, and in a column of the asset's name its score.

    Raises:
        ValueError: one of them is none, or has a name that means something else.
    """
    names = {_scorer_name(scorer): scorer.key for scorer in scorers}
    if len(names) < len(scorers):
        raise ValueError("two of the scorers have one name")

    @seed_asset(
        "curation",
        VERSION,
        sections=["curation"],
        ins={f"{_SCORER}{name}": dg.AssetIn(key) for name, key in names.items()},
    )
    def curated_pairs(
        context: dg.AssetExecutionContext,
        text_image_pairs: Table,
        image_quality: Table,
        alignment_scores: Table,
        aesthetic_scores: Table,
        nsfw_scores: Table,
        near_duplicates: Table,
        catalog: CatalogResource,
        compute: ComputeResource,
        **own: Table,
    ) -> dg.MaterializeResult[Staged]:
        """Of every pair whether it is kept, in which split, and all reasons against it."""
        settings = catalog.entry(context.partition_key).curation
        judgements = Judgements(
            image_quality,
            alignment_scores,
            aesthetic_scores,
            nsfw_scores,
            near_duplicates,
            {name.removeprefix(_SCORER): table for name, table in own.items()},
        )
        counts = InputCounts()
        rows = curation_rows(text_image_pairs, judgements, settings, counts)
        asked = json.dumps([settings.effects(), sorted(names)], sort_keys=True)
        # The pairs by their name alone: given as a table, some of their images would be read for a contact sheet.
        made_from = [VERSION, asked, text_image_pairs.identity]
        return with_funnel(
            compute.write(context, CURATED_PAIRS, rows, counts, made_from=[*made_from, *judgements.tables])
        )

    return curated_pairs


def with_funnel(result: dg.MaterializeResult[Staged]) -> dg.MaterializeResult[Staged]:
    """The result with what became of the pairs as metadata."""
    with result.value.or_nothing():
        found = funnel(result.value.table())
        metadata = {
            **(result.metadata or {}),
            "rows_kept": found.kept,
            **{f"rows_{split}": count for split, count in found.splits.items()},
            "funnel": dg.MetadataValue.md(funnel_view(found)),
            "reasons": dg.MetadataValue.json({step.reason: step.against for step in found.steps}),
        }
    return result._replace(metadata=metadata)


def _scorer_name(scorer: dg.AssetsDefinition) -> str:
    key = scorer.key
    name = "/".join(key.path)
    taken = reserved_names()
    if len(key.path) > 1 or not name.isidentifier() or name in taken:
        raise ValueError(
            f"the scorer {name}: its name is that of its score, so it must be one word of letters, digits and `_`, and none of: "
            f"{', '.join(taken)}"
        )
    if scorer.partitions_def != SEEDS:
        raise ValueError(
            f"the scorer {name} must have a partition per seed dataset: decorate it with `seed_asset`, or give it "
            "`partitions_def=SEEDS`"
        )
    return name


curated_pairs: Final = curated_pairs_of()
