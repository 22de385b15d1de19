"""The provenance of an image as lines of text, for a person."""

from collections.abc import Iterator
from typing import Any

from sd_assets.provenance.tables import Row
from sd_assets.provenance.tracing import Provenance
from sd_assets.views.text import shortened, visible

# Columns of tables that images are judged by that are no scores.
_NO_SCORES = frozenset({"image_id", "model", "error", "error_detail"})


def told(found: Provenance) -> Iterator[str]:
    """What was found as lines of text, from where the image comes from to whether it is kept."""
    yield f"image {found.image_id} of {found.partition}"
    if found.seed is not None:
        yield _line(
            "seed", _seed(found.seed), _size(found.seed), _quoted(found.seed["text"]), found.seed["error"]
        )
    for download in found.downloads:
        row, known = download.row, download.known or {}
        came = f"{row['original_width']} x {row['original_height']}, {row['original_bytes']} bytes, kept as {_size(row)}"
        yield _line(
            "downloaded",
            row["url"],
            f"at {row['fetched_at']}",
            f"HTTP {row['http_status']}",
            came,
            row["error"],
        )
        if row["redirected_to"] is not None:
            yield _line("", f"redirected to {row['redirected_to']}")
        yield _line("", _alt_text(known.get("alt_text")), f"licence {known.get('licence') or 'unknown'}")
        for query in download.queries:
            asked = (
                f"prompt {_quoted(query.prompt)}"
                if query.seed is None
                else f"seed {query.query_id}, {_seed(query.seed)}"
            )
            by = (
                f"rank {query.rank}",
                f"similarity {query.similarity:.4f}",
                f"index {query.index}",
                f"CLIP {query.model}",
            )
            yield _line("  found by", asked, *by)
    for row in found.captions:
        yield _line("caption", _quoted(row["caption"]), row["variant"], row["model"], row["error"])
    for name, row in found.judged.items():
        scores = (
            f"{score} {_value(value)}"
            for score, value in row.items()
            if score not in _NO_SCORES and value is not None
        )
        yield _line(name.replace("_", " "), *scores, row.get("model"), row["error"])
    if (near := found.near_duplicates) is not None:
        nearest = f"nearest {near['nearest']}, {near['hash_distance']} bits, cosine {_value(near['cosine'])}"
        others = [*(near["held_out"] or ()), *(near["elsewhere"] or ())]
        yield _line(
            "near-duplicates",
            f"cluster of {near['cluster_size']}",
            nearest if near["nearest"] else None,
            *others,
            near["error"],
        )
    if (curation := found.curation) is not None:
        verdict = (
            f"kept, {curation['split']}"
            if curation["keep"]
            else "left out: " + ", ".join(curation["reasons"] or ())
        )
        yield _line("curated", verdict, curation["error"])
    elif found.pair is None:
        yield _line("no pair", "text_image_pairs has no such image")
    yield _line("read from", *(f"{name} {version.number}" for name, version in found.versions.items()))


def _line(name: str, *facts: str | None) -> str:
    # What the web wrote must not steer a terminal.
    return visible(f"  {name:<16} {'; '.join(fact for fact in facts if fact)}")


def _seed(row: Row) -> str:
    return ", ".join(
        f"{name} {row[column]}"
        for name, column in (("source", "source"), ("revision", "source_revision"), ("row", "source_row"))
        if row[column] is not None
    )


def _size(row: Row) -> str:
    return f"{row['width']} x {row['height']} {row['format']}"


def _quoted(text: str | None) -> str | None:
    return None if text is None else f"“{shortened(text, 200)}”"


def _alt_text(text: str | None) -> str | None:
    return text and f"alt text {_quoted(text)}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
