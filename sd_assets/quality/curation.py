"""near_duplicates and curated_pairs: whether what they leave out is what one would expect."""

from collections.abc import Iterator
from typing import Final

import pyarrow.compute as pc

from sd_assets.curation.funnel import funnel
from sd_assets.quality.finding import Check, Finding, Severity, percent
from sd_assets.settings import CheckSettings
from sd_assets.storage.table import Table

SMALL_CLUSTERS = Check(
    "clusters_are_small",
    Severity.WARNING,
    "The share of the images that are one cluster of near-duplicates, against `checks.max_in_one_cluster` of the catalogue: "
    "pictures that are not the same become one cluster where the thresholds do not fit the CLIP.",
)
ENOUGH_KEPT = Check(
    "enough_are_kept",
    Severity.WARNING,
    "The share of the pairs that are kept, against `checks.min_kept` of the catalogue; and that there is one at all.",
)

# Of so few images a pair of copies is a large share.
LEAST_JUDGED: Final = 50


def judge_clusters(near_duplicates: Table, settings: CheckSettings) -> Iterator[Finding]:
    """`SMALL_CLUSTERS`; from 50 images on."""
    images = largest = clusters = alone = 0
    for batch in near_duplicates.batches(["image_id", "cluster", "cluster_size"]):
        sizes = batch.column("cluster_size")
        images += len(batch)
        largest = max(largest, pc.max(sizes).as_py() or 0)
        # The image that names a cluster stands for it.
        clusters += pc.sum(pc.equal(batch.column("image_id"), batch.column("cluster"))).as_py() or 0
        alone += pc.sum(pc.equal(sizes, 1)).as_py() or 0
    share = largest / images if images else 0.0
    passed = share <= settings.max_in_one_cluster or images < LEAST_JUDGED
    said = (
        f"{images - alone} of {images} images are in {clusters - alone} clusters; the largest has {largest}"
    )
    if not passed:
        said += (
            f", and checks.max_in_one_cluster is {percent(settings.max_in_one_cluster)}: look at its images, and if they are "
            "different pictures, raise `min_cosine` and `min_cosine_of_hashes` of `near_duplicates:`"
        )
    yield SMALL_CLUSTERS.found(
        passed,
        said,
        images=images,
        in_clusters=images - alone,
        clusters=clusters - alone,
        largest=largest,
        limit=settings.max_in_one_cluster,
    )


def judge_kept(curated_pairs: Table, settings: CheckSettings) -> Iterator[Finding]:
    """`ENOUGH_KEPT`."""
    found = funnel(curated_pairs)
    share = found.kept / found.pairs if found.pairs else 0.0
    passed = found.kept > 0 and share >= settings.min_kept
    worst = sorted(found.steps, key=lambda step: -step.against)[:3]
    named = ", ".join(f"{step.reason} {step.against}" for step in worst) or "nothing"
    said = f"{found.kept} of {found.pairs} pairs ({percent(share)}) are kept; against the others speak most: {named}"
    if not passed:
        said += (
            f", and checks.min_kept is {percent(settings.min_kept)}: look at the distributions of the scores, and loosen "
            "`curation:` of the catalogue where it asks for too much"
        )
    yield ENOUGH_KEPT.found(
        passed, said, pairs=found.pairs, kept=found.kept, share_kept=share, limit=settings.min_kept
    )
