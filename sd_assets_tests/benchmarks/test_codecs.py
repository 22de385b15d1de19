"""What `benchmarks.codecs` compares with is exact, and each codec makes what it should."""

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import codecs
from benchmarks.codec_table import CODECS, Codec, Pixels, available
from benchmarks.codecs import area_average
from benchmarks.one_download import settings
from sd_assets.settings import DownloadSettings

PROJECT = Path(__file__).parents[2]
RNG = np.random.default_rng(3)


def noise(width: int, height: int, cells: int) -> Image.Image:
    """Smooth, of `cells` bumps a side."""
    small = RNG.integers(0, 256, (cells, cells, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind, quality=95)
    return out.getvalue()


# --- the exact average -------------------------------------------------------------------------------------------


def test_whole_blocks_are_averaged() -> None:
    pixels = RNG.integers(0, 256, (12, 20, 3), np.uint8)
    wanted = pixels.reshape(4, 3, 5, 4, 3).mean((1, 3))
    np.testing.assert_allclose(area_average(pixels, (5, 4)), wanted, rtol=1e-5)


def test_parts_of_pixels_count_as_parts() -> None:
    row = np.array([[[0, 0, 0], [30, 60, 90], [240, 240, 240]]], np.uint8)
    wanted = [[[10, 20, 30], [(10 + 160), (20 + 160), (30 + 160)]]]
    np.testing.assert_allclose(area_average(row, (2, 1)), wanted, rtol=1e-5)


@pytest.mark.parametrize("size", [(100, 75), (99, 31), (7, 5), (1, 1), (131, 97)])
def test_no_light_is_lost(size: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 256, (97, 131, 3), np.uint8)
    np.testing.assert_allclose(area_average(pixels, size).mean((0, 1)), pixels.mean((0, 1)), rtol=1e-5)


# --- codecs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(("mode", "size"), codecs.MODES)
@pytest.mark.parametrize("name", available())
def test_each_makes_the_same_picture(name: str, mode: str, size: int, kind: str) -> None:
    data = encoded(noise(1_100, 830, 12), kind)
    codec, chosen = CODECS[name], settings(mode, size)  # type: ignore[arg-type]
    pixels, wanted = codec.pixels(data, chosen), CODECS["opencv"].pixels(data, chosen)
    assert pixels.shape == (size, size, 3)
    assert np.abs(pixels.astype(int) - wanted).mean() < 1
    with Image.open(io.BytesIO(codec(data, chosen))) as image:
        assert (image.format, image.size, image.mode) == ("JPEG", (size, size), "RGB")
        assert np.abs(np.asarray(image).astype(int) - wanted).mean() < 2


@pytest.mark.parametrize("name", available())
def test_small_pictures_are_enlarged(name: str) -> None:
    data = encoded(noise(640, 360, 6))
    chosen = settings("center_crop", 512)
    pixels, wanted = (CODECS[each].pixels(data, chosen) for each in (name, "pillow"))
    assert pixels.shape == (512, 512, 3)
    assert np.abs(pixels.astype(int) - wanted).mean() < 1


# --- figures -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("codecs")
    (folder / "0.jpg").write_bytes(encoded(noise(1_200, 900, 10)))
    (folder / "1.jpg").write_bytes(encoded(noise(640, 480, 10)))
    (folder / "2.png").write_bytes(encoded(noise(900, 1_200, 10), "PNG"))
    return folder


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.codecs", *map(str, arguments)]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=100)


def test_distances(folder: Path) -> None:
    done = run("psnr", folder)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    # The second is enlarged to 512.
    assert {name: of["images"] for name, of in figures.items()} == {"256 border": 3, "512 center_crop": 2}
    for of in figures.values():
        assert list(of["codecs"]) == list(available())
        # Rounding to whole numbers alone is 58.9 dB: an error of 1 / 12 squared.
        assert of["codecs"]["opencv"]["median"] == pytest.approx(58.9, abs=0.5)
        assert all(30 < figure["p1"] <= figure["median"] < 62 for figure in of["codecs"].values())


def test_a_shift_by_half_a_pixel_is_far_from_exact(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = CODECS["opencv"]
    shifted = Codec(lambda data, chosen: np.roll(exact.pixels(data, chosen), 1, 1), exact.encode)
    monkeypatch.setitem(CODECS, "ours", shifted)
    found = codecs._psnr_of_file(folder / "0.jpg")["256 border"]
    assert found["ours"] < found["opencv"] - 15


def test_a_border_does_not_make_a_picture_better(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of this square is white: counted, it would halve the error."""
    strip = encoded(noise(1_024, 512, 8), "PNG")
    (folder.parent / "strip.png").write_bytes(strip)
    exact = CODECS["opencv"]

    def off_by_4(data: bytes, chosen: DownloadSettings) -> Pixels:
        pixels = exact.pixels(data, chosen).copy()
        pixels[64:192] += np.where(pixels[64:192] > 127, -4, 4).astype(np.uint8)
        return pixels

    monkeypatch.setitem(CODECS, "ours", Codec(off_by_4, exact.encode))
    found = codecs._psnr_of_file(folder.parent / "strip.png")["256 border"]["ours"]
    assert found == pytest.approx(20 * np.log10(255 / 4), abs=0.2)


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_speed(folder: Path, pool: str) -> None:
    done = run("speed", "pillow", pool, "border", 256, folder, 3)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["rows"] == 3
    assert figures["seconds"] > 0


@pytest.mark.parametrize("pool", ["threads", "processes"])
def test_what_fails_ends_it(tmp_path: Path, pool: str) -> None:
    (tmp_path / "0.jpg").write_bytes(encoded(noise(300, 300, 5)))
    (tmp_path / "1.jpg").write_bytes(b"no image")
    assert run("speed", "ours", pool, "border", 256, tmp_path, 2).returncode != 0
