"""What each filter lets pass, value by value; and the settings that would let nothing pass."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from sd_assets import catalog
from sd_assets.errors import CatalogError
from sd_assets.retrieval.filters import Filters
from sd_assets.retrieval.index import HITS
from sd_assets.settings import HitFilters, RetrievalSettings


def reasons(
    settings: dict[str, Any], kinds: str | list[str] = "image", **columns: list[Any]
) -> list[str | None]:
    """Why each of some candidates is left out; None: it passes."""
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    hits = pa.RecordBatch.from_pylist(
        [{"url": "http://a.example/", "similarity": 0.5, **row} for row in rows], HITS
    )
    each = [kinds] * len(rows) if isinstance(kinds, str) else kinds
    found: list[str | None] = [None] * len(rows)
    for reason, left_out in Filters(HitFilters(**settings)).left_out(
        hits, pa.array(each), np.arange(len(rows))
    ):
        assert left_out.dtype == np.bool_ and left_out.shape == (len(rows),)
        for place in np.flatnonzero(left_out).tolist():
            found[place] = found[place] or str(reason)
    return found


@pytest.mark.parametrize(
    ("settings", "columns", "expected"),
    [
        (
            {"min_width": 100, "max_width": 200},
            {"width": [99, 100, 200, 201, None]},
            ["width", None, None, "width", "width_unknown"],
        ),
        ({"max_height": 200}, {"height": [200, 201, None]}, [None, "height", "height_unknown"]),
        ({"min_height": 200, "unknown_passes": ["height"]}, {"height": [199, None]}, ["height", None]),
        (
            {"max_aspect_ratio": 2},
            {"width": [200, 201, 100, 100, None, 100], "height": [100, 100, 200, 201, 100, None]},
            [None, "aspect_ratio", None, "aspect_ratio", "aspect_ratio_unknown", "aspect_ratio_unknown"],
        ),
        (
            {"max_aspect_ratio": 2, "unknown_passes": ["width"]},
            {"width": [None, 100], "height": [100, None]},
            ["aspect_ratio_unknown"] * 2,
        ),
        (
            {"max_aspect_ratio": 2, "unknown_passes": ["width", "height"]},
            {"width": [None, 300], "height": [100, 100]},
            [None, "aspect_ratio"],
        ),
        (
            {"nsfw": ["UNLIKELY", "unsure"]},
            {"nsfw": ["UNLIKELY", "unlikely ", "UNSURE", "NSFW", "0.01", None, ""]},
            [None, None, None, "nsfw", "nsfw_unknown", "nsfw_unknown", "nsfw_unknown"],
        ),
        (
            {"max_nsfw": 0.3},
            {"nsfw": ["0.3", "0.30001", " 1e-3 ", "1", ".5", "-1", "UNLIKELY", "nan", None]},
            [None, "nsfw", None, "nsfw", "nsfw", None, "nsfw_unknown", "nsfw_unknown", "nsfw_unknown"],
        ),
        (
            {"max_nsfw": 0.3, "nsfw": ["UNLIKELY"]},
            {"nsfw": ["0.2", "0.4", "UNLIKELY", "NSFW", None]},
            [None, "nsfw", None, "nsfw", "nsfw_unknown"],
        ),
        (
            {"licences": ["cc0", "*creativecommons.org/licenses/by/*", "a+b (c)"]},
            {
                "licence": [
                    "CC0",
                    "cc0 1.0",
                    "https://creativecommons.org/licenses/by/2.0/",
                    "https://creativecommons.org/licenses/by-nc/2.0/",
                    "A+B (C)",
                    "aab (c)",
                    "?",
                    None,
                ]
            },
            [None, "licence", None, "licence", None, "licence", "licence_unknown", "licence_unknown"],
        ),
        (
            {"languages": ["en", "de"]},
            {"language": ["en", "EN", "den", "fr", None]},
            [None, None, "language", "language", "language_unknown"],
        ),
        (
            {"hosts": ["A.example"], "refused_hosts": ["evil.a.example"]},
            {
                "url": [
                    "http://a.example/1",
                    "https://www.a.example:8443/1",
                    "http://x.evil.a.example/",
                    "http://ba.example/",
                    "no URL",
                ]
            },
            [None, None, "host", "host", "host"],
        ),
        (
            {"refused_hosts": ["b\u00fccher.example"]},
            {"url": ["http://xn--bcher-kva.example/1", "http://a.example/", "no URL"]},
            ["host", None, None],
        ),
    ],
)
def test_what_passes(
    settings: dict[str, Any], columns: dict[str, list[Any]], expected: list[str | None]
) -> None:
    assert reasons(settings, **columns) == expected
    # In company that has nothing to say, and of a slice.
    assert reasons(settings, **{name: [values[0]] for name, values in columns.items()}) == expected[:1]


def test_similarities_are_judged_by_the_kind_of_the_query() -> None:
    settings = {"min_similarity_images": 0.6, "max_similarity_images": 0.9, "min_similarity_prompts": 0.2}
    kinds = ["image"] * 4 + ["text"] * 3
    similarity = [0.5, 0.6, 0.9, 0.95, 0.1, 0.3, 1.0]
    expected = ["similarity", None, None, "similarity", "similarity", None, None]
    assert reasons(settings, kinds, similarity=similarity) == expected


def test_the_first_reason_counts() -> None:
    assert reasons({"min_width": 9, "languages": ["en"]}, width=[1, 9], language=["fr", "fr"]) == [
        "width",
        "language",
    ]


def test_nothing_asked_for_is_no_filter() -> None:
    assert not Filters(HitFilters())
    assert not Filters(HitFilters(unknown_passes=("width",)))
    assert Filters(HitFilters(min_similarity_prompts=-1))
    needs = Filters(HitFilters(max_aspect_ratio=2, nsfw=("UNLIKELY",), unknown_passes=("nsfw",))).needs
    assert needs == {"width", "height"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_width": 5, "max_width": 4}, r"min_width \(5\) is more than max_width \(4\)"),
        ({"min_similarity_prompts": 0.5, "max_similarity_prompts": 0.2}, "nothing would pass"),
        ({"licences": []}, "`licences` is empty, so nothing would pass"),
        ({"hosts": ["http://a.example/"]}, "name or address of a host, without scheme"),
        ({"min_similarity_images": 2}, "less than or equal to 1"),
        ({"max_aspect_ratio": 0.5}, "greater than or equal to 1"),
        ({"unknown_passes": ["alt_text"]}, "'width', 'height', 'nsfw', 'licence' or 'language'"),
        ({"min_widht": 5}, "min_widht"),
    ],
)
def test_mistakes(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RetrievalSettings(filters=wrong)


def catalogue(tmp_path: Path, shared: dict[str, Any], own: dict[str, Any]) -> catalog.Catalog:
    raw = {
        "defaults": {"clip": {"model": "ViT-B-32", "pretrained": "openai"}, "retrieval": {"filters": shared}},
        "indices": {"laion": {"kind": "faiss", "path": "index"}},
        "seed_datasets": {"one": {"prompts": {"texts": ["x"]}, "retrieval": {"filters": own}}},
    }
    return catalog.parse(raw, tmp_path / "c.yaml")


def test_an_entry_s_filters_go_over_the_shared_ones_one_by_one(tmp_path: Path) -> None:
    shared = {"min_width": 512, "licences": ["cc0"], "nsfw": ["UNLIKELY"]}
    own = {"min_width": 256, "licences": None, "languages": ["en"]}
    filters = catalogue(tmp_path, shared, own).entry("one").retrieval.filters
    assert (filters.min_width, filters.licences, filters.nsfw, filters.languages) == (
        256,
        None,
        ("UNLIKELY",),
        ("en",),
    )


def test_a_mistake_is_said_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(
        CatalogError,
        match=r"seed_datasets\.one\.retrieval\.filters\.min_widht: unknown field; .*did you mean 'min_width'",
    ):
        catalogue(tmp_path, {}, {"min_widht": 5})
    with pytest.raises(CatalogError, match=r"seed_datasets\.one\.retrieval\.filters: .*`hosts` is empty"):
        catalogue(tmp_path, {}, {"hosts": []})
    with pytest.raises(
        CatalogError, match=r"filters\.hosts\.0: must be the name or address.*got 'http://a.example/'"
    ):
        catalogue(tmp_path, {}, {"hosts": ["http://a.example/"]})
