"""The catalogue's entry of a seed dataset, section by section, as assets: an edit shows what it makes stale."""

import hashlib
import json
from collections.abc import Iterator
from typing import Any, Final

import dagster as dg

from sd_assets.assets.common import SEEDS, section_key
from sd_assets.resources.catalog import CatalogResource
from sd_assets.views.text import public_json

SECTIONS: Final = {
    "source": "Where the seed images come from.",
    "prompts": "The seed prompts.",
    "clip": "Which CLIP embeds the seeds.",
    "retrieval": "Which index is asked for how many images, and what that index is.",
    "download": "How images are judged and resized.",
    "captioner": "Which model captions the images, and how.",
    "scores": "Which models say how beautiful an image is, and how safe to look at.",
    "near_duplicates": "When two images are the same picture, and the entries that they are looked for in.",
    "keep_out": "Which images must not be trained on.",
    "curation": "Which pairs are kept: thresholds, licences, hosts, caps, splits.",
    "exports": "In which layouts the curated pairs are written.",
    "push_to_hub": "To which dataset of the Hub they are pushed, and what its card says.",
    "blocked": "What was taken down, of all entries: how much, and a digest that changes with it.",
}
# Raise it when the same settings come to mean something else.
VERSION: Final = "1"


@dg.multi_asset(
    name="catalog_entry",
    specs=[
        dg.AssetSpec(
            section_key(name), description=what, group_name="catalog", code_version=VERSION, kinds={"yaml"}
        )
        for name, what in SECTIONS.items()
    ],
    partitions_def=SEEDS,
    can_subset=True,
)
def catalog_entry(
    context: dg.AssetExecutionContext, catalog: CatalogResource
) -> Iterator[dg.MaterializeResult[None]]:
    """What the catalogue says of a seed dataset; only what changes what comes out, no timeouts or batch sizes."""
    for name, section in catalog.read().sections(context.partition_key).items():
        if section_key(name) in context.selected_asset_keys:
            yield dg.MaterializeResult(
                asset_key=section_key(name),
                data_version=dg.DataVersion(section_digest(section)),
                metadata=section_metadata(section),
            )


def section_digest(section: dict[str, Any]) -> str:
    """The data version of a section: it changes with what the section says, in whatever order."""
    return hashlib.sha256(json.dumps([VERSION, section], sort_keys=True).encode()).hexdigest()


def section_metadata(section: dict[str, Any]) -> dict[str, Any]:
    """What the UI shows of a section: the beginnings of long lists, and no secrets, which the address of a service may hold."""
    return {"settings": dg.MetadataValue.json(public_json(section))}
