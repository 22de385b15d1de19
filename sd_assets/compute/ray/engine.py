"""The driver: starts workers, deals rows to them, and tells the staging what they have written."""

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
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
        if self._assemblers is not None:
            self._assemblers.shutdown(cancel_futures=True)
        if self._crew is not None:
            self._crew.end()
        if self._cluster is not None:
            self._cluster.close()


@dataclass
class _Seat:
    """A place for a worker.

    Attributes:
        actor: the worker.
        node: where it runs; None: it has not answered yet.
    """

    actor: Any
    node: str | None = None


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
        self._log = log
        self._dealer = Dealer(parts, stage, staging.stored, share.workers)
        self._progress = Progress(staging.name, log)
        self._rows_of_nodes: Counter[str] = Counter()
        self._seats: dict[int, _Seat] = {}
        self._idle: list[Any] = []
        self._turns = itertools.count()
        self._calls: dict[Any, int] = {}  # under way, with the seats
        self._facts: list[dict[str, Any]] = []
        self._answered_at = time.monotonic()
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
            self._require_somebody()
        return {**of_all(self._facts), **self._stage.facts()}

    def assemble(self, assembly: Assembly) -> Shard:
        """Have a shard put together, by whoever is there; in any thread.

        Raises:
            TableError: a shard that it is made of is gone, or it could not be written.
        """
        import ray

        while True:
            there = [*self._idle, *(seat.actor for seat in list(self._seats.values()) if seat.node)]
            try:
                if there:
                    worker = there[next(self._turns) % len(there)]
                    shard: Shard = ray.get(worker.assemble.remote(assembly))
                else:
                    task: Any = ray.remote(Assembly.write).options(num_cpus=0, scheduling_strategy="SPREAD")
                    shard = ray.get(task.remote(assembly))
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from error
            except ray.exceptions.RayActorError:
                time.sleep(_LOOK_S)  # until it is known that it has died
                self._idle = [actor for actor in self._idle if actor is not worker]
                continue
            return shard

    def end(self) -> None:
        """All are dismissed; who still computes keeps what it has finished, if it can."""
        import ray

        stopping = [seat.actor.stop.remote() for seat in self._seats.values() if seat.node is not None]
        if stopping:
            ray.wait(stopping, num_returns=len(stopping), timeout=_STOP_S)
        for number in list(self._seats):
            self._leave(number)
        self._dismiss_idle()

    def _take_seats(self) -> None:
        """Starts a worker at each empty seat for which there is work."""
        import ray

        for number in range(self._share.workers):
            if number in self._seats or not self._dealer.has_more(number):
                continue
            self._dismiss_idle()  # so that there is room
            if self._job is None:
                # Not earlier: a stage knows all of its input's secrets when the first row has been read.
                job = Job(
                    self._stage,
                    self._stage.fingerprint(),
                    self._staging.area,
                    self._staging.run_id,
                    self._share.cpus,
                    self._share.workers,
                )
                self._job = ray.put(job)
            actor: Any = (
                ray.remote(Worker)
                .options(
                    num_cpus=self._share.cpus,
                    num_gpus=self._share.gpus,
                    max_concurrency=3,  # `stop` and `assemble` beside `exchange`
                    scheduling_strategy="SPREAD",
                )
                .remote(self._job, number)
            )
            self._seats[number] = _Seat(actor)
            # Nothing is dealt before it runs: others may be quicker.
            self._calls[actor.exchange.remote([], False)] = number

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
        if answer.facts is not None:
            self._facts.append(answer.facts)
            self._stage.counts.update(answer.counts)
            self._idle.append(self._seats.pop(number).actor)
            return
        parcels = self._dealer.deal(number, answer.wanted) if answer.wanted else []
        is_last = self._dealer.is_over(number)
        self._calls[seat.actor.exchange.remote(parcels, is_last)] = number

    def _lose(self, number: int, error: Exception) -> None:
        seat = self._seats[number]
        where = seat.node or "a node"
        why = str(error).strip().partition("\n")[0]
        rows = self._dealer.take_back(number, f"{where}: {why}")
        logging.getLogger(__name__).warning(
            "%s: a worker on %s died (%s); %d rows that it had not kept are computed again",
            self._staging.name,
            where,
            why,
            rows,
        )
        self._leave(number)

    def _dismiss_late(self) -> None:
        """Those that have not even started are not waited for when all is done."""
        for call, number in list(self._calls.items()):
            if self._seats[number].node is None:
                del self._calls[call]
                self._leave(number)

    def _dismiss_idle(self) -> None:
        import ray

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


def _cause(error: Exception) -> BaseException:
    """What a worker raised."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, SdAssetsError):
        return cause
    return error
