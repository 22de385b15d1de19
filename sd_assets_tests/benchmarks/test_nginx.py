"""nginx serves a folder from several addresses while the block runs, and no longer."""

import sys
import urllib.request
from pathlib import Path
from urllib.error import HTTPError, URLError

import pytest

from benchmarks import nginx
from sd_assets_tests.optional import missing

pytestmark = [
    pytest.mark.nginx,
    pytest.mark.skipif(sys.platform != "linux", reason="needs its many loopback addresses"),
]


@pytest.fixture(autouse=True)
def server() -> None:
    if nginx.find_nginx() is None:
        missing("nginx", nginx.REMEDY)


def test_all_addresses_have_the_files(tmp_path: Path) -> None:
    (tmp_path / "a photo.jpg").write_bytes(b"pixels")
    with nginx.serving(tmp_path) as servers:
        assert len(servers) == len(nginx.ADDRESSES)
        for server in servers:
            with urllib.request.urlopen(f"{server}/a%20photo.jpg", timeout=5) as answer:
                assert answer.read() == b"pixels"
                assert answer.headers["Content-Type"] == "image/jpeg"
        with pytest.raises(HTTPError, match="404"):
            urllib.request.urlopen(f"{servers[0]}/robots.txt", timeout=5)
    with pytest.raises(URLError, match="refused"):
        urllib.request.urlopen(f"{servers[0]}/a%20photo.jpg", timeout=5)
    assert [path.name for path in tmp_path.iterdir()] == ["a photo.jpg"]


def test_what_ends_the_block_ends_the_server(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), nginx.serving(tmp_path) as servers:
        raise KeyboardInterrupt
    with pytest.raises(URLError, match="refused"):
        urllib.request.urlopen(servers[0], timeout=5)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    addresses = ["127.0.0.1", "192.0.2.1"]  # the second belongs to nobody
    with (
        pytest.raises(RuntimeError, match=r"(?s)nginx did not start.*bind\(\) to 192\.0\.2\.1"),
        nginx.serving(tmp_path, addresses),
    ):
        pass
