"""retrieved_image_urls: the hits of all queries, one row a URL."""

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import groupby, islice
from operator import itemgetter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.schemas import CORPUS_FIELDS, HIT, RETRIEVED_IMAGE_URLS, text_id
from sd_assets.stages.stage import InputCounts, each_row, rows_of
from sd_assets.storage.table import Table

VERSION = "1"
# Hits that are grouped in memory at once, about; and how many such parts there are at most, each an open file.
HITS_AT_ONCE = 20_000
MAX_PARTS = 500
_ROWS_AT_ONCE = 256
_HITS = pa.schema([pa.field("url_id", pa.string()), pa.field("query_id", pa.string()), *HIT])
# A URL's hits, best first.
_ORDER = [
    ("url_id", "ascending"),
    ("similarity", "descending"),
    ("rank", "ascending"),
    ("query_id", "ascending"),
]


def url_batches(retrieval_hits: Table, counts: InputCounts) -> Iterator[pa.RecordBatch]:
    """Rows of retrieved_image_urls, ordered by `url_id`. Fills `counts` as it goes: the input rows are the hits.

    What a URL's row says of the image is what its best hit says: the most similar, then the lowest rank, then the
    smallest query_id. So the result depends on the hits alone, not on their order.

    The hits are put into temporary files first, each of a range of url_ids: then a file at a time is sorted in memory.
    """
    counts.rows = sum(len(batch.column("hits").flatten()) for batch in retrieval_hits.batches(["hits"]))
    with TemporaryDirectory(prefix="sd_assets-") as folder:
        parts = min(counts.rows // HITS_AT_ONCE + 1, MAX_PARTS)
        files = [Path(folder) / f"{number}.arrow" for number in range(parts)]
        _distribute(retrieval_hits, files)
        for file in files:
            with pa.OSFile(str(file)) as stream:
                hits = pa.ipc.open_stream(stream).read_all().sort_by(_ORDER)
            urls = _rows(hits)
            while rows := list(islice(urls, _ROWS_AT_ONCE)):
                counts.duplicates += sum(len(row["hits"]) - 1 for row in rows)
                yield rows_of(RETRIEVED_IMAGE_URLS, rows)


def _distribute(retrieval_hits: Table, files: list[Path]) -> None:
    """Each hit, with its query, into the file of its url_id: these are uniform, so equal ranges are of about equal size."""
    with ExitStack() as stack:
        writers = []
        for file in files:
            stream = stack.enter_context(pa.OSFile(str(file), "wb"))
            writers.append(stack.enter_context(pa.ipc.new_stream(stream, _HITS)))
        for batch in retrieval_hits.batches(["query_id", "hits"]):
            lists = batch.column("hits")
            hits = pa.RecordBatch.from_struct_array(lists.flatten())
            identities = [text_id(url) for url in hits.column("url").to_pylist()]
            queries = batch.column("query_id").take(pc.list_parent_indices(lists))
            columns = [pa.array(identities, pa.string()), queries, *hits.columns]
            hits = pa.RecordBatch.from_arrays(columns, schema=_HITS)
            part_of = np.array([int(identity[:8], 16) * len(files) >> 32 for identity in identities])
            for number in np.unique(part_of):
                writers[number].write_batch(hits.take(pa.array(np.flatnonzero(part_of == number))))


def _rows(hits: pa.Table) -> Iterator[dict[str, Any]]:
    """One row a URL, of hits in `_ORDER`."""
    for identity, group in groupby(each_row(hits.to_batches(), _ROWS_AT_ONCE), itemgetter("url_id")):
        of_url = list(group)
        best = of_url[0]
        yield {
            "url_id": identity,
            "url": best["url"],
            "alt_text": best["alt_text"],
            "similarity": best["similarity"],
            "hits": [{name: hit[name] for name in ("query_id", "rank", "similarity")} for hit in of_url],
            **{field.name: best[field.name] for field in CORPUS_FIELDS},
        }
