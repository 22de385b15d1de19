"""The threads that look names up."""

import socket
import subprocess
import sys
import threading
from typing import Any

import pytest

from sd_assets.download.lookups import Lookups

_HANGS = """
import socket, threading
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
from sd_assets.download.downloader import Downloader
from sd_assets.download.request import Request
from sd_assets.settings import DownloadSettings

with Downloader(DownloadSettings(timeout_s=0.2, retries=0, robots_txt=False)) as downloader:
    print(downloader.submit(Request("http://dead.example/a")).result().error)
"""


def test_a_name_that_hangs_holds_up_no_process() -> None:
    done = subprocess.run([sys.executable, "-c", _HANGS], capture_output=True, text=True, timeout=20)
    assert (done.stdout, done.returncode) == ("timeout\n", 0), done.stderr


def test_what_is_found_comes_and_so_does_what_is_wrong() -> None:
    lookups = Lookups(2)
    found = lookups.find("127.0.0.1", 80, socket.AF_UNSPEC).result(5)
    assert [address for *_, address in found] == [("127.0.0.1", 80)]
    with pytest.raises(UnicodeError):
        lookups.find("a" * 64 + ".test", 80, socket.AF_UNSPEC).result(5)
    lookups.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "sd-assets-lookup"]


def test_no_more_are_looked_up_at_once_than_there_are_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    asked: list[str] = []

    def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        go.wait(10)
        return [host]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    before = threading.active_count()
    lookups = Lookups(3)
    futures = [lookups.find(f"{number}.test", 80, socket.AF_INET) for number in range(10)]
    assert threading.active_count() == before + 3
    assert futures[9].cancel()
    lookups.close()  # waits for none of them
    go.set()
    assert [future.result(5) for future in futures[:9]] == [[f"{number}.test"] for number in range(9)]
    assert sorted(asked) == [f"{number}.test" for number in range(9)]
