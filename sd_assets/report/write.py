"""Writing the report of a partition: thumbnails, the pairs in chunks, the page."""

import hashlib
import html
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files as resources
from typing import Any, Final

from sd_assets.curation.funnel import funnel
from sd_assets.report.changes import REMOVED, Changes
from sd_assets.report.folder import PAGE, STATE, ReportFolder
from sd_assets.report.pairs import PairReader
from sd_assets.report.stages import stage_counts
from sd_assets.report.thumbnails import put_packs
from sd_assets.storage.files import Files
from sd_assets.storage.table import Table

# Raise it when the same tables come to another report.
VERSION: Final = "1"
_CHUNK_PAIRS = 1_000
# The tables of which the page says how many rows they have.
_STAGES = ("seed_images", "retrieved_image_urls", "downloaded_images", "text_image_pairs")


@dataclass(frozen=True)
class Tables:
    """What a report is made of: each is the asset's table of one partition."""

    seed_images: Table
    retrieved_image_urls: Table
    downloaded_images: Table
    text_image_pairs: Table
    near_duplicates: Table
    curated_pairs: Table

    def content(self) -> str:
        """Changes with what is in any of them, but not with bookkeeping."""
        return " ".join(table.manifest.data_version for table in vars(self).values())

    def pairs(self) -> str:
        """Changes with the pairs and the judgements of them."""
        return f"{self.text_image_pairs.manifest.data_version} {self.curated_pairs.manifest.data_version}"

    def versions(self) -> str:
        """For a person: the versions of what the pairs are and of what was judged."""
        pairs, curated = (table.manifest for table in (self.text_image_pairs, self.curated_pairs))
        return (
            f"text_image_pairs version {pairs.version} of {pairs.created_at[:16].replace('T', ' ')} UTC, "
            f"curated_pairs version {curated.version} of {curated.created_at[:16].replace('T', ' ')} UTC"
        )


@dataclass(frozen=True)
class Report:
    """A report that was written, or found to be up to date.

    Attributes:
        page: path or URI of what one opens.
        data_version: of what it shows.
        pairs: that it shows.
        of_pairs: that there are; more than `pairs` where a sample is shown.
        bytes: of the folder.
        bytes_written: of them by this call; 0: nothing had changed.
        changed: pairs by what of them changed since the last report.
    """

    page: str
    data_version: str
    pairs: int
    of_pairs: int
    bytes: int
    bytes_written: int
    changed: dict[str, int]


def write_report(files: Files, partition: str, tables: Tables, log: Callable[[str], None]) -> Report:
    """Write the report of a partition to `<base>/reports/<partition>/`, as far as it is not there.

    Args:
        files: the base.
        partition: its key.
        tables: of it.
        log: for what a person should know.

    Raises:
        TableError: curated_pairs was made of other pairs than these.
        WriteError: the folder cannot be written.
    """
    folder = ReportFolder(files, partition)
    state = folder.state()
    version = hashlib.sha256(f"{VERSION} {_page_digest()} {tables.content()}".encode()).hexdigest()
    if state.get("version") == version and folder.has_all(state["files"]):
        folder.sweep()
        return Report(**state["report"], page=folder.page_uri, bytes=folder.size(), bytes_written=0)

    reader = PairReader(tables.text_image_pairs, tables.curated_pairs, tables.near_duplicates)
    if reader.step > 1:
        log(f"more pairs than a browser holds: the report shows one of {reader.step}")
    changes = Changes(state, tables.pairs(), reader.step)
    chunks = _Chunks(folder)
    packs: list[tuple[str, int]] = []
    changed: Counter[str] = Counter()
    for rows, places, pairs in reader.parts():
        packs += put_packs(folder, rows, places, [pair.image_digest for pair in pairs])
        for pair in pairs:
            kinds = changes.of(pair)
            changed.update(kinds)
            chunks.add({**pair.shown, "changes": kinds})
    chunks.end()
    if removed := changes.removed():
        changed[REMOVED] = removed
    stages = stage_counts({name: getattr(tables, name) for name in _STAGES})
    good = stages[-1]["ok"]
    index = {
        "partition": partition,
        "made_of": tables.versions(),
        "pairs": chunks.pairs,
        "of_pairs": good,
        "chunks": chunks.names,
        "packs": packs,
        "scores": reader.scores,
        "names": {name: names.as_json() for name, names in reader.names.items()},
        "stages": stages,
        "curation": funnel(tables.curated_pairs).as_json(),
        "changes": {"since": changes.since, "counts": changed},
    }
    folder.put(PAGE, _page(index).encode())
    report = {"data_version": version, "pairs": chunks.pairs, "of_pairs": good, "changed": dict(changed)}
    named = [PAGE, *chunks.names, *(name for name, _ in packs)]
    kept = {"version": version, "files": named, "report": report, **changes.as_json(tables.versions())}
    folder.put(STATE, _json(kept).encode())
    folder.sweep()
    return Report(**report, page=folder.page_uri, bytes=folder.size(), bytes_written=folder.written)


class _Chunks:
    """Pairs, written as scripts of a thousand, so that a page shows the first while it loads the others.

    Attributes:
        names: of the files.
        pairs: in them.
    """

    def __init__(self, folder: ReportFolder) -> None:
        self._folder = folder
        self._rows: list[dict[str, Any]] = []
        self.names: list[str] = []
        self.pairs = 0

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self.pairs += 1
        if len(self._rows) == _CHUNK_PAIRS:
            self.end()

    def end(self) -> None:
        """Write what is left."""
        if self._rows:
            # Column by column: a third of the bytes.
            columns = {name: [row[name] for row in self._rows] for name in self._rows[0]}
            script = f"report.pairs({_json(columns)})"
            self.names.append(self._folder.put_new("pairs", script.encode()))
            self._rows = []


def _page(index: dict[str, Any]) -> str:
    """The page with its style, its script, and what it is to know at once."""
    title = html.escape(f"{index['partition']}: what is in the dataset")
    # No text ends the element that it stands in.
    data = _json(index).replace("<", "\\u003c")
    parts = {"title": title, "style": _part("page.css"), "script": _part("page.js"), "index": data}
    head, *rest = _part("page.html").split("{{")
    # Split first: what is put in may hold braces.
    return head + "".join(parts[name] + text for name, _, text in (piece.partition("}}") for piece in rest))


def _page_digest() -> str:
    parts = (_part(name) for name in ("page.html", "page.css", "page.js"))
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _part(name: str) -> str:
    return resources("sd_assets.report").joinpath(name).read_text("utf-8")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
