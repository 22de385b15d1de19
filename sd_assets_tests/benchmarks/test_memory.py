"""`python -m benchmarks.memory` runs, and says what it measured in its last line."""

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest

from benchmarks.memory import summary
from benchmarks.photographs import MIN_BYTES, make_photographs
from benchmarks.web import serving
from sd_assets.images import decode_rgb
from sd_assets.schemas import image_id

PROJECT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_the_last_line_has_growth_and_ratio(tmp_path: Path) -> None:
    tiny = ["--rows", "2", "40", "--until", "seed_images", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", *tiny],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    last = json.loads(done.stdout.splitlines()[-1])
    assert set(last["rss_growth_mb"]) == set(last["rss_ratio"]) == {"seed_images"}
    by_size = last["detail"]["seed_images"]
    assert set(by_size) == {"2", "40"}
    for measured in by_size.values():
        assert 0 < measured["loaded_mb"] < measured["peak_mb"]
    # 40 images of 100 KB: some of them were in memory.
    assert last["rss_above_loaded_mb"]["seed_images"] > 1
    assert not list(tmp_path.iterdir())


def test_what_the_figures_are() -> None:
    detail = {
        "seed_images": {
            20: {"loaded_mb": 110.0, "peak_mb": 300.0},
            2: {"loaded_mb": 100.0, "peak_mb": 200.0},
        }
    }
    figures = summary(detail)
    assert figures["rss_above_loaded_mb"] == {"seed_images": 190.0}
    assert figures["rss_growth_mb"] == {"seed_images": 90.0}
    assert figures["rss_ratio"] == {"seed_images": 1.5}


def test_photographs_differ_and_are_large_and_the_web_has_others_of_the_same_look(tmp_path: Path) -> None:
    files = make_photographs(tmp_path / "photographs", 3)
    images = [file.read_bytes() for file in files]
    assert len(set(images)) == 3
    assert min(map(len, images)) >= MIN_BYTES
    with serving(tmp_path / "photographs") as address:
        with urllib.request.urlopen(f"{address}/{files[0].name}") as answer:
            found = answer.read()
        with pytest.raises(HTTPError, match="404"):
            urllib.request.urlopen(f"{address}/000003.jpg")
    assert image_id(found) != image_id(images[0])
    assert decode_rgb(found).tobytes() == decode_rgb(images[0]).tobytes()
