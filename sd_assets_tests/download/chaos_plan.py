"""Which URLs a chaos run asks for, in which order, and which host has what."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sd_assets_tests.download.chaos import Authority, Behaviour, Host, Web
from sd_assets_tests.download.chaos_cases import HOSTS, NAMES, PLAIN, Case, HostKind, helpers, kept, robots
from sd_assets_tests.download.odd_images import SIZE

_PLAIN_SHARE = 0.5  # of all URLs: those of plain good images
_ORDINARY_HOSTS = 48
_PLAIN = Case("plain", None, tuple(kept(body) for body in PLAIN), size=SIZE)


@dataclass(frozen=True)
class Planned:
    """A URL, and what it must lead to.

    Attributes:
        url: as it is asked for.
        case: what it is a copy of.
        host: that it leads to; None if that must never be connected to.
        path: under which `host` counts it.
    """

    url: str
    case: Case
    host: Host | None
    path: str

    @property
    def asked(self) -> int:
        """How often it was asked for."""
        return self.host.requests[self.path] if self.host else 0


class Plan:
    """The hosts of a web, and what is asked of them.

    Args:
        web: where the hosts come up.
        authority: that those of them who speak TLS are certified by.
        cases: of which there are copies.
        urls: how many in all; what the cases leave is plain good images.

    Attributes:
        planned: in random order, by a fixed seed.
        names: what resolves to what.
    """

    def __init__(self, web: Web, authority: Authority, cases: Sequence[Case], urls: int) -> None:
        self._web = web
        self._authority = authority
        self._random = random.Random(20_240_229)
        self._turns = helpers() | {case.name: case.turns for case in cases}
        assert len(self._turns) == len(cases) + len(helpers()), "two cases have the same name"
        self.names = dict(NAMES)
        self._ordinary = [self._host(HostKind()) for _ in range(_ORDINARY_HOSTS)]
        self._odd = {name: self._host(kind) for name, kind in HOSTS.items() if not kind.alone}
        counted = sum(case.copies or 0 for case in cases)
        uncounted = sum(case.copies is None for case in cases)
        copies = round((urls * (1 - _PLAIN_SHARE) - counted) / max(uncounted, 1))
        self.planned = [self._copy(case, n) for case in cases for n in range(case.copies or copies)]
        self.planned += [self._copy(_PLAIN, n) for n in range(urls - len(self.planned))]
        self._random.shuffle(self.planned)

    def rows(self) -> list[dict[str, Any]]:
        """As the input of the stage has them."""
        return [{"url": it.url, "sha256": it.case.sha256} for it in self.planned]

    def _copy(self, case: Case, number: int) -> Planned:
        if case.url is not None:
            return Planned(case.url.replace("{n}", str(number)), case, None, "")
        if not case.host:
            host, name = self._random.choice(self._ordinary), None
        elif HOSTS[case.host].alone:
            host, name = self._host(HOSTS[case.host]), None
        else:
            host, name = self._odd[case.host], HOSTS[case.host].name
        path = f"/{case.name}/{number}{case.suffix}"
        return Planned(host.url(path, name), case, host, path)

    def _host(self, kind: HostKind) -> Host:
        def serve(path: str, before: int) -> Behaviour | None:
            first = path.split("/")[1]
            if first == "plain":
                return _PLAIN.turns[sum(path.encode()) % len(_PLAIN.turns)]
            turns = {"robots.txt": kind.robots, "robots-elsewhere": (robots("User-agent: *\nDisallow: /"),)}
            found = turns.get(first) or self._turns.get(path) or self._turns.get(first)
            return found[min(before, len(found) - 1)] if found else None

        context = None
        if kind.certificate is not None:
            context = self._authority.context(**{"name": kind.name or "address.test", **kind.certificate})
        host = self._web.host(serve, context)
        if kind.name is not None:
            self.names[kind.name] = [[host.address]]
        return host
