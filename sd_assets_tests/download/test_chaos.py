"""Five thousand URLs of a web at its worst: every row has the right code, and the run ends, small and silent."""

import contextlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from sd_assets.download.codes import TRANSIENT
from sd_assets.errors import ErrorCode
from sd_assets.schemas import text_id
from sd_assets.settings import DownloadSettings
from sd_assets_tests.download import isolated
from sd_assets_tests.download.chaos import NETWORK, Authority, Host, Web
from sd_assets_tests.download.chaos_cases import (
    BREAKS,
    MAX_BYTES,
    OURS,
    PLAIN,
    RETRIES,
    TIMEOUT_S,
    Case,
    cases,
    kept,
    redirect,
)
from sd_assets_tests.download.chaos_plan import Plan

URLS = 5_000
SETTINGS: dict[str, Any] = {
    "image_size": 32,
    "resize_mode": "keep_ratio",
    "min_image_size": 16,
    "max_aspect_ratio": 4,
    "max_pixels": 1_000_000,
    "max_bytes": MAX_BYTES,
    "timeout_s": TIMEOUT_S,
    "retries": RETRIES,
    "user_agent": f"{OURS}/1",
    "contact": "mailto:chaos@example.org",
    "allow_addresses": (NETWORK,),
}
# Each of 64 connections may hold `max_bytes`, each of a few threads an image of `max_pixels` in two or three copies, and the
# table's next shard is in memory: about 100 MB if all that came together. One bomb of 60,000 x 60,000 pixels is 10.8 GB, one
# gzip bomb is 1 GB, and an endless body comes at hundreds of MB a second.
MAX_GROWN = 150_000_000


LATER = {"retry_failed_after_h": 0}
MUCH_LATER = {"retry_permanent_after_d": 0, "refetch_after_d": 0}


@dataclass(frozen=True)
class Chaos:
    """A run that is over, and what the web saw of it."""

    plan: Plan
    hosts: list[Host]
    forbidden: list[Host]
    run: isolated.Run


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    folder = tmp_path_factory.mktemp("chaos")
    with Web() as web:
        forbidden = _forbidden_hosts(web)
        authority = Authority(folder)
        plan = Plan(web, authority, cases(forbidden[0].port), URLS)
        # That it returns within its time is the assertion that nothing hangs.
        run = isolated.run(
            folder, plan.rows(), SETTINGS, plan.names, {"SSL_CERT_FILE": str(authority.bundle)}, timeout_s=200
        )
        yield Chaos(plan, web.hosts, forbidden, run)


def _forbidden_hosts(web: Web) -> list[Host]:
    """Hosts that would answer, outside the network that may be connected to: all at one port."""
    hosts = [web.host(lambda *_: kept(PLAIN[0]), address="127.0.0.1")]
    for address in ("127.2.0.1", "::1"):
        with contextlib.suppress(OSError):  # there may be no IPv6
            hosts.append(web.host(lambda *_: kept(PLAIN[0]), address=address, port=hosts[0].port))
    return hosts


def test_there_are_enough_kinds_of_chaos(chaos: Chaos) -> None:
    planned = chaos.plan.planned
    assert len(planned) == len({it.url for it in planned}) == URLS
    assert len({it.case.name for it in planned}) > 200
    assert len({it.case.error for it in planned}) > 20


def test_every_row_has_the_right_code(chaos: Chaos) -> None:
    rows = {row["url"]: row for row in chaos.run.rows}
    wrong: list[tuple[Any, ...]] = []
    for it in chaos.plan.planned:
        row, case = rows[it.url], it.case
        size = (row["original_width"], row["original_height"]) if row["error"] is None else None
        if row["error"] not in (case.error, case.or_error or case.error) or size != case.size:
            wrong.append((it.url, case.error, row["error"], row["error_detail"], size))
        if row["attempts"] not in case.may_tell:
            wrong.append((it.url, case, row["attempts"]))
        assert (row["image"] is None) == (row["image_id"] is None) == (row["error"] is not None)
        assert (row["error_detail"] is None) == (row["error"] is None)
    assert not wrong


def test_no_url_is_lost_and_none_is_there_twice(chaos: Chaos) -> None:
    urls = [row["url"] for row in chaos.run.rows]
    assert sorted(urls) == sorted(it.url for it in chaos.plan.planned)
    assert all(row["url_id"] == text_id(row["url"]) for row in chaos.run.rows)
    report = chaos.run.report
    failed = sum(it.case.error is not None for it in chaos.plan.planned)
    assert (report["rows_in"], report["rows_failed"], report["rows_ok"]) == (URLS, failed, URLS - failed)


def test_what_will_not_change_is_asked_once_and_the_rest_as_often_as_the_retries_say(chaos: Chaos) -> None:
    planned = chaos.plan.planned
    assert [(it.url, it.case.asked, it.asked) for it in planned if it.asked not in it.case.may_be_asked] == []


def test_a_host_that_does_not_answer_is_left_alone(chaos: Chaos) -> None:
    """Hundreds of its URLs wait for it at first, and hold nobody up."""
    dead = [it for it in chaos.plan.planned if it.case.name == "dead"]
    settings = DownloadSettings(**SETTINGS)
    assert settings.host_failures is not None
    assert 0 < sum(it.asked for it in dead) <= settings.host_failures + settings.connections_per_host
    codes = {row["url"]: row["error"] for row in chaos.run.rows}
    assert {codes[it.url] for it in dead} == {ErrorCode.TIMEOUT, ErrorCode.HOST_UNAVAILABLE}


def test_robots_txt_is_asked_for_once_a_host(chaos: Chaos) -> None:
    """However many of its URLs wait for it; where it fails, as often as the retries say."""
    asked = {
        (it.case.name, it.host.requests["/robots.txt"])
        for it in chaos.plan.planned
        if it.host is not None and it.host.requests
    }
    again = {f"robots-txt-{kind}" for kind in ("500", "500-once", "reset", "silent", "drip")}
    assert {name for name, count in asked if count > 1} == again
    assert {count for name, count in asked if name in again - {"robots-txt-reset"}} == {1 + RETRIES}
    assert {count for name, count in asked if name not in again} == {1}


def test_nothing_is_connected_to_that_may_not_be(chaos: Chaos) -> None:
    network = ipaddress.ip_network(NETWORK)
    # Of each listener there is the count, of the rest of the world what the interpreter saw.
    assert [host.connections for host in chaos.forbidden] == [0] * len(chaos.forbidden)
    assert {key for key in chaos.run.connected if ipaddress.ip_address(key[0]) not in network} == set()
    assert chaos.run.connected


def test_memory_stays_under_a_bound(chaos: Chaos) -> None:
    assert chaos.run.grown < MAX_GROWN


def test_nothing_is_said_on_the_console(chaos: Chaos) -> None:
    assert chaos.run.console == ""


def test_a_later_run_asks_for_what_may_have_changed(tmp_path: Path) -> None:
    """At first nothing; then what may pass; in the end all, and the images only if they have changed."""
    with Web() as web:
        authority = Authority(tmp_path)
        kinds = [
            replace(case, copies=1)
            for case in cases(_forbidden_hosts(web)[0].port)
            if case.error != ErrorCode.TIMEOUT and case.name != "slow-once" and case.host != "alone"
        ]
        plan = Plan(web, authority, kinds, len(kinds))
        before: dict[str, dict[str, Any]] = {}
        asked: list[set[str]] = []
        for settings in ({}, {}, LATER, LATER | MUCH_LATER):
            for host in web.hosts:
                host.requests.clear()
            run = isolated.run(
                tmp_path,
                plan.rows(),
                SETTINGS | settings,
                plan.names,
                {"SSL_CERT_FILE": str(authority.bundle)},
            )
            asked.append({it.case.name for it in plan.planned if it.asked})
            rows = {row["url"]: row for row in run.rows}
            codes = {url: row["error"] for url, row in rows.items()}
            assert codes == {it.url: it.case.error for it in plan.planned}
            assert run.console == ""
            before = before or rows
    by_name = {case.name: case for case in kinds}
    assert asked[1] == set()
    assert {by_name[name].error for name in asked[2]} <= TRANSIENT
    assert asked[2] == {name for name in asked[0] if by_name[name].error in TRANSIENT}
    assert asked[3] == asked[0]
    (etag,) = (it.url for it in plan.planned if it.case.name == "etag")
    assert rows[etag]["image"] == before[etag]["image"]
    assert rows[etag]["fetched_at"] > before[etag]["fetched_at"]
    assert run.report["rows_not_modified"] == 1


def test_a_redirect_to_an_unsupported_scheme_may_lead_elsewhere_another_day(tmp_path: Path) -> None:
    case = Case(
        "redirect-to-file", ErrorCode.UNSUPPORTED_SCHEME, (redirect("file:///x"), kept(PLAIN[0])), copies=1
    )
    with Web() as web:
        plan = Plan(web, Authority(tmp_path), [case], 1)
        first, second = (
            isolated.run(tmp_path, plan.rows(), SETTINGS | settings).rows[0]["error"]
            for settings in ({}, MUCH_LATER)
        )
    assert (first, second) == (case.error, None)


def test_what_breaks_is_asked_no_more_often_than_the_retries_say(tmp_path: Path) -> None:
    with Web() as web:
        plan = Plan(web, Authority(tmp_path), [BREAKS], 20)
        run = isolated.run(tmp_path, plan.rows(), SETTINGS, plan.names)
        assert {row["attempts"] for row in run.rows if row["error"]} == {1 + RETRIES}
        assert {it.asked for it in plan.planned if it.case is BREAKS} == {1 + RETRIES}
