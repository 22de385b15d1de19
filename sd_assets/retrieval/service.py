"""HTTP client of a clip-retrieval back end (`clip-retrieval back`): `POST /knn-service`, one query a request."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import urlsplit

import aiohttp
import numpy as np
import numpy.typing as npt

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.columns import chosen_columns, hit_of
from sd_assets.retrieval.index import Answer, Hit, checked_queries, query_failed
from sd_assets.settings import RetrievalSettings, ServiceIndexSettings

T = TypeVar("T")

_BACKOFF_S = 0.25
_LONGEST_WAIT_S = 30.0
# What may pass. A back end also answers 500 to what never passes (it has no better code), which costs the few retries.
_MAY_PASS = frozenset({408, 425, 429, 500, 502, 503, 504})


class _NoAnswerError(Exception):
    """No HTTP answer came: refused, reset, or too late."""


class _BadAnswerError(Exception):
    """An HTTP answer that is no list of results. `wait_s`: how long the server asks to wait, where trying again may help."""

    def __init__(self, detail: str, *, may_pass: bool, wait_s: float | None = None) -> None:
        super().__init__(detail)
        self.may_pass = may_pass
        self.wait_s = wait_s


class ServiceIndex:
    """Implements `KnnIndex` over HTTP. Only the server knows its vectors' dimension."""

    local = False
    dim: int | None = None

    def __init__(self, name: str, settings: ServiceIndexSettings, retrieval: RetrievalSettings) -> None:
        parts = urlsplit(settings.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise RetrievalError(
                f"index {name!r}: `indices: {name}: url:` must look like http://host:1234, got {settings.url!r}"
            )
        self._name = name
        self._settings = settings
        self._retrieval = retrieval
        self._base = settings.url.rstrip("/").removesuffix("/knn-service").rstrip("/")
        self._shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def identity(self) -> str:
        """The URL, without a password, and the name of the index there."""
        base = self._shown.rstrip("/").removesuffix("/knn-service").rstrip("/")
        return f"clip-retrieval:{base}#{self._settings.indice_name or ''}"

    def open(self) -> None:
        """Ask the service for its indices. Raises `RetrievalError` if it is dead, is something else, or has no such index."""
        _run(self._in_session(self._check))

    def search(self, queries: npt.NDArray[np.float32], k: int) -> list[Answer]:
        """See `KnnIndex.search`. Raises only if queries got no answer at all and the service is found dead."""
        vectors = checked_queries(queries, None, self._name)
        if not len(vectors):
            return []
        return _run(self._in_session(lambda session: self._search(session, vectors, k)))

    async def _in_session(self, work: Callable[[aiohttp.ClientSession], Awaitable[T]]) -> T:
        connector = aiohttp.TCPConnector(limit=self._settings.connections)
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, trust_env=True) as session:
            return await work(session)

    async def _check(self, session: aiohttp.ClientSession) -> None:
        try:
            answer = await self._retried(lambda: _asked(session, "GET", f"{self._base}/indices-list"))
        except _NoAnswerError as error:
            raise self._dead(f"does not answer ({error})") from error
        except _BadAnswerError as error:
            raise self._dead(
                f"is not a working clip-retrieval service: GET /indices-list: {error}"
            ) from error
        if not isinstance(answer, list):
            raise self._dead(f"is no clip-retrieval service: GET /indices-list gave {str(answer)[:80]!r}")
        wanted = self._settings.indice_name
        if wanted is not None and wanted not in answer:
            raise RetrievalError(
                f"index {self._name!r}: the service {self._shown} has no index {wanted!r}; it has: {', '.join(map(str, answer))}. "
                f"Correct `indices: {self._name}: indice_name:` in the catalogue; null is the first"
            )

    async def _search(
        self, session: aiohttp.ClientSession, vectors: npt.NDArray[np.float32], k: int
    ) -> list[Answer]:
        free = asyncio.Semaphore(self._settings.connections)
        unanswered = 0

        async def one(vector: npt.NDArray[np.float32]) -> Answer:
            nonlocal unanswered
            if not np.isfinite(vector).all():
                return query_failed("the query holds NaN or infinity")
            body = self._body(vector, k)
            async with free:
                try:
                    return await self._retried(lambda: self._query(session, body, k))
                except _NoAnswerError as error:
                    unanswered += 1
                    return query_failed(f"{self._shown}: {error}")
                except _BadAnswerError as error:
                    return query_failed(f"{self._shown}: {error}")

        answers = await asyncio.gather(*map(one, vectors))
        if unanswered:
            await self._check(session)  # a service that died must not fill a table with failed rows
        return answers

    def _body(self, vector: npt.NDArray[np.float32], k: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "modality": "image",
            "indice_name": self._settings.indice_name,
            "embedding_input": vector.tolist(),
            "num_images": k,
            "num_result_ids": k,
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

    async def _query(self, session: aiohttp.ClientSession, body: dict[str, Any], k: int) -> list[Hit]:
        answer = await _asked(session, "POST", f"{self._base}/knn-service", body)
        if not isinstance(answer, list) or not all(isinstance(row, dict) for row in answer):
            raise _BadAnswerError(f"the answer is no list of results: {str(answer)[:80]!r}", may_pass=False)
        return _hits(answer, k)

    async def _retried(self, attempt: Callable[[], Coroutine[Any, Any, T]]) -> T:
        for number in range(self._settings.retries):
            wait = _BACKOFF_S * 2**number
            try:
                return await attempt()
            except _NoAnswerError:
                pass
            except _BadAnswerError as error:
                if not error.may_pass:
                    raise
                wait = max(wait, error.wait_s or 0.0)
            await asyncio.sleep(min(wait, _LONGEST_WAIT_S))
        return await attempt()

    def _dead(self, what: str) -> RetrievalError:
        return RetrievalError(
            f"index {self._name!r}: {self._shown} {what}. Start that service, or point to another: `indices: {self._name}: url: "
            "http://host:1234` in the catalogue, or the environment variable that this url is written with there"
        )


def _hits(rows: list[dict[str, Any]], k: int) -> list[Hit]:
    """The results that name a URL, best first. Some carry only an id: the server drops the metadata of what it left out."""
    columns = chosen_columns({column for row in rows for column in row})
    scored = [(row, similarity) for row in rows if (similarity := _number(row.get("similarity"))) is not None]
    hits: list[Hit] = []
    for row, similarity in sorted(scored, key=lambda it: -it[1]):
        hit = hit_of(row, columns, similarity, rank=len(hits))
        if hit is not None:
            hits.append(hit)
    return hits[:k]


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


async def _asked(session: aiohttp.ClientSession, method: str, url: str, body: Any = None) -> Any:
    """One request: the JSON of its answer. Raises `_NoAnswerError` and `_BadAnswerError`."""
    try:
        async with session.request(method, url, json=body) as response:
            content = await response.read()
            status, kind = response.status, response.headers.get("Content-Type", "no content type")
            wait = response.headers.get("Retry-After", "")
    except TimeoutError as error:
        raise _NoAnswerError("no answer in time") from error
    except (aiohttp.ClientError, OSError) as error:
        raise _NoAnswerError(f"{type(error).__name__}: {error}") from error
    text = content.decode("utf-8", "replace")
    if status != 200:
        raise _BadAnswerError(
            f"HTTP {status}: {text[:80]!r}",
            may_pass=status in _MAY_PASS,
            wait_s=float(wait) if wait.isascii() and wait.isdigit() else None,
        )
    try:
        # The server writes missing numbers as a bare NaN, which JSON does not have.
        return json.loads(text, parse_constant=lambda _: None)
    except ValueError as error:
        raise _BadAnswerError(f"HTTP 200, but no JSON ({kind}): {text[:80]!r}", may_pass=False) from error


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end in a loop of its own, in a thread of its own: the caller may be inside a running loop."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
