"""Building an index folder of a corpus: streamed, trained on a sample, and gone on with where it was broken off.

In steps: the header of every file is read; the kind of index is chosen; it is trained on a sample; some ten thousand rows at a time
their vectors are judged, normalised and put into the index, and their metadata is written; the index file is put together; and the
folder takes the place of the one before it. Each step that is done is kept, so a build that is killed goes on with the next.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.ahead import map_ahead
from sd_assets.errors import RetrievalError
from sd_assets.retrieval.corpora import Corpus, Part
from sd_assets.retrieval.corpora.corpus import Reason, Reasons
from sd_assets.retrieval.faiss_search import inverted_file_in
from sd_assets.retrieval.kinds import MIN_PER_LIST, chosen_kind, training_rows
from sd_assets.retrieval.layout import INDEX_FILE, METADATA_ARROW, METADATA_FOLDER
from sd_assets.retrieval.metadata import open_metadata, write_metadata_arrow
from sd_assets.retrieval.record import IndexRecord
from sd_assets.retrieval.storing import Store, described, store_for
from sd_assets.retrieval.training import graph_in, probes_for, sampled, train
from sd_assets.retrieval.vectors import normalised
from sd_assets.retrieval.workspace import Workspace, replacing, whole, workspace
from sd_assets.settings import IndexBuildSettings

# Part of what an index is made from: with another one, all are built anew.
_VERSION = "2"
# Of the vectors of a step, as float32.
_STEP_BYTES = 64 * 1024**2
_LOG_EVERY_S = 10.0
_SKIPS_LOGGED = 20
# Better than FAISS's 16, which misses many.
_EF_SEARCH = 128
_TRAINED = "trained.index"

Log = Callable[[str], None]
Floats = npt.NDArray[np.float32]


def build_index(
    corpus: Corpus, settings: IndexBuildSettings, folder: Path, log: Log, *, clip: str | None = None
) -> IndexRecord:
    """Build the index folder of a corpus, unless it is there already.

    The folder changes only when the new one is complete, and at once. A build that was broken off goes on with what it had kept,
    if corpus and settings are the same, and ends in the same index (but for the edges of an HNSW graph, which depend on a race).

    Args:
        corpus: of `open_corpus`.
        settings: what to build.
        folder: of the index; made if it is not there.
        log: called with lines that say what is done.
        clip: the model that made the vectors, where the corpus does not say it.

    Returns:
        What the folder says of itself now; `made_from` and `built_at` are those of before, if nothing had changed.

    Raises:
        RetrievalError: the corpus is damaged, or holds no good vector; the kind of index does not exist, or does not suit it;
            the folder holds something else, or is a mount point; another process is building it; it cannot be written.
    """
    clip = corpus.clip or clip
    made_from = _made_from(corpus, settings)
    try:
        with workspace(folder) as work:
            record = IndexRecord.read(work.folder)
            if record is not None and record.made_from == made_from and (work.folder / INDEX_FILE).is_file():
                work.clear()  # of a build that was killed when all was done, say
                log(f"{folder} is up to date: {record.vectors:,} vectors of {record.corpus}")
                return _mended(record, work.folder, clip, log)
            if work.begin(made_from):
                log(f"going on with a build of {folder} that was broken off")
            complete = IndexRecord.read(work.new)
            if complete is None:
                complete = _Build(corpus, settings, work, log).run(made_from, clip)
            work.finish()
            return complete
    except OSError as error:
        raise RetrievalError(
            f"{folder}: the build broke off ({error}): see that there is room, and that the folder may be written, and run it again: "
            "what is done is kept"
        ) from error


def _mended(record: IndexRecord, folder: Path, clip: str | None, log: Log) -> IndexRecord:
    """What an index that is up to date says of itself, with what can be put right without its vectors."""
    try:
        mapped = open_metadata(folder.name, folder).mapped
    except RetrievalError:
        mapped = False  # `metadata.arrow` is damaged; or the Parquet files are, and then writing it says so
    if not mapped:
        write_metadata_arrow(folder)
        log(f"{METADATA_ARROW} was not there, or of other files: it was written again")
    if record.clip != clip:  # said by now, or otherwise
        record = replace(record, clip=clip)
        record.write(folder)
    return record


def _made_from(corpus: Corpus, settings: IndexBuildSettings) -> str:
    factory = _factory_for(corpus, settings)
    parts = [
        _VERSION,
        corpus.identity,
        dict(corpus.columns),
        corpus.schema.to_string(),
        factory,
        settings.seed,
        settings.training_rows,
        # Of the memory only what it changes: how many vectors can be trained with.
        min(_affordable(corpus, settings), corpus.rows),
        settings.recall if re.search("IVF|IMI", factory) else None,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _factory_for(corpus: Corpus, settings: IndexBuildSettings) -> str:
    return settings.factory or chosen_kind(corpus.rows, corpus.dim, settings.memory_bytes)


def _affordable(corpus: Corpus, settings: IndexBuildSettings) -> int:
    """Vectors of a sample that fit the memory."""
    return settings.memory_bytes // (4 * corpus.dim)


@dataclass(frozen=True)
class _Step:
    """Rows of a part that are put into the index together."""

    number: int
    part: Part
    start: int
    stop: int


@dataclass(frozen=True)
class _Judged:
    """A step whose metadata is written, and whose vectors are ready to be added."""

    step: _Step
    vectors: Floats
    reasons: Reasons


class _Build:
    def __init__(self, corpus: Corpus, settings: IndexBuildSettings, work: Workspace, log: Log) -> None:
        self._corpus = corpus
        self._settings = settings
        self._work = work
        self._log = log
        self._started = time.monotonic()
        self._skips_logged = 0

    def run(self, made_from: str, clip: str | None) -> IndexRecord:
        """Make everything in the new folder."""
        corpus = self._corpus
        self._log(f"{corpus.description}: {corpus.rows:,} rows, vectors of {self._dim} dimensions")
        index = self._trained()
        store = store_for(index, self._work.path / "steps")
        counts = self._filled(store)
        vectors = int(counts[Reason.NONE])
        skipped = {reason.name.lower(): int(counts[reason]) for reason in Reason if reason and counts[reason]}
        told = ", ".join(f"{count:,} {reason}" for reason, count in skipped.items())
        if not vectors:
            raise RetrievalError(
                f"{corpus.description}: none of {corpus.rows:,} rows can be indexed ({told}): {corpus.hint}"
            )
        if told:
            self._log(f"left out {corpus.rows - vectors:,} of {corpus.rows:,} rows: {told}")
        self._log(f"writing {INDEX_FILE} of {vectors:,} vectors")
        index_file = self._work.new / INDEX_FILE
        store.write(index_file)
        self._check_metadata(vectors)
        write_metadata_arrow(self._work.new)
        record = IndexRecord(
            made_from=made_from,
            clip=clip,
            dim=self._dim,
            vectors=vectors,
            factory=self._factory,
            metric="inner_product",
            **described(index),
            corpus=corpus.description,
            rows=corpus.rows,
            skipped=skipped,
            index_bytes=index_file.stat().st_size,
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
            build_seconds=round(time.monotonic() - self._started, 3),
        )
        record.write(self._work.new)
        self._log(
            f"built {self._work.folder} in {record.build_seconds:.0f} s: {record.index_bytes / 1e6:,.0f} MB"
        )
        return record

    @cached_property
    def _dim(self) -> int:
        return self._corpus.dim

    @cached_property
    def _factory(self) -> str:
        return _factory_for(self._corpus, self._settings)

    # --- training ----------------------------------------------------------------------------------------------------

    def _trained(self) -> Any:
        import faiss

        file = self._work.path / _TRAINED
        if file.exists():
            return faiss.read_index(str(file))
        with _explained(self._factory):
            index = faiss.index_factory(self._dim, self._factory, faiss.METRIC_INNER_PRODUCT)
        if isinstance(faiss.downcast_index(index), faiss.IndexIDMap):
            raise RetrievalError(
                f"build.factory {self._factory!r} gives vectors numbers of their own, and here vector i must be row i: take IDMap away"
            )
        graph = graph_in(index)
        if graph is not None:
            graph.efSearch = _EF_SEARCH
        how = "named" if self._settings.factory else f"chosen for {self._settings.memory} of memory"
        self._log(f"kind of index: {self._factory} ({how})")
        if not index.is_trained:
            self._train(index)
        whole(file, faiss.serialize_index(index).tobytes())
        return index

    def _train(self, index: Any) -> None:
        ivf = inverted_file_in(index)
        lists = 0 if ivf is None else int(ivf.nlist)
        asked = self._settings.training_rows
        wanted = asked or training_rows(self._factory, lists)
        affordable = _affordable(self._corpus, self._settings)
        if asked is None and wanted > affordable:
            self._log(
                f"the sample is cut from {wanted:,} to {affordable:,} vectors, which fit {self._settings.memory}"
            )
            wanted = affordable
        self._log(f"training on a sample of {min(wanted, self._corpus.rows):,} vectors")
        sample = sampled(self._corpus, self._dim, wanted, self._settings.seed)
        if len(sample) < max(1, lists):
            raise RetrievalError(
                f"{self._corpus.description}: {self._factory} needs a sample of at least {max(1, lists):,} good vectors to train with, "
                f"and there are {len(sample):,}: name a kind with fewer lists in build.factory, or none"
            )
        if len(sample) < MIN_PER_LIST * lists:
            self._log(
                f"{len(sample):,} vectors are few for {lists:,} lists: {MIN_PER_LIST} for each would be better"
            )
        with _explained(self._factory):
            train(index, sample)
        if ivf is not None:
            ivf.nprobe = probes_for(index, sample, self._settings.recall)
            self._log(
                f"trained; a query looks into {ivf.nprobe} of {lists:,} lists for an estimated recall of {self._settings.recall}"
            )

    # --- adding ------------------------------------------------------------------------------------------------------

    def _filled(self, store: Store) -> npt.NDArray[np.int64]:
        """Put all rows into the store; how many there were of each `Reason`."""
        steps = self._steps()
        counts = np.zeros(len(Reason), np.int64)
        kept = store.kept
        for number in range(kept):
            counts += json.loads(self._counts_file(number).read_text("utf-8"))
        done = sum(step.stop - step.start for step in steps[:kept])
        if kept:
            self._log(f"{done:,} of {self._corpus.rows:,} rows are there already")
        progress = _Progress(self._log, done, self._corpus.rows)
        blocks = self._judged(steps[kept:], len(steps))
        # Reading, adding and keeping go on side by side, a step each.
        with ThreadPoolExecutor(1) as keeper:
            keeping: Future[None] | None = None
            for judged in map_ahead(lambda _: next(blocks), range(len(steps) - kept), 1):
                here = np.bincount(judged.reasons, minlength=len(Reason))
                # Before the vectors: a step that the store has kept has its counts.
                whole(self._counts_file(judged.step.number), json.dumps(here.tolist()).encode())
                with _explained(self._factory):
                    keep = store.add(judged.step.number, judged.vectors)
                if keeping is not None:
                    keeping.result()
                keeping = keeper.submit(keep)
                counts += here
                self._tell(judged)
                progress.advance(judged.step.stop - judged.step.start)
            if keeping is not None:
                keeping.result()
        store.kept = len(steps)
        return counts

    def _steps(self) -> list[_Step]:
        rows = max(1_024, _STEP_BYTES // (4 * self._dim))
        steps: list[_Step] = []
        for part in self._corpus.parts:
            for start in range(0, part.rows, rows):
                steps.append(_Step(len(steps), part, start, min(start + rows, part.rows)))
        return steps

    def _judged(self, steps: list[_Step], total: int) -> Iterator[_Judged]:
        """The steps in order; their metadata is written when they come."""
        digits = max(4, len(str(total)))
        blocks = None
        for step in steps:
            if blocks is None or not step.start:
                blocks = self._corpus.blocks(step.part, self._dim, step.start, step.stop - step.start)
            block = next(blocks)
            vectors, reasons = normalised(block.vectors, block.reasons)
            self._write_metadata(f"metadata_{step.number:0{digits}d}.parquet", block.metadata, reasons)
            yield _Judged(step, vectors, reasons)

    def _write_metadata(self, name: str, metadata: pa.RecordBatch, reasons: Reasons) -> None:
        path = self._work.new / METADATA_FOLDER / name
        good = reasons == Reason.NONE
        rows = metadata if good.all() else metadata.filter(pa.array(good))
        if len(rows):
            with replacing(path) as temporary:
                pq.write_table(pa.Table.from_batches([rows]), temporary)

    def _check_metadata(self, vectors: int) -> None:
        """Row i is vector i: a file that is missing would give all behind it other images."""
        folder = self._work.new / METADATA_FOLDER
        rows = 0
        for file in folder.glob("*.parquet"):
            # One that is empty or cut short has none: a power cut takes what was not on the disk yet.
            with suppress(pa.ArrowInvalid):
                rows += pq.read_metadata(file).num_rows
        if rows != vectors:
            self._work.clear()
            raise RetrievalError(
                f"{folder} has {rows:,} rows of metadata for {vectors:,} vectors: files that an earlier, broken off build wrote are "
                "gone or damaged; build it again, it begins anew"
            )

    def _counts_file(self, number: int) -> Path:
        return self._work.path / "steps" / f"{number:08d}.json"

    def _tell(self, judged: _Judged) -> None:
        bad = np.flatnonzero(judged.reasons)
        if not len(bad) or self._skips_logged > _SKIPS_LOGGED:
            return
        self._skips_logged += 1
        step = judged.step
        if self._skips_logged > _SKIPS_LOGGED:
            self._log("more rows are left out; their number is told at the end")
            return
        first: dict[int, int] = {}
        for row in bad.tolist():
            first.setdefault(int(judged.reasons[row]), step.start + row)
        told = ", ".join(
            f"{int((judged.reasons == reason).sum()):,} {Reason(reason).name.lower()} (the first is row {row:,})"
            for reason, row in sorted(first.items())
        )
        self._log(f"{step.part.name}, rows {step.start:,} to {step.stop - 1:,}: left out {told}")


class _Progress:
    """Says now and then how far a build is."""

    def __init__(self, log: Log, done: int, total: int) -> None:
        self._log = log
        self._done, self._total = done, total
        self._first, self._began = done, time.monotonic()
        self._told = self._began

    def advance(self, rows: int) -> None:
        self._done += rows
        now = time.monotonic()
        if now - self._told < _LOG_EVERY_S and self._done < self._total:
            return
        self._told = now
        speed = (self._done - self._first) / max(now - self._began, 1e-3)
        left = (self._total - self._done) / speed
        self._log(
            f"{self._done:,} of {self._total:,} rows ({self._done / self._total:.0%}), {speed:,.0f} a second, "
            f"about {left / 60:.0f} min left"
        )


@contextmanager
def _explained(factory: str) -> Iterator[None]:
    """What FAISS says of a kind that does not exist, or does not suit the vectors, in our words."""
    try:
        yield
    except RuntimeError as error:
        last = str(error).strip().splitlines()[-1]
        raise RetrievalError(
            f"FAISS cannot build the kind of index {factory!r}: {last}. Check build.factory, or leave it out"
        ) from error
