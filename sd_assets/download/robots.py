"""robots.txt (RFC 9309): what a host does not want to be asked for."""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from protego import Protego
from yarl import URL

from sd_assets.download.codes import FetchError
from sd_assets.errors import ErrorCode

MAX_BYTES = 500 * 1024  # of the file; what comes after it is not read (RFC 9309, 2.5)
MAX_REDIRECTS = 5  # (RFC 9309, 2.3.1.2)
_KEPT_S = 86_400.0  # (RFC 9309, 2.4)
# Why it cannot be had may pass sooner.
_FAILURE_KEPT_S = 60.0
# Rules of all hosts together, and as many hosts without any: the hosts asked least lately are forgotten.
_MOST_RULES = 100_000
# Each rule with a wildcard costs time at every URL, so of a file with thousands of them the first ones count.
_MOST_WILDCARDS = 1_000
# Longer texts are taken apart in a thread.
_LONG = 20_000

# It is not there, or nobody can say where: all is allowed (RFC 9309, 2.3.1.3).
_UNAVAILABLE = frozenset(
    {
        ErrorCode.NOT_FOUND,
        ErrorCode.ACCESS_DENIED,
        ErrorCode.CLIENT_ERROR,
        ErrorCode.UNEXPECTED_STATUS,
        ErrorCode.TOO_MANY_REDIRECTS,
        ErrorCode.INVALID_REDIRECT,
        ErrorCode.UNSUPPORTED_SCHEME,
        ErrorCode.BLOCKED,
    }
)


@dataclass(frozen=True)
class _Known:
    """What is known of a host.

    Attributes:
        until: when it has to be asked for anew, of the monotonic clock.
        rules: None if all is allowed.
        weight: how many rules there are, and one.
        failure: why it is not known what is allowed.
    """

    until: float
    rules: Protego | None = None
    weight: int = 1
    failure: FetchError | None = None


class Robots:
    """The robots.txt of hosts, each asked for once by however many URLs. Of the event loop's thread.

    Args:
        product: the token that files may name us by.
        load: the text of a URL's file. Raises FetchError after as many attempts as there are to be.
    """

    def __init__(self, product: str, load: Callable[[URL], Awaitable[str]]) -> None:
        self._product = product
        self._load = load
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._weight = 0
        self._loading: dict[str, asyncio.Task[_Known]] = {}

    async def check(self, url: URL) -> None:
        """Waits until it is known whether a URL may be asked for.

        Raises:
            FetchError: OPTED_OUT: it may not. SERVER_ERROR, RATE_LIMITED or what is wrong with the connection: the file
                cannot be had, which forbids everything for now.
        """
        origin = f"{url.scheme}://{url.raw_host}:{url.port}"
        known = self._known.get(origin)
        if known is None or known.until < time.monotonic():
            task = self._loading.get(origin)
            if task is None:
                task = self._loading[origin] = asyncio.create_task(self._find(origin, url))
            known = await asyncio.shield(task)  # others wait for it, too
        else:
            self._known.move_to_end(origin)
        if known.failure is not None:
            raise _again(known.failure)
        if known.rules is not None and not known.rules.can_fetch(str(url), "*"):
            raise FetchError(ErrorCode.OPTED_OUT, f"robots.txt disallows it for {self._product}")

    async def _find(self, origin: str, url: URL) -> _Known:
        try:
            known = await self._ask(url)
            if known.failure is None or known.failure.asked:
                self._remember(origin, known)
            return known
        finally:
            del self._loading[origin]

    async def _ask(self, url: URL) -> _Known:
        try:
            text = await self._load(url.origin() / "robots.txt")
        except FetchError as error:
            # A redirect to a place that may not be asked is like one to nowhere.
            astray = error.code == ErrorCode.ADDRESS_FORBIDDEN and error.status is not None
            if error.code in _UNAVAILABLE or astray:
                return _Known(time.monotonic() + _KEPT_S)
            return _Known(time.monotonic() + _FAILURE_KEPT_S, failure=error)
        if len(text) > _LONG:
            lines = await asyncio.to_thread(rules_for, text, self._product)
            rules = await asyncio.to_thread(_parsed, lines)
        else:
            lines = rules_for(text, self._product)
            rules = _parsed(lines)
        return _Known(time.monotonic() + _KEPT_S, rules, len(lines) + 1)

    def _remember(self, origin: str, known: _Known) -> None:
        before = self._known.pop(origin, None)
        self._known[origin] = known
        self._weight += known.weight - (before.weight if before else 0)
        while self._weight > _MOST_RULES and len(self._known) > 1:
            self._weight -= self._known.popitem(last=False)[1].weight


def _again(failure: FetchError) -> FetchError:
    """The failure to get the file, as that of a URL. As many attempts as there may be have been made."""
    of_host = failure.code in (ErrorCode.DNS_ERROR, ErrorCode.ADDRESS_FORBIDDEN) or not failure.asked
    return FetchError(
        failure.code,
        failure.detail if of_host else f"robots.txt: {failure.detail}",
        retry_after=failure.retry_after,
        again=False,
        asked=failure.asked,
        attempts=failure.attempts,
    )


def product_token(user_agent: str) -> str:
    """What stands before the `/`: the name that robots.txt and X-Robots-Tag may know us by."""
    return re.split(r"[/\s]", user_agent.strip(), maxsplit=1)[0]


def rules_for(text: str, product: str) -> list[str]:
    """The lines `Allow:` and `Disallow:` of the groups for `product`, or else for all (`*`), of a robots.txt.

    A library that keeps the groups of all agents takes time and memory by the square of a file's size.
    """
    ours: list[str] = []
    anybodys: list[str] = []
    agents: set[str] = set()
    wildcards = 0
    named = in_rules = False
    for line in text.removeprefix("\ufeff").splitlines():
        name, colon, value = (part.strip() for part in line.partition("#")[0].partition(":"))
        name = name.lower()
        if not colon:
            continue
        if name in ("user-agent", "useragent"):
            agents = set() if in_rules else agents
            in_rules = False
            agents.add(product_token(value).lower())
            named = named or product.lower() in agents
        elif name in ("allow", "disallow"):
            in_rules = True
            group = ours if product.lower() in agents else anybodys if "*" in agents else None
            if group is None or not value:
                continue
            if "*" in value or "$" in value:
                wildcards += 1
                if wildcards > _MOST_WILDCARDS:
                    continue
            group.append(f"{name}: {value}")
    return ours if named else anybodys


def _parsed(lines: list[str]) -> Protego | None:
    return Protego.parse("\n".join(["User-agent: *", *lines])) if lines else None
