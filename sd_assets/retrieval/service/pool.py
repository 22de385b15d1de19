"""Which of the services a query is asked of, when it is asked again, and what is done about one that is dead."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.service import services
from sd_assets.retrieval.service.services import Service
from sd_assets.services.backoff import LONGEST_BACKOFF_S, backoff_s
from sd_assets.services.exchange import BadAnswerError, Exchange, NoAnswerError
from sd_assets.settings import ServiceIndexSettings

T = TypeVar("T")

_log = logging.getLogger(__name__)

# The longest that a service is left out, see `Service.left_out_s`.
_LONGEST_LEFT_OUT_S = 600.0
# Whether a service lives is asked with less patience than a query.
_CHECK_S = 10.0
# A service that is slow once is not dead; one that fails so often in a row what others answer is left out.
_FAILURES = 3
# One query may fail; when so many do one after the other, it is not because of them.
FAILED_IN_A_ROW = 20
_LONGEST_FAILURE = 250  # characters


class QueryError(Exception):
    """One query has no answer: a row that fails."""


class _WrongServiceError(Exception):
    """What answers there is no service that has the index. The message goes on behind the service's URL."""


class Pool:
    """Services that hold the same index; used in one event loop.

    Args:
        name: of the index, for messages.
        services: where it is served.
        settings: of the index.
        exchange: that they are asked with.
        counts: what is counted: requests that were asked again (`requests_retried`), services that were left out.

    Attributes:
        stopped: what all queries end with from now on.
    """

    def __init__(
        self,
        name: str,
        services: Sequence[Service],
        settings: ServiceIndexSettings,
        exchange: Exchange,
        counts: Counter[str],
    ) -> None:
        self._name = name
        self._services = services
        self._settings = settings
        self._exchange = exchange
        self._changed = asyncio.Condition()
        self._looking = asyncio.Lock()
        self._returning: set[asyncio.Task[str | None]] = set()
        self.stopped: RetrievalError | None = None
        self._failed_in_a_row = 0
        self._counts = counts

    @property
    def live(self) -> list[Service]:
        """The services that are not left out."""
        return [service for service in self._services if service.looked_at is None]

    # --- is there anybody ----------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Ask every service for its indices; those that do not answer are left out.

        Raises:
            RetrievalError: none answers, or one is something else, or has no such index.
        """
        self.stopped = None
        for wrong in await asyncio.gather(*map(self._look_at, self._services)):
            if wrong is not None:
                raise self.stop(wrong)
        self._require_one()

    async def _look_at(self, service: Service) -> str | None:
        """Take a service back, or leave it out. If it answers, and is not what is looked for, what is wrong with it."""
        try:
            await self._check(service)
        except NoAnswerError as error:
            await self._leave_out(service, f"does not answer ({error})")
        except _WrongServiceError as error:
            await self._leave_out(service, str(error))
            return f"{service.shown} {error}"
        else:
            await self._take_back(service)
        return None

    async def _check(self, service: Service) -> None:
        """Raises NoAnswerError and _WrongServiceError."""
        try:
            listed = await self._retried(service, "GET", "indices-list")
        except BadAnswerError as error:
            if error.unauthorised:
                raise _WrongServiceError(self._unauthorised(error)) from error
            raise _WrongServiceError(
                f"is not a working clip-retrieval service: GET /indices-list: {error}. {self._remedy()}"
            ) from error
        if not isinstance(listed, list):
            raise _WrongServiceError(
                f"is no clip-retrieval service: GET /indices-list gave {self._exchange.quoted(listed)!r}. {self._remedy()}"
            )
        wanted = self._settings.indice_name
        if wanted not in listed and (wanted is not None or not listed):
            has = ", ".join(map(str, listed))[:500] or "none"
            raise _WrongServiceError(
                f"has no index {wanted!r}; it has: {has}. Correct `indices: {self._name}: indice_name:` in the catalogue; null "
                "is the first"
            )

    async def _retried(self, service: Service, method: str, path: str) -> Any:
        for number in range(self._settings.retries):
            try:
                return await self._exchange.ask(method, f"{service.base}/{path}", timeout_s=_CHECK_S)
            except (NoAnswerError, BadAnswerError) as error:
                if isinstance(error, BadAnswerError) and not error.may_pass:
                    raise
                await asyncio.sleep(min(max(backoff_s(number), error.wait_s or 0), LONGEST_BACKOFF_S))
        return await self._exchange.ask(method, f"{service.base}/{path}", timeout_s=_CHECK_S)

    # --- queries -------------------------------------------------------------------------------------------------

    async def ask(self, body: dict[str, Any], read: Callable[[Any], T], only: Service | None = None) -> T:
        """What a service answers to `POST /knn-service`.

        Args:
            body: of the request.
            read: what is made of the JSON; raises BadAnswerError.
            only: this service, if it lives; else whichever has least to do.

        Raises:
            QueryError: this query failed, after all attempts.
            RetrievalError: no service is left, or one wants a key, or nothing but failures came for long.
        """
        try:
            answer = await self._attempts(body, read, only)
        except QueryError as error:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= FAILED_IN_A_ROW:
                raise self.stop(
                    f"the last {self._failed_in_a_row} queries have all failed, the last one at {error}. Look at the log of the "
                    "service, and start the asset again: what was answered is kept"
                ) from error
            raise
        self._failed_in_a_row = 0
        return answer

    async def _attempts(self, body: dict[str, Any], read: Callable[[Any], T], only: Service | None) -> T:
        loop = asyncio.get_running_loop()
        deadline: float | None = None
        failed_at: list[Service] = []
        failed = 0
        while True:
            service = await self._free(failed_at, only, deadline)
            deadline = deadline or loop.time() + self._settings.deadline_s
            try:
                left = max(deadline - loop.time(), 0.001)
                answer = read(await self._exchange.ask("POST", f"{service.base}/knn-service", body, left))
            except (NoAnswerError, BadAnswerError) as error:
                why = error
            else:
                await self._answered(service, failed_at)
                return answer
            finally:
                service.in_flight -= 1
                await self._tell()
            if isinstance(why, BadAnswerError) and why.unauthorised:
                raise self.stop(f"{service.shown} {self._unauthorised(why)}") from why
            if isinstance(why, NoAnswerError) and why.refused and len(self.live) > 1:
                await self._leave_out(service, f"does not answer ({why})")
            if why.wait_s:
                service.rests_until = max(service.rests_until, loop.time() + why.wait_s)
            failed_at.append(service)
            if only is None and self._others(failed_at):
                self._counts["requests_retried"] += 1
                continue  # another one may know better, at once
            if isinstance(why, BadAnswerError) and not why.may_pass:
                raise self._failed(service, why) from why
            failed += 1
            wait_s = max(backoff_s(failed - 1), why.wait_s or 0)
            late = loop.time() + wait_s >= deadline
            if failed > self._settings.retries or late:
                if isinstance(why, NoAnswerError):
                    # A service that died must not fill a table with failed rows.
                    await self._look_again()
                no_time = f" (no time is left to try again: `deadline_s:` is {self._settings.deadline_s:g})"
                raise self._failed(service, f"{why}{no_time if late else ''}") from why
            self._counts["requests_retried"] += 1
            failed_at = [service]
            if not why.wait_s:  # else it rests, and another one may be asked meanwhile
                await asyncio.sleep(wait_s)

    async def _answered(self, service: Service, failed_at: Sequence[Service]) -> None:
        """A service answered what others had failed at: it was not for the query."""
        service.failures, service.left_out_s = 0, services.LEFT_OUT_S
        for other in set(failed_at) - {service}:
            if other.looked_at is None:
                other.failures += 1
                if other.failures >= _FAILURES:
                    await self._leave_out(other, "fails queries that others answer")

    async def _free(
        self, failed_at: Sequence[Service], only: Service | None, deadline: float | None
    ) -> Service:
        """A service that may be asked now, with one more query in flight: rather none that has failed already.

        Raises:
            QueryError: all want to be left alone for longer than the deadline.
            RetrievalError: none is left.
        """
        loop = asyncio.get_running_loop()
        entered = loop.time()
        while True:
            if self.stopped is not None:
                raise self.stopped
            now = loop.time()
            self._return_due(now)
            live = [service for service in self.live if only in (None, service)]
            if not live:
                await self._look_again()
                if only is not None and only not in self.live:
                    raise QueryError(f"{only.shown} {only.why}")
                continue
            others = [service for service in self._others(failed_at) if service in live]
            awake = others or [service for service in live if service.rests_until <= now]
            ready = [service for service in awake if service.in_flight < self._settings.connections]
            if ready:
                chosen = min(ready, key=lambda it: (it.in_flight, it.asked))
                chosen.in_flight += 1
                chosen.asked += 1
                return chosen
            wakes = math.inf
            if not awake:
                wakes = min(service.rests_until for service in live)
                if wakes > (deadline or entered + self._settings.deadline_s):
                    raise QueryError(
                        f"{live[0].shown} wants to be left alone for {wakes - now:.0f} s more (Retry-After)"
                    )
            await self._wait(None if math.isinf(wakes) else wakes - now)

    def _others(self, failed_at: Sequence[Service]) -> list[Service]:
        """Services that may be asked now, and have not failed."""
        now = asyncio.get_running_loop().time()
        return [it for it in self.live if it not in failed_at and it.rests_until <= now]

    async def _wait(self, seconds: float | None) -> None:
        async with self._changed:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # --- services that die, and live again -----------------------------------------------------------------------

    async def _look_again(self) -> None:
        """Raises RetrievalError if no service answers any more. Many may ask at once: one looks."""
        if self._looking.locked():
            async with self._looking:
                if self.stopped is not None:
                    raise self.stopped
                return
        async with self._looking:
            await asyncio.gather(*map(self._look_at, self._services))
            self._require_one()

    def _require_one(self) -> None:
        if self.live:
            return
        if len(self._services) == 1:
            raise self.stop(f"{self._services[0].shown} {self._services[0].why}. {self._remedy()}")
        listed = "; ".join(f"{service.shown} {service.why}" for service in self._services)
        raise self.stop(f"none of its {len(self._services)} services answers: {listed}. {self._remedy()}")

    async def _leave_out(self, service: Service, why: str) -> None:
        service.why = why
        lived = service.looked_at is None
        service.looked_at = asyncio.get_running_loop().time() + service.left_out_s
        if lived and len(self._services) > 1:
            self._counts["services_left_out"] += 1
            _log.warning(
                "index %r: %s %s: it is left out, and tried again after %g s",
                self._name,
                service.shown,
                service.why,
                service.left_out_s,
            )
        service.left_out_s = min(2 * service.left_out_s, _LONGEST_LEFT_OUT_S)
        await self._tell()

    async def _take_back(self, service: Service) -> None:
        if service.looked_at is not None:
            _log.info("index %r: %s answers again", self._name, service.shown)
        service.looked_at, service.failures, service.why = None, 0, ""
        await self._tell()

    def _return_due(self, now: float) -> None:
        """Look at those whose time is up, while the others go on."""
        for service in self._services:
            if service.looked_at is not None and service.looked_at <= now:
                service.looked_at = math.inf
                task = asyncio.create_task(self._look_at(service))
                self._returning.add(task)
                task.add_done_callback(self._returning.discard)

    # --- what is said --------------------------------------------------------------------------------------------

    def stop(self, what: str) -> RetrievalError:
        """The error that this query, and all that follow, end with: the first one that is found."""
        if self.stopped is None:
            self.stopped = RetrievalError(f"index {self._name!r}: {self._exchange.without_key(what)}")
        return self.stopped

    def _failed(self, service: Service, why: object) -> QueryError:
        # The key goes first, so that no half of one is left.
        return QueryError(self._exchange.without_key(f"{service.shown}: {why}")[:_LONGEST_FAILURE])

    def _unauthorised(self, error: BadAnswerError) -> str:
        given = "does not take the key that it was given" if self._settings.api_key else "wants a key"
        return (
            f"{given} ({error}). Set `indices: {self._name}: api_key: ${{KNN_KEY}}` in the catalogue, and that variable; "
            f"`api_key_header:` is {self._settings.api_key_header!r}"
        )

    def _remedy(self) -> str:
        return (
            f"Start that service, or point to another: `indices: {self._name}: url: http://host:1234` in the catalogue, or the "
            "environment variable that this url is written with there"
        )
