"""retrieved_image_urls: the hits of all queries, one row an image, as far as URLs and hashes tell."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.schemas import ERROR_FIELDS, HIT, RETRIEVED_IMAGE_URLS, URL_HIT, text_id
from sd_assets.stages.same_images import BEST_FIRST, same_images, starts_of_runs
from sd_assets.stages.stage import InputCounts
from sd_assets.storage.table import Table

VERSION = "2"
# Hits that are grouped in memory at once, about; and how many such parts there are at most, each an open file.
HITS_AT_ONCE = 20_000
MAX_PARTS = 500
_ROWS_AT_ONCE = 1_024
_HITS = pa.schema([pa.field("url_id", pa.string()), pa.field("query_id", pa.string()), *HIT])
# A URL's hits, best first.
_ORDER = [("url_id", "ascending"), *BEST_FIRST]


def url_batches(retrieval_hits: Table, counts: InputCounts) -> Iterator[pa.RecordBatch]:
    """Rows of retrieved_image_urls, ordered by `url_id`. Fills `counts` as it goes: the input rows are the hits.

    What a URL's row says of the image is what its best hit says: the most similar, then the lowest rank, then the
    smallest query_id. So the result depends on the hits alone, not on their order. URLs of the same image, by its sha256,
    are one row, that of the best hit of all; `hits` says which query found the image under which.

    The hits are put into temporary files first, each of a range of url_ids: then a file at a time is sorted in memory.
    """
    counts.rows = sum(len(batch.column("hits").flatten()) for batch in retrieval_hits.batches(["hits"]))
    with TemporaryDirectory(prefix="sd_assets-") as folder:
        parts = min(counts.rows // HITS_AT_ONCE + 1, MAX_PARTS)
        files = [Path(folder) / f"{number}.arrow" for number in range(parts)]
        _distribute(retrieval_hits, files, same_images(retrieval_hits))
        for file in files:
            with pa.OSFile(str(file)) as stream:
                hits = pa.ipc.open_stream(stream).read_all().sort_by(_ORDER)
            urls = _rows(hits)
            counts.duplicates += len(hits) - len(urls)
            yield from urls.to_batches(max_chunksize=_ROWS_AT_ONCE)


def _distribute(retrieval_hits: Table, files: list[Path], same: Mapping[str, str]) -> None:
    """Each hit, with its query, into the file of its url_id, or of the one that stands for the `same` image: these are uniform, so equal ranges are of about equal size."""
    with ExitStack() as stack:
        writers = []
        for file in files:
            stream = stack.enter_context(pa.OSFile(str(file), "wb"))
            writers.append(stack.enter_context(pa.ipc.new_stream(stream, _HITS)))
        for batch in retrieval_hits.batches(["query_id", "hits"]):
            lists = batch.column("hits")
            hits = pa.RecordBatch.from_struct_array(lists.flatten())
            own = [text_id(url) for url in hits.column("url").to_pylist()]
            identities = [same.get(identity, identity) for identity in own]
            queries = batch.column("query_id").take(pc.list_parent_indices(lists))
            columns = [pa.array(identities, pa.string()), queries, *hits.columns]
            hits = pa.RecordBatch.from_arrays(columns, schema=_HITS)
            part_of = np.array([int(identity[:8], 16) * len(files) >> 32 for identity in identities])
            for number in np.unique(part_of):
                writers[number].write_batch(hits.take(pa.array(np.flatnonzero(part_of == number))))


def _rows(hits: pa.Table) -> pa.Table:
    """One row a `url_id`, of hits in `_ORDER`."""
    starts = starts_of_runs(hits.column("url_id"))
    offsets = pa.array(np.append(starts, len(hits)), pa.int32())
    found_by = pa.StructArray.from_arrays(
        [hits.column(field.name).combine_chunks() for field in URL_HIT], fields=list(URL_HIT)
    )
    best = hits.take(pa.array(starts))
    columns = {name: best.column(name) for name in best.column_names}
    columns |= {"hits": pa.ListArray.from_arrays(offsets, found_by)}
    columns |= {field.name: pa.nulls(len(starts), field.type) for field in ERROR_FIELDS}
    schema = RETRIEVED_IMAGE_URLS.arrow
    return pa.table([columns[name] for name in schema.names], schema=schema)
