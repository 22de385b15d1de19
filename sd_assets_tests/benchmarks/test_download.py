"""`python -m benchmarks.download` runs, and says in its last line what it measured; and the parts that it is made of."""

import io
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import img2dataset, nginx
from benchmarks.download import SIZES, Benchmark, summary
from sd_assets_tests.optional import missing

PROJECT = Path(__file__).parents[2]
KEYS = [
    "ratio_256_border",
    "ratio_512_center_crop",
    "ours_256",
    "ours_512",
    "img2dataset_256",
    "img2dataset_512",
    "fetch",
    "codec_256",
    "codec_512",
    "bound_share_256",
    "bound_share_512",
    "peak_rss_ratio",
    "psnr_db_p1",
]
TINY = ["--images", "12", "--quick"]

pytestmark = [
    pytest.mark.nginx,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, and needs its many loopback addresses"),
]


@pytest.fixture(scope="module", autouse=True)
def server() -> None:
    if nginx.find_nginx() is None:
        missing("nginx", nginx.REMEDY)


@pytest.fixture(scope="module")
def program() -> Path:
    """img2dataset: that of this environment, or of `make test-clip-retrieval`."""
    beside = Path(sys.executable).with_name("img2dataset")
    found = beside if beside.exists() else img2dataset.PROGRAM
    if not found.exists():
        missing("environment with img2dataset", "run `make setup-clip-retrieval`")
    return found


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.download", *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.clip_retrieval
def test_the_last_line_has_all_figures(tmp_path: Path, program: Path) -> None:
    done = run(*TINY, "--folder", str(tmp_path), "--img2dataset", str(program))
    assert done.returncode == 0, done.stderr
    *_, detail_line, last_line = done.stdout.splitlines()
    last = json.loads(last_line)
    assert list(last) == KEYS
    assert all(math.isfinite(figure) and figure > 0 for figure in last.values())

    detail = json.loads(detail_line.removeprefix("detail "))
    assert detail["machine"]["img2dataset"].startswith("1.47.")
    assert detail["images"]["images"] == 12
    names = [f"{who} {name}" for name in SIZES for who in ("ours", "img2dataset", "codec")] + ["fetch"]
    assert sorted(detail["runs"]) == sorted(names)
    for runs in detail["runs"].values():
        assert [run["rows"] for run in runs] == [12]
    # Both kept pictures of the same size and quality.
    for name in SIZES:
        ours, theirs = (detail["runs"][f"{who} {name}"][0]["written"] for who in ("ours", "img2dataset"))
        assert 0.7 < ours / theirs < 1.4
    # The images stay for the next run, what runs wrote does not.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images-12", "images-12.json"]


def test_an_image_that_fails_ends_the_benchmark(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    out = io.BytesIO()
    Image.effect_noise((900, 700), 50).convert("RGB").save(out, "JPEG")
    (photos / "whole.jpg").write_bytes(out.getvalue())
    (photos / "half.jpg").write_bytes(out.getvalue()[: out.tell() // 2])
    done = run("--photos", str(photos), "--quick", "--folder", str(tmp_path))
    assert done.returncode != 0
    assert "benchmarks.codecs failed" in done.stderr and "truncated" in done.stderr
    assert "ratio_256_border" not in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_run_with_too_few_images_counts_for_nothing(tmp_path: Path) -> None:
    benchmark = Benchmark(None, tmp_path, tmp_path)  # type: ignore[arg-type]
    benchmark._list(["http://127.0.0.1/a", "http://127.0.0.1/b"])
    good = benchmark._checked({"rows": 2, "failed": {}, "seconds": 0.5})
    assert good["rate"] == 4
    for measured in (
        {"rows": 1, "failed": {}},
        {"rows": 2, "failed": {"timeout": 1}},
        {"rows": 2, "failed": 1},
    ):
        with pytest.raises(RuntimeError, match="of 2 images not all came out well"):
            benchmark._checked({**measured, "seconds": 0.5})


def test_what_the_figures_are() -> None:
    def runs(*rates: float, **more: Any) -> list[dict[str, Any]]:
        return [{"rate": rate, **more} for rate in rates]

    measured = {
        "ours 256 border": runs(200, 300, 900, peak_mb=100),
        "img2dataset 256 border": runs(100, 150, 120, peak_mb=1_000),
        "codec 256 border": runs(500),
        "ours 512 center_crop": runs(90, peak_mb=300),
        "img2dataset 512 center_crop": runs(100, peak_mb=1_200),
        "codec 512 center_crop": runs(200),
        "fetch": runs(1_000, 3_000, 2_000),
    }
    distances = {
        "256 border": {"images": 3, "codecs": {"opencv": {"p1": 58.0}, "ours": {"p1": 36.5}}},
        "512 center_crop": {"images": 2, "codecs": {"opencv": {"p1": 20.0}, "ours": {"p1": 41.25}}},
    }
    figures = summary(measured, distances)
    assert list(figures) == KEYS
    assert figures == {
        "ratio_256_border": 2.5,
        "ratio_512_center_crop": 0.9,
        "ours_256": 300,
        "ours_512": 90,
        "img2dataset_256": 120,
        "img2dataset_512": 100,
        "fetch": 2_000,
        "codec_256": 500,
        "codec_512": 200,
        "bound_share_256": 0.75,
        "bound_share_512": 0.495,
        "peak_rss_ratio": 0.25,
        "psnr_db_p1": 36.5,
    }


def test_without_nginx_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match="apt-get install"), nginx.serving(tmp_path):
        pass


def test_without_img2dataset_it_says_how_to_get_it(tmp_path: Path) -> None:
    urls = tmp_path / "urls.txt"
    urls.write_text("http://127.0.0.1:1/a.jpg")
    with pytest.raises(RuntimeError, match="make setup-clip-retrieval"):
        img2dataset.run(tmp_path / "img2dataset", tmp_path / "out", urls, "border", "256", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["urls.txt"]
