"""`python -m benchmarks.many_urls` runs, and says in its last line what it measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import many_urls, nginx
from sd_assets_tests.optional import missing

PROJECT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.nginx,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and needs its many loopback addresses"),
]


def test_a_small_run(tmp_path: Path) -> None:
    if nginx.find_nginx() is None:
        missing("nginx", nginx.REMEDY)
    command = [sys.executable, "-m", "benchmarks.many_urls", "--urls", "200", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["urls"], found["failed"]) == (200, {})
    assert set(found["images_per_s"]) == {"first", "middle", "last"}
    assert all(speed > 0 for speed in found["images_per_s"].values())
    assert set(found["peak_mb"]) == {"20", "200", "end"}
    assert 0 < found["peak_mb"]["20"] <= found["peak_mb"]["200"] <= found["peak_mb"]["end"]
    assert 0 < found["seconds"]["after_last_row"] < found["seconds"]["all"]
    assert not list(tmp_path.iterdir())


def test_of_a_thousand_urls_some_are_odd() -> None:
    urls = list(many_urls.urls(2_000, ["http://good"], ["http://slow"], ["http://silent"], ["http://dead"]))
    assert len(set(urls)) == 2_000
    found = {
        kind: sum(url.startswith(f"http://{kind}/") for url in urls) for kind in ("slow", "silent", "dead")
    }
    assert found == {"slow": 10, "silent": 10, "dead": 10}
    assert sum("missing" in url for url in urls) == 40
