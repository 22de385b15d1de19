"""Asking an endpoint: again where that may help, and no more once it fails everything."""

from __future__ import annotations

import asyncio
import concurrent.futures
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import urlsplit

from sd_assets.errors import ErrorCode, ModelError, RowError
from sd_assets.models.endpoint.protocol import ProtocolError, captions, request, served_models, tokens
from sd_assets.services.backoff import backoff_s
from sd_assets.services.exchange import BadAnswerError, Exchange, NoAnswerError
from sd_assets.services.loop_thread import LoopThread
from sd_assets.settings import CaptionSettings, EndpointSettings, without_password

T = TypeVar("T")

# One picture may fail; when so many do one after the other, it is not because of them.
FAILED_IN_A_ROW = 20
# Of these every request would die.
_NOTHING_THERE = frozenset({404, 405, 410, 501})
_KEPT = "What is finished is kept, and the next run goes on from there"


class EndpointClient:
    """Connections to an endpoint, and how it does. For any number of threads at once.

    Args:
        base: the URL that the paths of the protocol follow.
        model: as it is named there.
        settings: how it is asked.
        counts: what is counted: `requests`, those that were made again (`requests_retried`), and their costs in tokens.

    Raises:
        ModelError: the key can stand in no header.
    """

    def __init__(self, base: str, model: str, settings: EndpointSettings, counts: Counter[str]) -> None:
        self._base = base
        self._model = model
        self._settings = settings
        self._counts = counts
        self._shown = without_password(base)
        self._worked = False
        self._failed_in_a_row = 0
        self._stopped: ModelError | None = None
        self._loop = LoopThread("sd-assets-captioner")
        where = self._where
        try:
            # Not by a method of this object, which must not hold itself.
            self._exchange = self._loop.run(_made(settings, lambda what: ModelError(f"{where}: {what}")))
        except BaseException:
            self._loop.close(asyncio.sleep(0))
            raise
        # Who forgets to close leaves no thread behind.
        self._finalizer = weakref.finalize(self, _shut, self._loop, self._exchange)

    def close(self) -> None:
        """Give up what is under way, and close the connections."""
        self._finalizer()

    def probe(self) -> None:
        """Ask the endpoint for its models.

        Raises:
            ModelError: it cannot be reached, wants another key, or does not serve the model.
        """
        self._run(self._probe())

    def captions(self, picture: str, kind: CaptionSettings) -> list[str | RowError]:
        """As many captions of a picture as the kind counts, or why there are none.

        Args:
            picture: its data URL.
            kind: what they are to be like.

        Raises:
            ModelError: the endpoint fails every picture, or will fail every one.
            RuntimeError: it was closed meanwhile.
        """
        return self._run(self._captions(picture, kind))

    @property
    def _where(self) -> str:
        return f"the captioner {self._model!r} at {self._shown}"

    def _unusable(self, what: str) -> ModelError:
        return ModelError(f"{self._where}: {what}")

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._loop.run(work)
        except concurrent.futures.CancelledError as error:
            raise RuntimeError(f"{self._where} was closed while it was asked") from error

    # --- in the loop ---------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        try:
            served = await self._attempts("GET", "models", None, served_models)
        except BadAnswerError as error:
            if error.status in _NOTHING_THERE:
                return  # not every server lists its models; the first picture tells
            raise self._wrong(error) from error
        except NoAnswerError as error:
            raise self._unusable(
                f"it does not answer ({error}): start it, or correct `captioner: endpoint: url:` in the catalogue"
            ) from error
        # Ollama's names have tags, which need not be said.
        if served and self._model not in {*served, *(name.partition(":")[0] for name in served)}:
            listed = ", ".join(sorted(served)[:20])
            raise self._unusable(
                f"the endpoint does not serve it; it serves: {self._exchange.without_key(listed)}. Correct `captioner: model:`"
            )

    async def _captions(self, picture: str, kind: CaptionSettings) -> list[str | RowError]:
        """As many as the kind counts. Some servers answer with one, however many are asked for: they are asked again."""
        found: list[str | RowError] = []
        while len(found) < kind.count:
            body = request(self._model, picture, kind, self._settings.body, had=len(found))
            try:
                found += await self._attempts("POST", "chat/completions", body, captions)
            except (NoAnswerError, BadAnswerError) as error:
                failed = self._failed(error)
                found += [failed] * (kind.count - len(found))
            else:
                self._worked, self._failed_in_a_row = True, 0
        return found[: kind.count]

    async def _attempts(self, method: str, path: str, body: Any, read: Callable[[Any], T]) -> T:
        """What `read` makes of the answer. Asked again where that may help, until the deadline.

        Raises:
            NoAnswerError, BadAnswerError: of the last attempt.
            ModelError: it was found meanwhile that the endpoint fails everything.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.deadline_s
        failed = 0
        while True:
            if self._stopped is not None:
                raise self._stopped
            self._counts["requests"] += 1
            try:
                left = max(deadline - loop.time(), 0.001)
                answer = await self._exchange.ask(method, f"{self._base}/{path}", body, left)
                self._counts.update(tokens(answer))
                return read(answer)
            except ProtocolError as error:
                raise BadAnswerError(self._exchange.quoted(error), 200) from error
            except (NoAnswerError, BadAnswerError) as error:
                wait_s = max(backoff_s(failed), error.wait_s or 0)
                late = failed == self._settings.retries or loop.time() + wait_s >= deadline
                if late or not _may_pass(error):
                    raise
            await asyncio.sleep(wait_s)
            failed += 1
            self._counts["requests_retried"] += 1

    def _failed(self, error: NoAnswerError | BadAnswerError) -> RowError:
        """Why this picture has no caption; raises what ends them all, if it is not because of the picture."""
        if isinstance(error, BadAnswerError) and self._ends_all(error):
            self._stopped = self._wrong(error)
            raise self._stopped from error
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= FAILED_IN_A_ROW:
            self._stopped = self._unusable(
                f"{FAILED_IN_A_ROW} images in a row failed, the last one with: {error}. Look at the server's log, and whether the "
                f"model takes images. {_KEPT}"
            )
            raise self._stopped from error
        return RowError(_code_of(error), f"{self._shown}: {error}")

    def _ends_all(self, error: BadAnswerError) -> bool:
        if error.status == 403:
            return not self._worked  # later it is the picture that some do not let pass
        return error.unauthorised or error.status in _NOTHING_THERE or 300 <= error.status < 400

    def _wrong(self, error: BadAnswerError) -> ModelError:
        if error.unauthorised:
            given = "does not take the key that it was given" if self._settings.api_key else "wants a key"
            return self._unusable(
                f"the endpoint {given} ({error}). Set `captioner: endpoint: api_key: ${{API_KEY}}` in the catalogue, and that "
                f"variable; `api_key_header:` is {self._settings.api_key_header!r}. {_KEPT}"
            )
        return self._unusable(
            f"the URL is no OpenAI-compatible endpoint that serves this model ({error}): `captioner: endpoint: url:` ends in /v1 "
            "for most, and `captioner: model:` is the model's name there"
        )


async def _made(settings: EndpointSettings, unusable: Callable[[str], ModelError]) -> Exchange:
    return Exchange(settings, unusable)


def _shut(loop: LoopThread, exchange: Exchange) -> None:
    loop.close(exchange.close())


def base_of(url: str) -> str:
    """The URL that the paths of the protocol follow.

    Raises:
        ModelError: it cannot be one.
    """
    parts = urlsplit(url)
    shown = without_password(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ModelError(f"`captioner: endpoint: url:` must look like https://host/v1, got {shown!r}")
    if parts.query or parts.fragment:
        place = shown.partition("?")[0].partition("#")[0]
        raise ModelError(
            f"`captioner: endpoint: url:` must end before the `?` or `#`, {place!r} goes on; a key is given as `api_key: "
            "${API_KEY}`, with `api_key_header:`"
        )
    return url.rstrip("/").removesuffix("/chat/completions")


def _may_pass(error: NoAnswerError | BadAnswerError) -> bool:
    if isinstance(error, NoAnswerError) or error.may_pass:
        return True
    # Proxies have numbers of their own for a server that is busy: 520, 529.
    return error.status >= 500 and error.status not in _NOTHING_THERE


def _code_of(error: NoAnswerError | BadAnswerError) -> ErrorCode:
    if isinstance(error, NoAnswerError):
        if error.status is not None:
            return ErrorCode.SERVER_ERROR
        return ErrorCode.TIMEOUT if error.late else ErrorCode.CONNECTION_FAILED
    if error.status == 429:
        return ErrorCode.RATE_LIMITED
    return ErrorCode.CAPTION_REFUSED if 400 <= error.status < 500 else ErrorCode.SERVER_ERROR
