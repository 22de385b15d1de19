"""The dataset card: `README.md` of the repository, in the Hub's form (https://huggingface.co/docs/hub/datasets-cards)."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from PIL import Image

from sd_assets.curation.splits import SPLITS
from sd_assets.errors import RowError
from sd_assets.exports.parquet import schema_of
from sd_assets.images import decode_rgb, encode
from sd_assets.publishing.facts import UNKNOWN, Facts
from sd_assets.settings import HubSource, PushToHubSettings, SeedDataset, UrlsSource
from sd_assets.views.markdown import code, table
from sd_assets.views.text import public, public_json, shortened

CONTACT_SHEET: Final = "contact_sheet.jpg"
SAMPLES: Final = 24
# Raise it when the same facts come to give another card.
VERSION: Final = "2"
_TILES_A_ROW = 6
_SIDE, _GAP = 160, 8  # pixels
_MAX_LISTED = 20
_QUANTILES = {"min": 0.0, "5%": 0.05, "median": 0.5, "95%": 0.95, "max": 1.0}
# The Hub's classes of sizes: fewer than so many rows.
_SIZES = {
    10**3: "n<1K",
    10**4: "1K<n<10K",
    10**5: "10K<n<100K",
    10**6: "100K<n<1M",
    10**7: "1M<n<10M",
    10**8: "10M<n<100M",
}
_COLUMNS = {
    "image": "the image",
    "text": "its caption, or the list of its captions",
    "image_id": "sha256 of the image's bytes as they first came: what names it everywhere",
    "width": "pixels",
    "height": "pixels",
    "original_width": "pixels, before it was resized",
    "original_height": "likewise",
    "origin": "`seed`, or `retrieved` from the web",
    "url": "where it was retrieved from, without what may be a secret (query, password); empty: it was not",
    "licence": "as the corpus that it was found in says; empty: it does not",
    "source_text": "the text that the image came with: the seed's own, or the alt text of the web",
    "query_ids": "the seeds and prompts that found it: the image_id of an image, the sha256 of a text",
    "caption_models": "which model made each caption; an empty text: the image came with it",
    "provenance": "JSON: the row of the source that a seed is, and the queries that found an image, with index, CLIP, rank and similarity",
    "resolution": "pixels of the shorter side, as it came",
    "aspect_ratio": "the longer side over the shorter",
    "sharpness": "the more the sharper",
    "blockiness": "of JPEG's blocks: the more the coarser",
    "flat_border": "share of the area that is a border of one colour",
    "alignment": "CLIP's cosine of the image and its worst caption",
    "similarity": "of the image and what found it, as the index has it",
    "aesthetic": "the more the better, as the model below has it",
    "nsfw": "0 to 1, as the model below has it",
    "own_scores": "further scores",
}


@dataclass(frozen=True)
class Published:
    """What a card is of.

    Attributes:
        partition: of the seed dataset.
        entry: of the catalogue.
        settings: of the push.
        facts: of the partition.
        splits: pairs in the files of each split.
        failures: pairs that are kept, but could not be written, by error code.
        data_version: of `curated_pairs`.
        captions: of the first row of the contact sheet.
    """

    partition: str
    entry: SeedDataset
    settings: PushToHubSettings
    facts: Facts
    splits: Mapping[str, int]
    failures: Mapping[str, int]
    data_version: str
    captions: Sequence[str]


def contact_sheet(images: Iterable[bytes]) -> bytes:
    """A JPEG with a thumbnail of each image, six a row; one that cannot be decoded stays white."""
    tiles = [_thumbnail(data) for data in images]
    step = _SIDE + _GAP
    rows = -(-len(tiles) // _TILES_A_ROW)
    paper = Image.new("RGB", (_GAP + min(len(tiles), _TILES_A_ROW) * step, _GAP + rows * step), "white")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, _TILES_A_ROW)
        if tile is not None:
            width, height = tile.size
            paper.paste(
                tile,
                (_GAP + column * step + (_SIDE - width) // 2, _GAP + row * step + (_SIDE - height) // 2),
            )
    return encode(paper, "jpg", 85)


def _thumbnail(data: bytes) -> Image.Image | None:
    try:
        image = decode_rgb(data, at_least=2 * _SIDE)
    except RowError:
        return None
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return image


def first_row(captions: Sequence[str]) -> Sequence[str]:
    """Of captions in the order of a contact sheet those of its first row."""
    return captions[:_TILES_A_ROW]


def card(of: Published) -> str:
    """The card. What the web wrote stands in it as code: it is no markup, and no secret of a URL is shown."""
    parts = [
        _front_matter(of),
        f"# {_title(of)}",
        *([of.entry.description.strip()] if of.entry.description.strip() else []),
        f"![some of the images]({CONTACT_SHEET})",
        *_captions(of.captions),
        *_contents(of),
        *_origin(of),
        *_models(of.facts),
        *_curation(of),
        *_distributions(of.facts),
        *_limits(of.facts),
        *_removal(of.settings),
        f"Made by sd_assets from `curated_pairs` of `{of.partition}`, data version `{of.data_version}`.",
    ]
    return "\n\n".join(parts) + "\n"


def _title(of: Published) -> str:
    return shortened(of.settings.title or of.settings.repo_id.partition("/")[2], 200)


def _front_matter(of: Published) -> str:
    """YAML; JSON is YAML, too, and quotes what must be quoted."""
    pairs = sum(of.splits.values())
    data = [{"split": split, "path": f"data/{split}/*.parquet"} for split in SPLITS if of.splits.get(split)]
    said: dict[str, Any] = {
        "pretty_name": _title(of),
        "license": of.settings.licence,
        "task_categories": ["text-to-image"],
        "size_categories": [next((name for size, name in _SIZES.items() if pairs < size), "n>100M")],
        "tags": ["sd_assets"],
        "configs": [{"config_name": "default", "data_files": data}],
    }
    lines = (f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in said.items())
    return "\n".join(["---", *lines, "---"])


def _captions(captions: Sequence[str]) -> Iterator[str]:
    if captions:
        listed = "\n".join(f"{number}. {_quoted(caption)}" for number, caption in enumerate(captions, 1))
        yield f"The captions of the first row:\n\n{listed}"


def _contents(of: Published) -> Iterator[str]:
    facts = of.facts
    counts = [[code(split), f"{of.splits[split]:,}"] for split in SPLITS if of.splits.get(split)]
    yield "## What is in it"
    yield f"{facts.pairs:,} images with {facts.captions:,} captions: {_listed(facts.origins)}."
    if of.failures:
        failed = ", ".join(f"{count:,} {code(error)}" for error, count in of.failures.items())
        yield f"Not in the files, as they could not be written: {failed}."
    yield table(["split", "pairs"], counts, numbers=[1])
    yield f'```python\nfrom datasets import load_dataset\n\nload_dataset("{of.settings.repo_id}", split="train")\n```'
    fields = schema_of(all_captions=of.settings.all_captions)
    rows = [[code(field.name), code(_kind(field)), _COLUMNS[field.name]] for field in fields]
    yield table(["column", "type", ""], rows)


def _kind(field: pa.Field) -> str:
    return "image" if field.name == "image" else str(field.type)


def _origin(of: Published) -> Iterator[str]:
    facts = of.facts
    yield "## Where it comes from"
    yield f"- seed images: {_source(of)}\n- seed prompts: {facts.prompts:,}\n- indices that were searched: {_codes(facts.indices)}"
    rows = [[code(stage.table), f"{stage.ok:,}", f"{stage.failed:,}"] for stage in facts.stages]
    yield table(["table", "rows", "failed"], rows, numbers=[1, 2])
    if facts.hosts:
        yield f"{facts.hosts.total():,} pairs have a URL; hosts: {len(facts.hosts):,}"
        yield _frequent("host", facts.hosts)
        yield "Their licences, as the corpus that they were found in has them:"
        yield _frequent("licence", facts.licences)


def _source(of: Published) -> str:
    source = of.entry.source
    if isinstance(source, HubSource):
        return f"the Hub dataset {code(source.id)}, commit {_codes(of.facts.revisions)}"
    if isinstance(source, UrlsSource):
        return "a list of URLs"
    return "none" if source is None else "images of whoever published this"


def _models(facts: Facts) -> Iterator[str]:
    yield "## Models"
    rows = [[what, _codes(names)] for what, names in facts.models.items()]
    yield table(["for", "model and revision"], rows) if rows else "None."


def _curation(of: Published) -> Iterator[str]:
    steps = of.facts.funnel
    yield "## What was left out"
    rows = [["all pairs", "", f"{steps.pairs:,}"]]
    rows += [[code(step.reason), f"{step.against:,}", f"{step.left:,}"] for step in steps.steps]
    yield table(["reason", "pairs that it is against", "left"], rows, numbers=[1, 2])
    asked = {
        name: value for name, value in of.entry.curation.effects().items() if value not in (None, [], {})
    }
    yield f"What was asked for:\n\n```json\n{json.dumps(public_json(asked), indent=1, ensure_ascii=False)}\n```"


def _distributions(facts: Facts) -> Iterator[str]:
    yield "## Distributions"
    rows = [
        [
            code(name),
            f"{len(values):,}",
            *(f"{value:.4g}" for value in np.quantile(values, list(_QUANTILES.values()))),
        ]
        for name, values in facts.scores.items()
    ]
    header = ["score", "n", *_QUANTILES]
    yield table(header, rows, numbers=range(1, len(header))) if rows else "No scores."


def _limits(facts: Facts) -> Iterator[str]:
    yield "## Known limits"
    limits = [
        "Captions that a model made may name what is not there, or leave out what is; `caption_models` says which these are.",
    ]
    if facts.origins["retrieved"]:
        limits += [
            "Retrieved images belong to whoever made them. A licence is what the corpus says, which nobody has checked; "
            f"{facts.licences[UNKNOWN]:,} pairs have none.",
            "They were found by their likeness to the seeds, so the set has the bias of the seeds, of the index and of the CLIP "
            "that searched it.",
        ]
    if "nsfw" not in facts.scores:
        limits.append("Nothing was judged by how safe it is to look at.")
    if "aesthetic" not in facts.scores:
        limits.append("Nothing was judged by its aesthetics.")
    limits.append(
        "Near-duplicates are found by perceptual hashes and embeddings: some are missed, and some pairs that merely look alike "
        "are taken for one. Splits are by image: different pictures of one scene may be in both."
    )
    yield "\n".join(f"- {limit}" for limit in limits)


def _removal(settings: PushToHubSettings) -> Iterator[str]:
    community = f"https://huggingface.co/datasets/{settings.repo_id}/discussions"
    whom = (
        f"write to {settings.contact}"
        if settings.contact
        else f"open a discussion in the Community tab ({community})"
    )
    yield "## To have an image removed"
    yield (
        f"If an image is yours, or shows you, {whom} and name its `image_id` or its URL. It is then blocked: it goes from this set with "
        "the next version, and does not come back. Earlier commits keep it until the repository's history is squashed."
    )


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.most_common())


def _frequent(name: str, counts: Counter[str]) -> str:
    """The most frequent of what was counted; the rest as one."""
    most = counts.most_common(_MAX_LISTED)
    rows = [[code(shortened(public(each), 100)), f"{count:,}"] for each, count in most]
    if rest := counts.total() - sum(count for _, count in most):
        rows.append([f"{len(counts) - len(most):,} others", f"{rest:,}"])
    return table([name, "pairs"], rows, numbers=[1])


def _codes(names: Iterable[str]) -> str:
    return ", ".join(code(shortened(public(name), 200)) for name in names) or "none"


def _quoted(text: str) -> str:
    return code(shortened(public(text), 200))
