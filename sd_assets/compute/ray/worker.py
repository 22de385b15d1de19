"""A worker: computes a stage over the parcels that it is dealt, and keeps what it finishes in the storage."""

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from sd_assets.compute.gpu import GpuUse
from sd_assets.compute.ray.dealing import Parcel
from sd_assets.compute.reading import Part, batches
from sd_assets.errors import SdAssetsError, TableError
from sd_assets.stages.stage import Stage
from sd_assets.storage.area import Area
from sd_assets.storage.elsewhere import Assembly, StoredRows, WorkInProgress
from sd_assets.storage.memory import use_system_allocator
from sd_assets.storage.shards import RowIndex, Shard

_log = logging.getLogger(__name__)

# So long a call waits for something to say. A driver that has nothing to deal asks so often.
_PATIENCE_S = 1.0
# A file system of a network may take so long to show what another machine has written.
_SEE_S = 10.0
# Lines of the log that are sent with an answer; of more, the last ones.
_MOST_LINES = 200
# After the rows that are computed now, so many batches wait.
_BATCHES_AHEAD = 2


@dataclass(frozen=True)
class Job:
    """What all workers of a stage are told.

    Attributes:
        stage: not open.
        fingerprint: of the stage, where the driver is.
        area: of the partition.
        run_id: of the run.
        cores: that a worker may use.
        seats: how many workers there are.
    """

    stage: Stage
    fingerprint: bytes
    area: Area
    run_id: str
    cores: int
    seats: int


@dataclass
class Answer:
    """What has become of a worker's parcels since it was asked last.

    Attributes:
        node: where it runs.
        wanted: so many rows more it would take.
        rows: that it has computed.
        shards: that it has written, with the indices of their rows.
        lines: of its log: level, logger, message.
        facts: of the stage; None: it is not at its end.
        counts: of the stage, since the rows before these shards.
    """

    node: str
    wanted: int = 0
    rows: int = 0
    shards: list[tuple[Shard, RowIndex]] = field(default_factory=list)
    lines: list[tuple[int, str, str]] = field(default_factory=list)
    facts: dict[str, Any] | None = None
    counts: dict[str, int] = field(default_factory=dict)


class Worker:
    """Becomes a Ray actor: its driver calls `exchange` again and again, until the answer has facts.

    Args:
        job: what to do.
        seat: the number of this worker.
    """

    def __init__(self, job: Job, seat: int) -> None:
        self._job = job
        self._seat = seat
        self._node = _node()
        self._stage = job.stage
        self._waiting: deque[Parcel] = deque()
        self._rows_waiting = 0
        self._is_last = False
        self._stopped = False
        self._counted: Counter[str] = Counter()
        self._finished = WorkInProgress(job.area, job.stage.schema, job.run_id)
        self._error: BaseException | None = None
        self._answer = Answer(self._node)
        self._stored = StoredRows(job.area)
        self._changed = threading.Condition()
        self._relay = _Relay()
        logger = logging.getLogger("sd_assets")
        logger.addHandler(self._relay)
        logger.setLevel(logging.INFO)
        self._thread = threading.Thread(target=self._run, name="sd_assets-stage", daemon=True)
        self._thread.start()

    def exchange(self, parcels: Sequence[Parcel], is_last: bool) -> Answer:
        """Takes parcels, and says what has become of earlier ones; waits a moment if nothing has, and none are wanted.

        Args:
            parcels: to compute.
            is_last: nothing comes after them.

        Raises:
            Whatever the stage raised. What was finished before is kept.
        """
        with self._changed:
            for parcel in parcels:
                self._stored.know(parcel.stored)
                self._waiting.append(parcel)
                self._rows_waiting += len(parcel.part)
            self._is_last = is_last
            self._changed.notify_all()
            # Who is told that there is nothing now has to wait for something to happen, or for a moment.
            told_nothing = not parcels and not is_last
            self._changed.wait_for(lambda: self._has_news(wants=not told_nothing), _PATIENCE_S)
            if self._error is not None:
                raise self._error
            answer, self._answer = self._answer, Answer(self._node)
            answer.lines = [self._relay.lines.popleft() for _ in range(len(self._relay.lines))]
            answer.wanted = self._wanted
            return answer

    def assemble(self, assembly: Assembly) -> Shard:
        """Put a shard together, of what has been written. Raises TableError."""
        return assembly.write()

    def stop(self) -> None:
        """Keep what is finished, and end."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join()

    def _has_news(self, *, wants: bool) -> bool:
        answer = self._answer
        news = answer.shards or answer.facts is not None or self._error is not None
        return bool(news) or (wants and not self._is_last and self._wanted > 0)

    @property
    def _wanted(self) -> int:
        room = _BATCHES_AHEAD * self._stage.batch_rows - self._rows_waiting
        return 0 if self._is_last else max(0, room)

    # --- in the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._compute()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _compute(self) -> None:
        job, stage = self._job, self._stage
        use_system_allocator()
        self._require_same_world()
        stage.cores = job.cores
        stage.seat = (self._seat, job.seats)
        try:
            stage.open()
            try:
                with (
                    GpuUse() as gpu,
                    closing(stage.run(batches(self._parts(), stage), self._stored)) as results,
                ):
                    for done in results:
                        self._finished.add(*done)
                        self._stored.forget(done.works)
                        with self._changed:
                            self._answer.rows += len(done.keys)
                        self._keep_what_is_due()
                        if self._stopped:
                            break
            finally:
                stage.close()
        except BaseException:
            try:
                self._keep()
            except Exception as error:  # why we stop is more than this
                _log.warning("the last finished rows could not be kept: %s", error)
            raise
        self._keep()
        with self._changed:
            self._answer.facts = {**stage.facts(), **gpu.facts()}
            self._changed.notify_all()

    def _parts(self) -> Iterator[Part]:
        while True:
            self._keep_what_is_due()  # this is the stage's thread, too: nothing is added meanwhile
            with self._changed:
                self._changed.wait_for(
                    lambda: self._waiting or self._is_last or self._stopped, timeout=_PATIENCE_S
                )
                if self._stopped or (self._is_last and not self._waiting):
                    return
                if not self._waiting:
                    continue
                part = self._waiting.popleft().part
                self._rows_waiting -= len(part)
                self._changed.notify_all()
            yield part

    def _keep_what_is_due(self) -> None:
        if self._finished.is_due:
            self._keep()

    def _keep(self) -> None:
        """Write what is finished, and tell the driver."""
        counts = Counter(self._stage.counts)
        written = self._finished.flush()
        with self._changed:
            if written is not None:
                self._answer.shards.append(written)
            for name, count in (counts - self._counted).items():
                self._answer.counts[name] = self._answer.counts.get(name, 0) + count
            self._counted = counts
            self._changed.notify_all()

    def _require_same_world(self) -> None:
        """
        Raises:
            SdAssetsError: this node has other code than the driver.
            TableError: it does not see the storage that the driver sees.
        """
        area = self._job.area
        until = time.monotonic() + _SEE_S
        while True:
            try:
                area.files.get(f"{area.hidden}/leases/{self._job.run_id}.json")
                break
            except OSError as error:
                why = error
            if time.monotonic() > until:
                raise TableError(
                    f"node {self._node} does not see {area.files.uri} as the driver does ({why}): a cluster needs a base that all "
                    "its nodes share, a bucket or a file system that is mounted at the same place everywhere"
                )
            time.sleep(_PATIENCE_S)
        if self._stage.fingerprint() != self._job.fingerprint:
            raise SdAssetsError(
                f"node {self._node} has another version of sd_assets (or of the model's files) than the driver: install the same"
            )


class _Relay(logging.Handler):
    """Collects what modules log, for the driver."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: deque[tuple[int, str, str]] = deque(maxlen=_MOST_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.levelno, record.name, record.getMessage()))


def _node() -> str:
    """The node, for a person."""
    import ray

    address = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return f"{address} ({ray.get_runtime_context().get_node_id()[:8]})"
