"""A process that is killed at any request to S3 leaves the old version or the new one, and its finished work."""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import Any

import pytest

from sd_assets.compute.run import run_stage
from sd_assets.storage.files import S3Files
from sd_assets.storage.table import TableStore
from sd_assets_tests.s3 import S3Server, s3_server
from sd_assets_tests.s3_faults import Fault, FaultProxy, Request, fault_proxy
from sd_assets_tests.storage.test_crash import expected
from sd_assets_tests.toy import ToyStage, toy_input

pytestmark = pytest.mark.s3

OLD = list(range(24))
NEW = [500, *range(5, 24), *range(30, 36)]
# Of the requests of a run each so-manieth is the last, and the commit.
EVERY = 9


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as s3:
        yield s3


def refresh(files: S3Files, numbers: list[int], run_id: str) -> ToyStage:
    stage = ToyStage()
    area = TableStore(files).area("toy", "p")
    run_stage(stage, toy_input(numbers), area, run_id, lambda line: None).commit()
    return stage


def content(files: S3Files) -> dict[str, Any]:
    """The table through its handle, as numbers by name; what a reader of the folder sees must be the same shards."""
    table = TableStore(files).open("toy", "p")
    rows = {row["name"]: row["square"] for row in table.read().to_pylist()}
    assert len(rows) == table.num_rows
    assert files.names("toy/p") == sorted(shard.file for shard in table.manifest.shards)
    return rows


def shards(files: S3Files) -> dict[str, bytes]:
    return {name: files.get(f"toy/p/{name}") for name in files.names("toy/p")}


def copied(s3: S3Server, source: str, target: str) -> S3Files:
    """A bucket's folder under a second name."""
    for item in s3.client.list_objects_v2(Bucket="data", Prefix=f"{source}/")["Contents"]:
        key = target + item["Key"].removeprefix(source)
        s3.client.copy_object(Bucket="data", Key=key, CopySource={"Bucket": "data", "Key": item["Key"]})
    return s3.files(f"s3://data/{target}")


def killed_at(number: int, *, done: bool, proxy: FaultProxy, work: Callable[[], Any]) -> bool:
    """Run `work` in a process of its own that is killed at its n-th request, after or before the server did it.

    Returns False if it made fewer.
    """
    child: Future[int] = Future()
    doomed: list[Request] = []
    proxy.requests.clear()

    def plan(request: Request) -> Fault | None:
        if len(proxy.requests) == number:
            doomed.append(request)
            if not done:
                os.kill(child.result(), signal.SIGKILL)
                return Fault.CUT_UPLOAD
        return None

    def did(request: Request) -> None:
        if any(request is each for each in doomed):
            os.kill(child.result(), signal.SIGKILL)

    proxy.plan, proxy.done = plan, did
    process = os.fork()
    if process == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    child.set_result(process)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


@pytest.mark.timeout(300)
def test_a_kill_at_requests_all_through_a_run(s3: S3Server) -> None:
    refresh(s3.files("s3://data/old"), OLD, "first")
    with fault_proxy(s3) as proxy:

        def through(prefix: str) -> S3Files:
            return S3Files(proxy.connection, f"s3://data/{prefix}")

        clean = copied(s3, "old", "clean")
        refresh(through("clean"), NEW, "second")
        total = len(proxy.requests)
        commit = next(number for number, request in enumerate(proxy.requests, 1) if request.conditional)
        wanted = shards(clean)

        # The two ways by turns; at the commit, which is what the two differ in, both.
        kills = {(number, place % 2 == 0) for place, number in enumerate(range(1, total, EVERY))}
        kills |= {(commit, False), (commit, True), (total - 1, True)}
        outcomes = set()
        for number, done in sorted(kills):
            name = f"killed-{number}-{done}"
            files = copied(s3, "old", name)
            work = partial(refresh, through(name), NEW, "second")
            assert killed_at(number, done=done, proxy=proxy, work=work)
            found = content(files)
            assert found in (expected(OLD), expected(NEW)), name
            is_new = number > commit or (number == commit and done)
            assert (found == expected(NEW)) == is_new, name
            outcomes.add(is_new)

            computed = refresh(files, NEW, "third").computed
            assert max(computed.values(), default=0) <= 1
            if is_new:
                assert not computed
            assert content(files) == expected(NEW)
            assert shards(files) == wanted, name
        assert outcomes == {True, False}
