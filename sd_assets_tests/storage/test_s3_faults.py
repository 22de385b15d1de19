"""What happens between us and S3, and what becomes of it: it passes unseen, or it is one clear line."""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sd_assets.compute.run import run_stage
from sd_assets.errors import ReadError, SdAssetsError, TableError, WriteError
from sd_assets.storage.files import S3Connection, S3Files
from sd_assets.storage.table import TableStore
from sd_assets_tests.download.chaos import Authority
from sd_assets_tests.s3 import S3Server
from sd_assets_tests.s3_faults import (
    CONFLICT,
    INTERNAL_ERROR,
    SLOW_DOWN,
    Answer,
    Fault,
    FaultProxy,
    Request,
    always,
    fault_proxy,
    in_turn,
)
from sd_assets_tests.toy import ToyStage, toy_input

pytestmark = pytest.mark.s3

PASSING: list[Fault | Answer] = [
    INTERNAL_ERROR,
    SLOW_DOWN,
    Fault.CUT_UPLOAD,
    Fault.LOST_ANSWER,
    Fault.CUT_DOWNLOAD,
]


def refresh(store: TableStore, numbers: range, run_id: str) -> ToyStage:
    stage = ToyStage()
    run_stage(stage, toy_input(numbers), store.area("toy", "p"), run_id, lambda line: None).commit()
    return stage


def names_in(store: TableStore) -> list[str]:
    return [row["name"] for row in store.open("toy", "p").read(["name"]).to_pylist()]


@pytest.mark.parametrize("fault", PASSING, ids=lambda fault: getattr(fault, "code", None) or fault.name)
def test_every_request_fails_once(proxy: FaultProxy, fault: Fault | Answer) -> None:
    seen: Counter[Request] = Counter()

    def first(request: Request) -> Fault | Answer | None:
        seen[request] += 1
        return fault if seen[request] % 2 else None

    proxy.plan = first
    store = TableStore(S3Files(proxy.connection, f"s3://data/once-{PASSING.index(fault)}"))
    assert refresh(store, range(30), "first").computed.total() == 30
    assert refresh(store, range(10, 40), "second").computed.total() == 10
    assert names_in(store) == [f"n{number}" for number in range(10, 40)]
    # A version for each run, though the answer to a commit was lost.
    assert store.area("toy", "p").versions() == [1, 2]
    assert {request.kind for request in seen} >= {"PUT", "GET", "LIST", "COPY", "DELETE"}


@pytest.mark.parametrize("seed", range(2))
def test_random_faults(proxy: FaultProxy, seed: int) -> None:
    chance = random.Random(seed)
    proxy.plan = lambda request: chance.choice(PASSING) if chance.random() < 0.3 else None
    store = TableStore(S3Files(proxy.connection, f"s3://data/random-{seed}"))
    for number in range(2):
        refresh(store, range(number * 5, 30 + number * 5), f"run-{number}")
        assert names_in(store) == [f"n{row}" for row in range(number * 5, 30 + number * 5)]
    assert store.area("toy", "p").versions() == [1, 2]


def test_a_large_body_arrives_whole_after_its_connection_was_cut(proxy: FaultProxy) -> None:
    files = S3Files(proxy.connection, "s3://data/large")
    pieces = [random.Random(number).randbytes(400_000 + number) for number in range(5)]
    proxy.plan = in_turn(Fault.CUT_UPLOAD, INTERNAL_ERROR, Fault.LOST_ANSWER)
    files.put("a", *pieces)
    proxy.plan = in_turn(Fault.CUT_DOWNLOAD, Fault.CUT_DOWNLOAD, None, Fault.CUT_DOWNLOAD)
    with files.open("a") as file:
        assert file.read() == b"".join(pieces)


def test_over_tls_the_same(s3: S3Server, tmp_path: Path) -> None:
    """Where bodies go in chunks with their checksum at the end."""
    authority = Authority(tmp_path)
    pieces = [random.Random(number).randbytes(400_000) for number in range(5)]
    with fault_proxy(s3, authority.context("localhost")) as proxy:
        with mock.patch.dict("os.environ", {"AWS_CA_BUNDLE": str(authority.bundle)}):
            files = S3Files(proxy.connection, "s3://data/tls")
            proxy.plan = in_turn(Fault.CUT_UPLOAD, INTERNAL_ERROR, Fault.LOST_ANSWER)
            files.put("a", *pieces)
            assert [request.method for request in proxy.requests] == ["PUT"] * 4
            proxy.plan = in_turn(Fault.LOST_ANSWER)
            assert files.create("b", b"1")
            proxy.plan = in_turn(None, Fault.CUT_DOWNLOAD)
            with files.open("a") as file:
                assert file.read() == b"".join(pieces)
        with pytest.raises(
            ReadError, match=r"https://localhost:\d+: the certificate.*AWS_CA_BUNDLE.*\(SSLError\)"
        ):
            S3Files(replace(proxy.connection, max_attempts=2), "s3://data/tls").get("a")


def test_an_object_that_s3_does_not_take(s3: S3Server) -> None:
    with (
        mock.patch("sd_assets.storage.files.s3._MAX_PUT_BYTES", 10),
        pytest.raises(
            WriteError, match="cannot write s3://data/big/a: it has 11 bytes, and S3 takes 10 at once"
        ),
    ):
        s3.files("s3://data/big").put("a", b"123456", b"78901")


def test_slow_answers_are_waited_for_and_silence_is_not(proxy: FaultProxy) -> None:
    proxy.plan = always(Fault.SLOW)
    files = S3Files(proxy.connection, "s3://data/slow")
    files.put("a", b"whole")
    assert files.get("a") == b"whole"
    assert len(proxy.requests) == 2
    with mock.patch("sd_assets.storage.files.s3_connection._READ_S", 0.1):
        impatient = S3Files(replace(proxy.connection, max_attempts=2), "s3://data/slow")
        with pytest.raises(
            ReadError, match=r"s3://data/slow/a.*did not answer in time.*ReadTimeoutError, tried 2 times"
        ):
            impatient.get("a")
    assert len(proxy.requests) == 4


def test_silence_is_given_up_before_all_attempts_are_made(proxy: FaultProxy) -> None:
    proxy.plan = always(Fault.SLOW)
    with (
        mock.patch("sd_assets.storage.files.s3_connection._READ_S", 0.1),
        mock.patch("sd_assets.storage.files.s3_attempts._GIVE_UP_S", 0),
    ):
        files = S3Files(replace(proxy.connection, max_attempts=11), "s3://data/silent")
        with pytest.raises(WriteError, match=r"did not answer in time.*ReadTimeoutError, tried 3 times"):
            files.delete("a")
    assert len(proxy.requests) == 3


@pytest.mark.parametrize("fault", [INTERNAL_ERROR, Fault.LOST_ANSWER], ids=["500", "cut"])
def test_an_outage_is_survived_by_all_requests_under_way(s3: S3Server, fault: Fault | Answer) -> None:
    """Each has its own attempts: boto3's retries are of all threads together, and soon spent."""
    files = S3Files(s3.connection, "s3://data/outage")
    files.put("a", b"whole")
    with fault_proxy(s3, patient=True) as proxy, ThreadPoolExecutor(16) as pool:
        first = itertools.count()
        proxy.plan = lambda request: fault if next(first) < 60 else None
        behind = S3Files(proxy.connection, files.uri)
        assert list(pool.map(lambda _: behind.get("a"), range(16))) == [b"whole"] * 16
        assert len(proxy.requests) > 16


def test_each_of_many_requests_has_all_its_attempts(proxy: FaultProxy) -> None:
    failed: Counter[str] = Counter()

    def nine_times(request: Request) -> Answer | None:
        failed[request.path] += 1
        return INTERNAL_ERROR if failed[request.path] < 10 else None

    proxy.plan = nine_times
    files = S3Files(proxy.connection, "s3://data/many")
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda number: files.put(f"{number}", b"1"), range(16)))
    assert list(failed.values()) == [10] * 16


@pytest.mark.parametrize("end", ["<br/>", "<br>"], ids=["well-formed", "html"])
def test_a_page_of_another_server_is_no_s3(proxy: FaultProxy, end: str) -> None:
    proxy.plan = always(Answer(200, "", page=f"<html><body>sign in: hush-hush{end}</body></html>"))
    files = S3Files(proxy.connection, "s3://data/page")
    for read in (files.names, files.get, files.open):
        with pytest.raises(ReadError, match=r"no S3 answers there: look at the endpoint") as caught:
            read("a")
        assert "hush" not in str(caught.value) and "\n" not in str(caught.value)


def test_tls_that_breaks_in_an_answer(s3: S3Server, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with (
        fault_proxy(s3, authority.context("localhost")) as proxy,
        mock.patch.dict("os.environ", {"AWS_CA_BUNDLE": str(authority.bundle)}),
    ):
        files = S3Files(proxy.connection, "s3://data/garbled")
        files.put("a", bytes(100_000))
        proxy.plan = in_turn(Fault.GARBLED)
        assert files.get("a") == bytes(100_000)
        proxy.plan = always(Fault.GARBLED)
        with pytest.raises(ReadError, match=r"cannot be encrypted, or was cut.*\(SSLError, tried 10 times\)"):
            files.get("a")


def test_creation_whose_answer_was_lost(proxy: FaultProxy) -> None:
    files = S3Files(proxy.connection, "s3://data/create")
    proxy.plan = in_turn(Fault.LOST_ANSWER)
    assert files.create("ours", b"1")
    assert not files.create("ours", b"1")  # the same content, but the name was taken before
    proxy.plan = in_turn(INTERNAL_ERROR)
    assert not files.create("ours", b"2")  # tried again, and somebody else's
    assert files.get("ours") == b"1"


def test_creation_beside_another_writer(proxy: FaultProxy) -> None:
    files = S3Files(proxy.connection, "s3://data/beside")
    proxy.plan = in_turn(CONFLICT, Fault.LOST_ANSWER, CONFLICT)
    assert files.create("a", b"1")
    proxy.plan = always(CONFLICT)
    with pytest.raises(WriteError, match="409 ConditionalRequestConflict"):
        files.create("b", b"1")


def test_of_two_commits_one_whose_answer_was_lost_the_first_wins(proxy: FaultProxy) -> None:
    """The commit that came first is that of the run that never heard of it."""
    store = TableStore(S3Files(proxy.connection, "s3://data/race"))
    stages = {
        name: run_stage(ToyStage(), toy_input(range(rows)), store.area("toy", "p"), name, lambda line: None)
        for name, rows in (("first", 20), ("second", 30))
    }
    lost = in_turn(Fault.LOST_ANSWER)
    proxy.plan = lambda request: lost(request) if request.conditional else None
    stages["first"].commit()
    with pytest.raises(TableError, match="run first committed version 1"):
        stages["second"].commit()
    assert len(names_in(store)) == 20


def test_throttling_that_does_not_end(proxy: FaultProxy) -> None:
    files = S3Files(proxy.connection, "s3://data/throttled")
    proxy.plan = always(SLOW_DOWN)
    with pytest.raises(
        WriteError, match=r"cannot write s3://data/throttled/a at http.*throttles.*tried 10 times"
    ):
        files.put("a", b"1")
    assert len(proxy.requests) == 10
    with pytest.raises(ReadError, match="cannot read s3://data/throttled/a"):
        files.get("a")


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (Answer(403, "AccessDenied"), "access is denied: the credentials need s3:GetObject"),
        (Answer(400, "ExpiredToken"), "the credentials have expired"),
        (Answer(403, "InvalidAccessKeyId"), "the server does not know the credentials"),
        (Answer(403, "SignatureDoesNotMatch"), "the server does not know the credentials"),
        (Answer(403, "RequestTimeTooSkewed"), "the clock"),
        (Answer(501, "NotImplemented"), "conditional writes"),
        (Answer(400, "Peculiar", "a\nlong story"), "the server refused: a long story (400 Peculiar)"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_what_does_not_pass_is_said_at_once(proxy: FaultProxy, answer: Answer, says: str) -> None:
    files = S3Files(proxy.connection, "s3://data/denied")
    proxy.plan = always(answer)
    tries: dict[str, Callable[[], Any]] = {
        "write s3://data/denied/a": lambda: files.put("a", b"1"),
        "write s3://data/denied/b": lambda: files.create("b", b"1"),
        "write s3://data/denied/c": lambda: files.delete("c"),
        "write s3://data/denied/d": lambda: files.project("a", "d"),
        "read s3://data/denied/e": lambda: files.get("e"),
        "read s3://data/denied/f": lambda: files.open("f"),
        "read s3://data/denied/g/": lambda: files.names("g"),
    }
    for what, ask in tries.items():
        with pytest.raises(WriteError if what.startswith("write") else ReadError) as caught:
            ask()
        assert f"cannot {what} at " in str(caught.value) and says in str(caught.value)
        assert "\n" not in str(caught.value)
    assert len(proxy.requests) == len(tries)


def test_no_such_bucket(s3: S3Server) -> None:
    files = s3.files("s3://nothing/here")
    with pytest.raises(WriteError, match=r"s3://nothing/here/a at .*there is no such bucket: create it"):
        files.put("a", b"1")
    for read in (files.get, files.open, files.names):
        with pytest.raises(ReadError, match="there is no such bucket"):
            read("a")


def test_no_server() -> None:
    # A port that nobody listens on, as nobody may.
    nowhere = S3Connection("http://127.0.0.1:1", region_name="us-east-1", max_attempts=2)
    credentials = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with (
        mock.patch.dict("os.environ", credentials),
        pytest.raises(ReadError, match=r"http://127.0.0.1:1: the server cannot be reached.*endpoint_url"),
    ):
        S3Files(nowhere, "s3://data/x").get("a")


def test_no_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # Another connection, as a client keeps the credentials that it found.
    files = S3Files(replace(s3.connection, max_attempts=9), "s3://data/x")
    with pytest.raises(WriteError, match=r"there are no \(whole\) credentials: set AWS_ACCESS_KEY_ID"):
        files.put("a", b"1")


def test_no_such_profile(s3: S3Server) -> None:
    with pytest.raises(SdAssetsError, match=r"ProfileNotFound.*profile_name"):
        S3Files(replace(s3.connection, profile_name="nobody"), "s3://data/x").get("a")


def test_a_shard_that_cannot_be_read_is_no_damaged_table(proxy: FaultProxy) -> None:
    """Whoever takes a TableError for a table that is gone must not take a server for gone that stutters."""
    store = TableStore(S3Files(proxy.connection, "s3://data/stutter"))
    refresh(store, range(20), "first")
    table = store.open("toy", "p")
    shard = table.manifest.shards[0].file
    proxy.plan = lambda request: Answer(403, "AccessDenied") if shard in request.path else None
    with pytest.raises(ReadError, match=f"{shard}.*access is denied") as caught:
        table.read()
    assert not isinstance(caught.value, TableError)
    proxy.plan = lambda request: Answer(403, "AccessDenied") if "versions/" in request.path else None
    with pytest.raises(ReadError):
        store.area("toy", "p").sweep("first", ())
    proxy.plan = always(None)
    assert len(names_in(store)) == 20
