"""retrieval_hits: for every query, the images of the index that are most like it."""

from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import closing
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa

from sd_assets.ahead import map_as_done
from sd_assets.blocked import NOTHING, Blocked
from sd_assets.errors import ErrorCode
from sd_assets.retrieval.index import KnnIndex
from sd_assets.retrieval.selection import Selected, Selection
from sd_assets.schemas import RETRIEVAL_HITS, TableSchema
from sd_assets.settings import RetrievalSettings
from sd_assets.stages.stage import Refused, Stage, Work, one_by_one, together
from sd_assets.storage.staging import Judge
from sd_assets.storage.table import Table

# Queries at once, of which a local index answers many quicker than one after the other; fewer, where they might have more hits
# together than this: some 100 MB.
_QUERIES_AT_ONCE, _HITS_AT_ONCE = 1_024, 200_000
# See `Stage.run`.
_IDLE_S = 1.0


class RetrieveStage(Stage):
    """A query's hits, best first: those that `Selection` chooses. A query that the index failed is asked again by the next run.

    An edit of the list of what is blocked has only those queries asked again of which it takes a hit away, or gives one back.

    Args:
        index: that is asked.
        settings: how.
        blocked: what no hit may be.
    """

    version = "3"
    reads = ("kind", "embedding")
    batch_rows = _QUERIES_AT_ONCE

    def __init__(self, index: KnnIndex, settings: RetrievalSettings, blocked: Blocked = NOTHING) -> None:
        self.batch_rows = max(1, min(_QUERIES_AT_ONCE, _HITS_AT_ONCE // settings.images_per_query))
        self._index = index
        self._settings = settings
        self._blocked = blocked
        self._selection = Selection(index, settings, blocked)
        self._counting = Lock()
        self._asked = self._cut_short = 0
        self._left_out: Counter[str] = Counter()
        # Hits are many: they are read only if there is something to look for.
        self.judge = Judge(("error", "blocked_by", *(("hits",) if blocked else ())), self._may_reuse)

    @property
    def schema(self) -> TableSchema:
        return RETRIEVAL_HITS

    def settings(self) -> dict[str, Any]:
        settings = self._settings.effects()
        return {**settings, "name": settings["index"], "index": self._index.identity}

    def open(self) -> None:
        self._selection.open()

    def facts(self) -> dict[str, Any]:
        """The index; how many queries this run asked, how many candidates became no hits of these, by reason, and how many
        queries might have more hits beyond `max_candidates`, or beyond what the service gives."""
        return {
            "index": f"{self._settings.index} ({self._index.identity})",
            "queries_asked": self._asked,
            "queries_cut_short": self._cut_short,
            "left_out": dict(sorted(self._left_out.items())),
            **self._index.facts(),
        }

    def close(self) -> None:
        self._index.close()

    def run(self, missing: Iterator[Work], refused: Refused) -> Generator[Work, None, None]:
        """Query by query, many at once, where the index is one that waits for the web: no query waits for another one, and of
        a service that dies what it has answered is kept."""
        if self._index.calls_at_once == 1:
            yield from super().run(missing, refused)
            return

        def answered(work: Work) -> Work:
            return work._replace(rows=self.process(work.rows, None))

        single = (part for work in missing for part in one_by_one(work))
        with closing(map_as_done(answered, single, self._index.calls_at_once, _IDLE_S)) as results:
            for done in results:
                yield together(done, self.schema)

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        vectors = np.asarray(rows.column("embedding").flatten()).reshape(len(rows), -1)
        selected = self._selection.select(vectors, rows.column("kind"))
        self._count(selected)
        errors = [selected.errors.get(place) for place in range(len(rows))]
        entries = [selected.blocked_by.get(place) for place in range(len(rows))]
        columns = {
            "query_id": rows.column("query_id"),
            "kind": rows.column("kind"),
            "index": pa.repeat(self._settings.index, len(rows)),
            "hits": selected.of_queries(),
            "left_out": selected.left_out,
            "blocked_by": pa.array(entries, pa.list_(pa.string())),
            "error": pa.array([error and str(error.code) for error in errors], pa.string()),
            "error_detail": pa.array([error and error.detail for error in errors], pa.string()),
        }
        return pa.RecordBatch.from_arrays(
            [columns[name] for name in RETRIEVAL_HITS.arrow.names], schema=RETRIEVAL_HITS.arrow
        )

    def _count(self, selected: Selected) -> None:
        with self._counting:
            self._asked += len(selected.counts)
            self._cut_short += int(selected.cut_short.sum())
            self._left_out.update(selected.numbers_left_out())

    def _may_reuse(self, rows: pa.RecordBatch) -> list[bool]:
        columns = (rows.column(name).to_pylist() for name in ("error", "blocked_by"))
        return [
            error != ErrorCode.QUERY_FAILED and self._blocked.still(entries) and not held
            for error, entries, held in zip(*columns, self._blocked.rows(rows), strict=True)
        ]


def embedding_batches(seed_embeddings: Table) -> Iterator[pa.RecordBatch]:
    """Seed embeddings as the input of `RetrieveStage`."""
    return seed_embeddings.batches(["query_id", "kind", "embedding", "error"])
