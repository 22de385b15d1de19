"""The checks of our tables, in the order in which the tables are made."""

from collections.abc import Iterator
from functools import partial
from typing import Final

import dagster as dg

from sd_assets.checks.common import Tables, table_checks
from sd_assets.quality import captions, curation, embeddings, pairs, similarities
from sd_assets.quality.finding import Finding
from sd_assets.quality.rows import FAILURES, HAS_ROWS, judge_failures, judge_presence
from sd_assets.settings import SeedDataset


def _seed_images(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("seed_images", tables, seed, wanted=seed.source is not None)


def _seed_prompts(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("seed_prompts", tables, seed, wanted=seed.prompts is not None)


def _seed_embeddings(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("seed_embeddings", tables, seed)
    yield from embeddings.judge_embeddings(tables("seed_embeddings"), seed.checks)


def _retrieval_hits(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _failures("retrieval_hits", tables, seed)
    yield from similarities.judge_hits(tables("retrieval_hits"), seed.checks)


def _retrieved_image_urls(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("retrieved_image_urls", tables, seed)
    yield from similarities.judge_urls(tables("retrieved_image_urls"))


def _image_captions(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("image_captions", tables, seed)
    yield from captions.judge_captions(tables("image_captions"), seed.checks)


def _text_image_pairs(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("text_image_pairs", tables, seed)
    yield from pairs.judge_pairs(
        *map(tables, ("text_image_pairs", "image_captions", "seed_images", "downloaded_images"))
    )


def _image_embeddings(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("image_embeddings", tables, seed)
    yield from embeddings.judge_embeddings(tables("image_embeddings"), seed.checks)


def _aesthetic_scores(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("aesthetic_scores", tables, seed, wanted=seed.scores.aesthetic is not None)


def _nsfw_scores(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("nsfw_scores", tables, seed, wanted=seed.scores.nsfw is not None)


def _held_out_images(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("held_out_images", tables, seed, wanted=seed.near_duplicates.keep_out is not None)


def _near_duplicates(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("near_duplicates", tables, seed)
    yield from curation.judge_clusters(tables("near_duplicates"), seed.checks)


def _curated_pairs(tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from _rows("curated_pairs", tables, seed)
    yield from curation.judge_kept(tables("curated_pairs"), seed.checks)


def _rows(name: str, tables: Tables, seed: SeedDataset, *, wanted: bool = True) -> Iterator[Finding]:
    yield from judge_presence(tables(name), wanted=wanted)
    yield from _failures(name, tables, seed)


def _failures(name: str, tables: Tables, seed: SeedDataset) -> Iterator[Finding]:
    yield from judge_failures(tables(name), name, seed.checks.max_failed[name])


_OF_ROWS = (HAS_ROWS, FAILURES)

CHECKS: Final[list[dg.AssetChecksDefinition]] = [
    table_checks("seed_images", _OF_ROWS, _seed_images),
    table_checks("seed_prompts", _OF_ROWS, _seed_prompts),
    table_checks("seed_embeddings", (*_OF_ROWS, embeddings.FINITE, embeddings.UNIT_LENGTH), _seed_embeddings),
    table_checks(
        "retrieval_hits", (FAILURES, similarities.HAVE_HITS, similarities.SIMILARITIES), _retrieval_hits
    ),
    table_checks("retrieved_image_urls", (*_OF_ROWS, similarities.URL_SIMILARITIES), _retrieved_image_urls),
    # Without HAS_ROWS: who lets all downloads fail (max_failed 1) wants the captions of the seeds.
    table_checks("downloaded_images", (FAILURES,), partial(_failures, "downloaded_images")),
    table_checks(
        "image_captions",
        (
            *_OF_ROWS,
            captions.NOT_EMPTY,
            captions.CAPTIONER_VARIES,
            captions.FEW_REPEATED,
            captions.CAPTIONS_DIFFER,
            captions.LENGTHS,
        ),
        _image_captions,
    ),
    table_checks("text_image_pairs", (*_OF_ROWS, pairs.MATCH_CAPTIONS), _text_image_pairs),
    table_checks(
        "image_embeddings", (*_OF_ROWS, embeddings.FINITE, embeddings.UNIT_LENGTH), _image_embeddings
    ),
    table_checks("image_quality", _OF_ROWS, partial(_rows, "image_quality")),
    table_checks("alignment_scores", _OF_ROWS, partial(_rows, "alignment_scores")),
    table_checks("aesthetic_scores", _OF_ROWS, _aesthetic_scores),
    table_checks("nsfw_scores", _OF_ROWS, _nsfw_scores),
    table_checks("held_out_images", _OF_ROWS, _held_out_images),
    table_checks("near_duplicates", (*_OF_ROWS, curation.SMALL_CLUSTERS), _near_duplicates),
    table_checks("curated_pairs", (*_OF_ROWS, curation.ENOUGH_KEPT), _curated_pairs),
]
