"""A kNN index that a clip-retrieval service answers for, or several: `POST /knn-service`, one query a request."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.errors import RetrievalError, RowError
from sd_assets.retrieval.columns import NAMES, chosen_columns
from sd_assets.retrieval.index import HITS, Answers, checked_queries, query_failed
from sd_assets.retrieval.service.pool import Pool, QueryError
from sd_assets.retrieval.service.probe import why_it_fails
from sd_assets.retrieval.service.results import Results, no_results, results_of
from sd_assets.retrieval.service.services import Service, services_of
from sd_assets.services.exchange import BadAnswerError, Exchange, NoAnswerError
from sd_assets.services.loop_thread import LoopThread
from sd_assets.settings import RetrievalSettings, ServiceIndexSettings

T = TypeVar("T")

# Results that the first query is asked for, when services are tried and compared.
_PROBED = 5
# So many results may be more than a service gives: FAISS on a GPU has a limit of 2,048.
_MANY = 1000


class ServiceIndex:
    """Implements `KnnIndex` over HTTP, for any number of threads at once.

    Connections are kept from `open()`, or the first `search`, to `close()`.

    Args:
        name: of the index in the catalogue.
        settings: of the services; its texts have no variables left.
        retrieval: what the services are asked to do.

    Raises:
        RetrievalError: a URL cannot be one of a service.
    """

    local = False

    def __init__(self, name: str, settings: ServiceIndexSettings, retrieval: RetrievalSettings) -> None:
        self._name = name
        self._settings = settings
        self._retrieval = retrieval
        self._services = services_of(name, settings.url)
        self._counts: Counter[str] = Counter()
        self._opening = threading.Lock()
        self._client: _Client | None = None
        self._closed = False
        self._dim: int | None = None
        self._fields: frozenset[str] | None = None

    @property
    def identity(self) -> str:
        """The first URL, without a password, and the name of the index there."""
        limit = f";max_results={self._settings.max_results}" if self._settings.max_results else ""
        return f"clip-retrieval:{self._services[0].shown}#{self._settings.indice_name or ''}{limit}"

    @property
    def dim(self) -> int | None:
        """Of the vectors: what the first query that was answered had; None before."""
        return self._dim

    @property
    def fields(self) -> frozenset[str] | None:
        """Those that any hit so far had a column for; None before the first."""
        return self._fields

    @property
    def most(self) -> int | None:
        """What is set as `max_results`."""
        return self._settings.max_results

    @property
    def calls_at_once(self) -> int:
        """See `KnnIndex`: as many queries as the services take at once."""
        return self._settings.connections * len(self._services)

    def open(self) -> None:
        """Ask the services for their indices. Raises `RetrievalError` if all are dead, or one is something else, or has no such
        index."""
        self._closed = False
        client = self._opened()
        self._run(client, client.pool.open())

    def close(self) -> None:
        """Give up what is under way, and close the connections."""
        with self._opening:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def facts(self) -> dict[str, Any]:
        """What happened so far: requests, by service if there are several, and how many of them were asked again; services that
        were left out; results that were no hits."""
        facts: dict[str, Any] = {"requests": sum(service.asked for service in self._services)}
        if len(self._services) > 1:
            facts["requests_by_service"] = {service.shown: service.asked for service in self._services}
        return {**facts, **dict(sorted(self._counts.items()))}

    def search(self, queries: npt.NDArray[np.float32], k: int) -> Answers:
        """See `KnnIndex.search`. Before the first query each service is asked one, with few results, to see that it can.

        Raises:
            RetrievalError: the services are dead, want a key, or fail every query; or the queries do not fit the index.
            RuntimeError: the index is closed.
        """
        vectors = checked_queries(queries, self._dim, self._name)
        limit = min(k, self._settings.max_results or k)
        if not len(vectors) or limit < 1:
            return _columns([no_results() for _ in vectors], {})
        client = self._opened()
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(vectors).all(axis=1))
        if finite.any() and client.untried():
            self._run(client, self._try(client, vectors[int(np.argmax(finite))]))
        return self._run(client, self._answers(client, vectors, finite, limit))

    def vectors(self, ids: npt.NDArray[np.int64]) -> None:
        """A service does not give its vectors."""

    # --- in the thread of the caller -----------------------------------------------------------------------------

    def _opened(self) -> _Client:
        with self._opening:
            if self._closed:
                raise RuntimeError(f"index {self._name!r} is closed")
            if self._client is None:
                self._client = _Client(self._name, self._settings, self._services, self._counts, self)
            return self._client

    def _run(self, client: _Client, work: Coroutine[Any, Any, T]) -> T:
        try:
            return client.loop.run(work)
        except concurrent.futures.CancelledError as error:
            raise RuntimeError(f"index {self._name!r} was closed while it was asked") from error

    # --- in the loop ---------------------------------------------------------------------------------------------

    async def _answers(
        self,
        client: _Client,
        vectors: npt.NDArray[np.float32],
        finite: npt.NDArray[np.bool_],
        limit: int,
    ) -> Answers:
        found = [no_results() for _ in vectors]
        errors: dict[int, RowError] = {}
        todo = iter(range(len(vectors)))

        async def work(places: Iterator[int]) -> None:
            for place in places:
                if not finite[place]:
                    errors[place] = query_failed("the query holds NaN or infinity")
                    continue
                try:
                    found[place] = await self._query(client.pool, vectors[place], limit)
                except QueryError as error:
                    errors[place] = query_failed(str(error))

        workers = [asyncio.create_task(work(todo)) for _ in range(min(self.calls_at_once, len(vectors)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        return _columns(found, errors)

    async def _try(self, client: _Client, vector: npt.NDArray[np.float32]) -> None:
        """See that each service answers a query, with URLs, and the same as the others. Many may call: one tries."""
        async with client.trying:
            if client.pool.stopped is not None:
                raise client.pool.stopped
            if not client.untried():
                return
            services = client.pool.live
            found = await asyncio.gather(*(self._tried(client, service, vector) for service in services))
            tops = [
                (service.shown, set(results.hits.column("url").to_pylist()))
                for service, results in zip(services, found, strict=True)
                if results is not None and len(results.hits) == _PROBED
            ]
            for shown, urls in tops[1:]:
                if not urls & tops[0][1]:
                    raise client.pool.stop(
                        f"{tops[0][0]} and {shown} answer the same query with other images: list under `indices: {self._name}: "
                        "url:` only services of the same index"
                    )
            for service in services:
                service.tried = True
            if any(results is not None for results in found):
                self._dim = len(vector)

    async def _tried(
        self, client: _Client, service: Service, vector: npt.NDArray[np.float32]
    ) -> Results | None:
        async def works(body: dict[str, Any]) -> bool:
            try:
                answer = await client.exchange.ask("POST", f"{service.base}/knn-service", body)
                results_of(answer, _PROBED)
            except (NoAnswerError, BadAnswerError):
                return False
            return True

        limit = min(_PROBED, self._settings.max_results or _PROBED)
        try:
            results = await self._query(client.pool, vector, limit, service)
        except QueryError as error:
            why = await why_it_fails(self._body(vector, limit), works)
            if why is None or service not in client.pool.live:
                return None
            raise client.pool.stop(f"{service.shown} {why} (the first query: {error})") from error
        if results.columns and "url" not in chosen_columns(results.columns):
            raise client.pool.stop(
                f"the results of {service.shown} have no URLs, only: "
                f"{', '.join(sorted(results.columns))}. Its `columns_to_return` must name one of {', '.join(NAMES['url'])}"
            )
        return results

    async def _query(
        self, pool: Pool, vector: npt.NDArray[np.float32], limit: int, only: Service | None = None
    ) -> Results:
        try:
            results = await pool.ask(
                self._body(vector, limit), lambda answer: results_of(answer, limit), only
            )
        except QueryError as error:
            if limit < _MANY:
                raise
            raise QueryError(
                f"{error} (it was asked for {limit} results: the most that it gives can be set as `max_results:`)"
            ) from error
        self._counts.update(results.dropped)
        if len(results.hits):
            self._fields = (self._fields or frozenset()) | chosen_columns(results.columns).keys()
        return results

    def _body(self, vector: npt.NDArray[np.float32], limit: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "modality": "image",
            "indice_name": self._settings.indice_name,
            "embedding_input": vector.tolist(),
            "num_images": limit,
            "num_result_ids": limit,
            "use_mclip": False,
            "deduplicate": False,
            "use_safety_model": False,
            "use_violence_detector": False,
        }
        # Absent means none; null is answered with a 500.
        if self._retrieval.aesthetic_score is not None:
            body["aesthetic_score"] = self._retrieval.aesthetic_score
        if self._retrieval.aesthetic_weight is not None:
            body["aesthetic_weight"] = self._retrieval.aesthetic_weight
        return body


class _Client:
    """What lives in the loop: connections, and what is known of the services.

    Attributes:
        loop: that it lives in.
        exchange: with the services.
        pool: of the services.
        trying: held by who tries a service.
    """

    def __init__(
        self,
        name: str,
        settings: ServiceIndexSettings,
        services: Sequence[Service],
        counts: Counter[str],
        closing: object,
    ) -> None:
        self.loop = LoopThread("sd-assets-knn-service")
        try:
            self.exchange, self.pool, self.trying = self.loop.run(
                self._made(name, settings, services, counts)
            )
        except BaseException:
            self.loop.close(asyncio.sleep(0))
            raise
        # Who forgets to close leaves no thread behind.
        self._finalizer = weakref.finalize(closing, _shut, self.loop, self.exchange)

    @staticmethod
    async def _made(
        name: str, settings: ServiceIndexSettings, services: Sequence[Service], counts: Counter[str]
    ) -> tuple[Exchange, Pool, asyncio.Lock]:
        exchange = Exchange(settings, lambda what: RetrievalError(f"index {name!r}: {what}"))
        return exchange, Pool(name, services, settings, exchange, counts), asyncio.Lock()

    def untried(self) -> bool:
        """Whether a service lives that was not asked a first query yet."""
        return not all(service.tried for service in self.pool.live)

    def close(self) -> None:
        self._finalizer()


def _shut(loop: LoopThread, exchange: Exchange) -> None:
    loop.close(exchange.close())


def _columns(found: Sequence[Results], errors: Mapping[int, RowError]) -> Answers:
    hits = pa.Table.from_batches([results.hits for results in found], HITS).combine_chunks()
    return Answers(
        np.array([len(results.hits) for results in found], np.int64),
        hits.to_batches()[0] if len(hits) else no_results().hits,
        np.array([results.exhausted for results in found], np.bool_),
        errors,
    )
