"""Images for benchmarks: of the sizes and kinds of the web, always the same, and as hard to compress as photographs."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import web_images
from benchmarks.web_images import statistics
from sd_assets.images import decode_rgb, inspect

PROJECT = Path(__file__).parents[2]
COUNT = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("web_images") / "images"
    folder.mkdir()
    (folder / "000099.jpg").write_bytes(b"of a run that was cut off")
    assert len(web_images.web_images(folder, COUNT)) == COUNT
    return folder


def test_they_are_what_the_web_has(folder: Path) -> None:
    files = sorted(folder.iterdir())
    assert len({path.read_bytes() for path in files}) == COUNT
    kinds, headers = set(), []
    for path in files:
        info = inspect(path.read_bytes())
        assert 640 <= info.width <= 2048
        assert 9 / 16 < info.width / info.height < 16 / 8.9
        with Image.open(path) as image:
            if info.format == "jpeg":
                kinds.add(("progressive", "progressive" in image.info))
                kinds.add(("exif", "exif" in image.info))
                kinds.add(("profile", "icc_profile" in image.info))
                kinds.add(("sampling", image.layer[0][1] == 1))  # type: ignore[attr-defined]
        headers.append(info.format)
    assert set(headers) == {"jpeg", "png", "webp"}
    assert headers.count("jpeg") > 0.8 * COUNT
    assert len(kinds) == 8  # each of them with and without


def test_they_take_as_many_bytes_as_photographs(folder: Path) -> None:
    figures = statistics(sorted(folder.iterdir()))
    assert figures["images"] == COUNT
    assert 0.12 < figures["jpeg_bytes_per_pixel"]["p50"] < 0.3
    assert 0.9 < figures["mean_megapixels"] < 1.6


def test_they_have_detail_at_every_scale(folder: Path) -> None:
    """Averaging 2 x 2 pixels leaves the contrast between neighbours about as it is; of noise it would leave half."""
    ratios = []
    for path in sorted(folder.glob("*.jpg")):
        image, contrasts = decode_rgb(path.read_bytes()).convert("L"), []
        for _ in range(4):
            contrasts.append(np.abs(np.diff(np.asarray(image, np.float64))).mean())
            image = image.reduce(2)
        ratios.append([after / before for before, after in pairwise(contrasts)])
    assert all(0.8 < ratio < 2 for ratio in np.median(ratios, 0))


def test_they_are_made_once(folder: Path) -> None:
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    command = [sys.executable, "-m", "benchmarks.web_images", str(folder)]
    for arguments in ([], [str(COUNT)]):
        done = subprocess.run([*command, *arguments], cwd=PROJECT, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout.splitlines()[-1])["images"] == COUNT
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times


def test_the_same_number_gives_the_same_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_images, "_SCENE_SIDE", 700)
    made = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        web_images._write(0, 4, tmp_path / name)
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert len(made[0]) == 4
    assert made[0] == made[1]


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "000000.jpg").write_bytes(b"perhaps an image of ours")
    (tmp_path / "holiday.jpg").write_bytes(b"not ours")
    with pytest.raises(RuntimeError, match=r"holiday\.jpg: choose another"):
        web_images.web_images(tmp_path, 1)
    assert len(list(tmp_path.iterdir())) == 2
