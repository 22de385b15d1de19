"""What is blocked goes from all that a partition of a table keeps besides its current version.

The stages see to it that the current version holds nothing of it (`blocked`). What older versions, unfinished runs and notes
hold is found here, by reading the columns that could hold it, once the run has committed.

Of an image that came from a blocked URL other tables know its `image_id` only. So the tables that have both leave a note of
these ids, from which those that are made from them, and committed later, are searched, too. It holds no ids, but what
`blocked.entry` makes of them.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.blocked import URL_COLUMNS, Blocked, entry, texts_in
from sd_assets.errors import GoneError
from sd_assets.schemas import DOWNLOADED_IMAGES, SEED_IMAGES
from sd_assets.storage.area import Area
from sd_assets.storage.shards import read_batches
from sd_assets.storage.table import Table, TableStore

_NOTE = "blocked.json"
_NAME_IMAGES = (SEED_IMAGES.name, DOWNLOADED_IMAGES.name)


@dataclass(frozen=True)
class TakenDown:
    """What was found.

    Attributes:
        shards: how many files held something; those of older versions are there still, unless these were to be deleted.
        versions: the older versions that have one of them.
    """

    shards: int
    versions: list[int]


def take_down(
    store: TableStore, area: Area, blocked: Blocked, on_news: Callable[[], None], *, older_versions: bool
) -> TakenDown:
    """Search what the current version of a partition, just committed, has left behind. An empty list costs nothing.

    Args:
        store: of the tables that the partition is made from.
        area: of the partition.
        blocked: the list.
        on_news: called if the list has changed since this was last done, or something of it is found that was not known then;
            again by the next run, should this one not get to its end.
        older_versions: whether older versions that hold something of it are deleted.
    """
    if not blocked:
        return TakenDown(0, [])
    before = _parsed(area.note(_NOTE))
    images = {name: by for name, by in before["images"].items() if blocked.still([by])}
    searched = blocked.with_images(_images_of_blocked_urls(store, area, blocked))
    found = [name for name in sorted(area.superseded()) if _holds(area, name, searched, images)]
    if images:
        images = _without_current(store, area, images)
    # Before the shards go that tell of them.
    area.put_note(_NOTE, json.dumps({**before, "images": images}).encode())
    versions = area.take_down(found, older_versions=older_versions)
    for name in area.notes():
        if name != _NOTE and _names_any(area.note(name), blocked):
            area.delete_note(name)
    if before["digest"] != blocked.digest or not set(found) <= set(before["shards"]):
        on_news()
    area.put_note(_NOTE, json.dumps({"digest": blocked.digest, "images": images, "shards": found}).encode())
    return TakenDown(len(found), versions)


def _holds(area: Area, file: str, searched: Blocked, images: dict[str, str]) -> bool:
    """Whether a shard holds something of the list; the images of rows whose URL does are added to `images`."""
    held = False
    try:
        with closing(area.files.open(f"{area.hidden}/shards/{file}")) as opened:
            columns = searched.columns(pq.read_schema(opened))
            for batch in read_batches(opened, columns) if columns else ():
                mask = searched.rows(batch)
                held = held or bool(mask.any())
                images.update(_images_in(batch.filter(pa.array(mask)), searched))
    except GoneError:  # swept meanwhile; or written anew, and then it must be read
        return _holds(area, file, searched, images)
    except FileNotFoundError:
        return False
    return held


def _images_in(rows: pa.RecordBatch, blocked: Blocked) -> Iterator[tuple[str, str]]:
    """Of rows with a blocked URL what stands for their image, and what for the entry of the list."""
    for name in {*URL_COLUMNS}.intersection(rows.schema.names if "image_id" in rows.schema.names else ()):
        for url, image in zip(*(rows.column(it).to_pylist() for it in (name, "image_id")), strict=True):
            by = blocked.url(url)
            if image is not None and by is not None:
                yield entry(image), by


def _without_current(store: TableStore, area: Area, images: dict[str, str]) -> dict[str, str]:
    """Those that no current version has: an image that came from another URL, too, is not blocked."""
    there: set[str] = set()
    for name in _NAME_IMAGES:
        table = store.area(name, area.partition)
        current = table.latest()
        for batch in Table(table, current).batches(["image_id"]) if current else ():
            there.update(map(entry, batch.column("image_id").drop_null().to_pylist()))
    return {name: by for name, by in images.items() if name not in there}


def _images_of_blocked_urls(store: TableStore, area: Area, blocked: Blocked) -> set[str]:
    """What the tables that name images have noted of this partition, as far as it is on the list still."""
    notes = (_parsed(store.area(name, area.partition).note(_NOTE)) for name in _NAME_IMAGES)
    return {name for note in notes for name, by in note["images"].items() if blocked.still([by])}


def _names_any(note: bytes | None, blocked: Blocked) -> bool:
    try:
        return any(blocked.url(text) or blocked.image(text) for text in texts_in(json.loads(note or b"null")))
    except ValueError:  # whose it is will say so
        return False


def _parsed(note: bytes | None) -> dict[str, Any]:
    empty: dict[str, Any] = {"digest": "", "images": {}, "shards": []}
    try:
        return {**empty, **json.loads(note or b"{}")}
    except ValueError:  # damaged: all is searched anew
        return empty
