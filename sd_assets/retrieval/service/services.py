"""Where an index is served, and how each of the services does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import SplitResult, urlsplit

from sd_assets.errors import RetrievalError
from sd_assets.settings import without_password

# Seconds that a service that does not answer is left out at first; doubled each time that it still does not.
LEFT_OUT_S = 30.0


@dataclass(eq=False)
class Service:
    """One of the services, and how it does.

    Attributes:
        base: its URL without `/knn-service`; may hold a password.
        shown: the same without one.
        in_flight: queries that it was asked and has not answered.
        asked: requests for queries, ever.
        failures: in a row, that were not for the query.
        rests_until: when it may be asked again, by its own word (time of the loop).
        tried: it was asked a first query, see `ServiceIndex.search`.
        looked_at: when it is looked at again, as it is left out; None while it lives.
        left_out_s: how long it is left out the next time.
        why: it is left out.
    """

    base: str
    shown: str
    in_flight: int = 0
    asked: int = 0
    failures: int = 0
    rests_until: float = 0.0
    tried: bool = False
    looked_at: float | None = None
    left_out_s: float = field(default_factory=lambda: LEFT_OUT_S)
    why: str = ""


def services_of(name: str, urls: Sequence[str]) -> list[Service]:
    """The services at these URLs.

    Raises:
        RetrievalError: a URL cannot be one of a service, or is listed twice.
    """
    services = []
    for url in urls:
        shown = without_password(url)
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _has_usable_port(parts):
            raise RetrievalError(
                f"index {name!r}: `indices: {name}: url:` must look like http://host:1234, got {shown!r}"
            )
        if parts.query or parts.fragment:
            place = shown.partition("?")[0].partition("#")[0]
            raise RetrievalError(
                f"index {name!r}: `indices: {name}: url:` must end before the `?` or `#`, {place!r} goes on; a key is given as "
                "`api_key: ${KNN_KEY}`, with `api_key_header:`"
            )
        base, shown = (it.rstrip("/").removesuffix("/knn-service").rstrip("/") for it in (url, shown))
        services.append(Service(base, shown))
    repeated = [shown for shown, times in Counter(service.shown for service in services).items() if times > 1]
    if repeated:
        raise RetrievalError(f"index {name!r}: `indices: {name}: url:` lists {repeated[0]} more than once")
    return services


def _has_usable_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False
