"""The driver: starts workers, deals rows to them, and tells the staging what they have written."""

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sd_assets.compute.local import Local, Progress
from sd_assets.compute.metrics import of_all
from sd_assets.compute.ray.cluster import Cluster, RaySettings, Share
from sd_assets.compute.ray.dealing import Dealer
from sd_assets.compute.ray.worker import Answer, Job, Worker
from sd_assets.compute.reading import Part
from sd_assets.errors import SdAssetsError
from sd_assets.stages.stage import Stage
from sd_assets.storage.elsewhere import Assembly
from sd_assets.storage.shards import Shard
from sd_assets.storage.staging import Staging

# Between two looks at whether a worker has died, or the run is to end.
_LOOK_S = 1.0
# So long the workers of a run that fails may take to keep what they have finished.
_STOP_S = 20.0
# So often a shard is put together anew, as who did it died.
_TRIES = 5
# So many workers may die in a row before they say a word.
_STILLBORN = 3


class RayEngine:
    """Spreads a stage over a Ray cluster that exists; what is not worth it is computed here.

    A worker that dies costs what it had not written: its rows go to others, or to the worker that takes its place when the
    cluster has room for one.

    Args:
        settings: which cluster, and how it is used.
    """

    def __init__(self, settings: RaySettings) -> None:
        self._settings = settings
        self._cluster: Cluster | None = None
        self._crew: _Crew | None = None
        self._assemblers: ThreadPoolExecutor | None = None

    def compute(
        self, stage: Stage, parts: Iterator[Part], staging: Staging, log: Callable[[str], None]
    ) -> dict[str, Any]:
        """
        Raises:
            SdAssetsError: there is no cluster, or no worker starts; workers die again and again.
            Whatever the stage raises.
        """
        if not stage.is_spread:
            return Local().compute(stage, parts, staging, log)
        self._cluster = Cluster(self._settings)
        share = self._cluster.share(uses_device=stage.uses_device)
        log(
            f"{staging.name}: {share.workers} workers of Ray, each with {share.cpus} cores and {share.gpus} GPUs"
        )
        crew = self._crew = _Crew(stage, parts, staging, share, self._settings.start_timeout_s, log)
        assemblers = self._assemblers = ThreadPoolExecutor(share.workers, "sd_assets-assembling")
        staging.assemble = lambda assembly: assemblers.submit(crew.assemble, assembly)
        return {**crew.compute(), "workers": share.workers}

    def close(self) -> None:
        with ExitStack() as stack:  # each of them, whatever becomes of the others; the last one first
            if self._cluster is not None:
                stack.callback(self._cluster.close)
            if self._assemblers is not None:
                stack.callback(self._assemblers.shutdown, cancel_futures=True)
            if self._crew is not None:
                stack.callback(self._crew.end)


@dataclass
class _Seat:
    """A place for a worker.

    Attributes:
        actor: the worker.
        node: where it runs; None: it has not answered yet.
        told_last: whether it was told that nothing comes any more: what comes then is for others.
    """

    actor: Any
    node: str | None = None
    told_last: bool = False


class _Crew:
    """The workers of a stage: those that compute, and those that have nothing to compute any more, which still put shards
    together until the version is complete.
    """

    def __init__(
        self,
        stage: Stage,
        parts: Iterator[Part],
        staging: Staging,
        share: Share,
        start_timeout_s: float,
        log: Callable[[str], None],
    ) -> None:
        self._stage = stage
        self._staging = staging
        self._share = share
        self._start_timeout_s = start_timeout_s
        self._dealer = Dealer(parts, stage, staging.stored, share.workers)
        self._progress = Progress(staging.name, log)
        self._rows_of_nodes: Counter[str] = Counter()
        self._seats: dict[int, _Seat] = {}
        self._idle: list[Any] = []
        self._turns = itertools.count()
        self._calls: dict[Any, int] = {}  # under way, with the seats
        self._facts: list[dict[str, Any]] = []
        self._answered_at = time.monotonic()
        self._began: float | None = None  # when the first of them was ready
        self._stillborn = 0  # workers in a row that died before they answered
        self._ended = threading.Event()
        self._lock = threading.Lock()  # of `_idle`
        self._job: Any = None

    def compute(self) -> dict[str, Any]:
        """Have all rows computed; returns the facts of the stage."""
        import ray

        while True:
            self._take_seats()
            if not self._calls:
                break
            done, _ = ray.wait(list(self._calls), timeout=_LOOK_S)
            for call in done:
                self._hear(self._calls.pop(call), call)
            if self._dealer.is_done:
                self._dismiss_late()
            elif self._is_anybody_late:
                self._dismiss_idle()  # so that there is room
            self._require_somebody()
        seconds = time.monotonic() - (self._began or time.monotonic())
        return {**of_all(self._facts), "compute_seconds": round(seconds, 3), **self._stage.facts()}

    def assemble(self, assembly: Assembly) -> Shard:
        """Have a shard put together, by whoever is there, or else by a node that has a moment; in any thread.

        Raises:
            TableError: a shard that it is made of is gone, or it could not be written.
            SdAssetsError: those who did it died, one after the other.
        """
        import ray

        why: Exception | None = None
        for _ in range(_TRIES):
            if self._ended.is_set():
                break
            with self._lock:
                there = [*self._idle, *(seat.actor for seat in list(self._seats.values()) if seat.node)]
            worker = there[next(self._turns) % len(there)] if there else None
            try:
                if worker is not None:
                    call = worker.assemble.options(concurrency_group="assembling").remote(assembly)
                else:
                    task: Any = ray.remote(Assembly.write).options(num_cpus=0, scheduling_strategy="SPREAD")
                    call = task.remote(assembly)
                shard: Shard = ray.get(call)
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except ray.exceptions.RayError as error:  # the worker or its node is gone
                why = error
                with self._lock:
                    self._idle = [actor for actor in self._idle if actor is not worker]
                time.sleep(_LOOK_S)  # until it is known
                continue
            return shard
        raise SdAssetsError(
            f"{self._staging.name}: a shard could not be put together, as who did it died ({_line(why)}). What was finished is "
            "kept: run again"
        )

    def end(self) -> None:
        """All are dismissed; who still computes keeps what it has finished, if it can."""
        import ray

        self._ended.set()
        try:
            stopping = [
                seat.actor.stop.options(concurrency_group="control").remote()
                for seat in self._seats.values()
                if seat.node is not None
            ]
            if stopping:
                ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_S)
        finally:
            for number in list(self._seats):
                self._leave(number)
            self._dismiss_idle()

    def _take_seats(self) -> None:
        """Starts a worker at each empty seat for which there is work."""
        import ray

        for number in range(self._share.workers):
            if number in self._seats or not self._dealer.has_more(number):
                continue
            actor: Any = (
                ray.remote(concurrency_groups={"assembling": 1, "control": 1})(Worker)  # type: ignore[call-overload]
                .options(
                    num_cpus=self._share.cpus,
                    num_gpus=self._share.gpus,
                    scheduling_strategy="SPREAD",
                )
                .remote(self._put_job(), number)
            )
            self._seats[number] = _Seat(actor)
            # Nothing is dealt before it runs: others may be quicker.
            self._calls[actor.exchange.remote([], False)] = number

    def _put_job(self) -> Any:
        """What all are told. Not before the first row has been read: then a stage has seen what is stored.

        Raises:
            SdAssetsError: the stage cannot be sent.
        """
        import ray

        if self._job is None:
            job = Job(
                self._stage,
                self._stage.fingerprint(),
                self._staging.area,
                self._staging.run_id,
                self._share.cpus,
                self._share.workers,
            )
            try:
                self._job = ray.put(job)
            except TypeError as error:
                raise SdAssetsError(
                    f"{self._staging.name}: the stage {type(self._stage).__name__} cannot be sent to other machines ({_line(error)}): "
                    "until `open` it must hold nothing that cannot be pickled; or it stays here with `is_spread = False`"
                ) from error
        return self._job

    def _hear(self, number: int, call: Any) -> None:
        """What a worker answered, and what it gets next."""
        import ray

        seat = self._seats[number]
        try:
            answer: Answer = ray.get(call)
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except ray.exceptions.RayError as error:  # the worker is gone, or cannot be reached
            self._lose(number, error)
            return
        self._answered_at = time.monotonic()
        self._began = self._began or self._answered_at
        self._stillborn = 0
        seat.node = answer.node
        for level, logger, line in answer.lines:
            logging.getLogger(logger).log(level, "%s (on %s)", line, answer.node)
        for shard, index in answer.shards:
            self._staging.add_shard(shard, index)
            self._dealer.finished(number, index["work"].tolist())
        if answer.rows:
            self._rows_of_nodes[answer.node] += answer.rows
            each = ", ".join(f"{rows} on {node}" for node, rows in sorted(self._rows_of_nodes.items()))
            self._progress.add(answer.rows, f"; {each}")
        self._stage.counts.update(answer.counts)
        if answer.facts is not None:
            self._facts.append(answer.facts)
            with self._lock:
                self._idle.append(self._seats.pop(number).actor)
            return
        parcels = self._dealer.deal(number, answer.wanted) if answer.wanted and not seat.told_last else []
        # Of hosts that are another seat's, which has no room for its worker, none of its own may come for ever.
        in_the_way = self._is_anybody_late and self._dealer.waits_for_others(number)
        seat.told_last = seat.told_last or in_the_way or self._dealer.is_over(number)
        self._calls[seat.actor.exchange.remote(parcels, seat.told_last)] = number

    def _lose(self, number: int, error: Exception) -> None:
        """
        Raises:
            SdAssetsError: workers cannot start, or several died of the same rows.
        """
        where = self._seats[number].node
        self._leave(number)
        self._stillborn += where is None
        if self._stillborn >= _STILLBORN or getattr(error, "actor_init_failed", False):
            raise SdAssetsError(
                f"a worker cannot start: {error}\nEvery node needs the Python and the sd_assets of the driver, and the modules of "
                "stages and models of your own"
            )
        rows = self._dealer.take_back(number, f"{where}: {_line(error)}")
        logging.getLogger(__name__).warning(
            "%s: a worker on %s died (%s); %d rows that it had not kept are computed again",
            self._staging.name,
            where or "a node",
            _line(error),
            rows,
        )

    @property
    def _is_anybody_late(self) -> bool:
        """Whether a worker is to start and has not yet."""
        return any(seat.node is None for seat in self._seats.values())

    def _dismiss_late(self) -> None:
        """Those that have not even started are not waited for when all is done."""
        for call, number in list(self._calls.items()):
            if self._seats[number].node is None:
                del self._calls[call]
                self._leave(number)

    def _dismiss_idle(self) -> None:
        import ray

        with self._lock:
            idle, self._idle = self._idle, []
        for actor in idle:
            ray.kill(actor)

    def _leave(self, number: int) -> None:
        import ray

        ray.kill(self._seats.pop(number).actor)

    def _require_somebody(self) -> None:
        """
        Raises:
            SdAssetsError: no worker has started for long.
        """
        if any(seat.node is not None for seat in self._seats.values()) or not self._seats:
            self._answered_at = time.monotonic()
        elif time.monotonic() - self._answered_at > self._start_timeout_s:
            import ray

            available = ray.available_resources()  # type: ignore[no-untyped-call]
            free = {name: available.get(name, 0) for name in ("CPU", "GPU")}
            raise SdAssetsError(
                f"no worker has started for {self._start_timeout_s:g} s: each is to have {self._share.cpus} cores and "
                f"{self._share.gpus} GPUs, and the cluster has {free} free. What was finished is kept: end what holds the "
                "cluster, or have smaller workers (`cpus_per_worker`), and run again"
            )


def _line(error: Exception | None) -> str:
    """The beginning of what an error says."""
    return str(error).strip().partition("\n")[0]


def _cause(error: Exception) -> BaseException:
    """What a worker raised."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, SdAssetsError):
        return cause
    return error
