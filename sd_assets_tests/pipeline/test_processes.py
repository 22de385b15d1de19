"""Runs in processes of their own: killed and run again, and a user's folder of photographs as an entry."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import skimage.data
import yaml
from PIL import Image

from sd_assets import catalog
from sd_assets.demo.world import World
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import TableStore
from sd_assets_tests.pipeline.conftest import PROJECT, Start, finished
from sd_assets_tests.pipeline.test_demo import NAMES


def data_versions(data: Path, partition: str) -> dict[str, str]:
    store = TableStore(LocalFiles(data))
    return {name: store.open(name, partition).manifest.data_version for name in NAMES}


@pytest.mark.timeout(600)
def test_killed_runs_end_in_the_same_tables_as_an_undisturbed_one(start: Start, tmp_path: Path) -> None:
    started = time.monotonic()
    finished(start("demo_rooms", tmp_path / "clean"))
    whole = time.monotonic() - started
    for share in (0.5, 0.7, 0.85):
        process = start("demo_rooms", tmp_path / "killed")
        time.sleep(whole * share)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    finished(start("demo_rooms", tmp_path / "killed"))
    assert data_versions(tmp_path / "killed", "demo_rooms") == data_versions(tmp_path / "clean", "demo_rooms")


WITHOUT_NETWORK = """
import fcntl, socket, struct, sys
from pathlib import Path
from sd_assets.automation.launch import build_partition
from sd_assets.demo.server import WorldServer

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:  # bring the loopback interface up
    fcntl.ioctl(control, 0x8914, struct.pack("16sh14s", b"lo", 0x1 | 0x40, b""))
with WorldServer(Path(sys.argv[1])):
    sys.exit(not build_partition("demo_prompts"))
"""


def test_a_run_needs_nothing_but_loopback(start: Start, world: World, tmp_path: Path) -> None:
    isolated = ["unshare", "--map-root-user", "--net"]
    try:
        subprocess.run([*isolated, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces here: {error}")
    finished(
        start("demo_prompts", tmp_path, [*isolated, sys.executable, "-c", WITHOUT_NETWORK, str(world.folder)])
    )
    assert TableStore(LocalFiles(tmp_path)).open("text_image_pairs", "demo_prompts").num_rows > 50


def photographs(folder: Path) -> set[str]:
    """Photographs that scikit-image carries, and what else lies in folders; returns the names of the good ones."""
    folder.mkdir()
    for name in ("astronaut", "coffee", "chelsea", "rocket"):
        Image.fromarray(getattr(skimage.data, name)()).save(folder / f"{name}.jpg")
    Image.fromarray(skimage.data.camera()).save(folder / "grey.png")
    frames = [Image.new("RGB", (80, 60), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(skimage.data.astronaut()).convert("CMYK").save(folder / "cmyk.jpg")
    deep = np.linspace(0, 65535, 100 * 90).reshape(90, 100).astype(np.uint16)
    Image.fromarray(deep).save(folder / "sixteen.png")
    good = {path.name for path in folder.iterdir()}
    (folder / "text.jpg").write_text("this is no image")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes((folder / "coffee.jpg").read_bytes()[:5_000])
    return good


def test_a_folder_of_photographs_goes_through_all_stages(start: Start, world: World, tmp_path: Path) -> None:
    good = photographs(tmp_path / "photographs")
    # As a user would: the entry of the README, in a catalogue of one's own.
    demo = yaml.safe_load((PROJECT / "seed_datasets.yaml").read_text())
    entry: dict[str, Any] = {
        **{name: demo["seed_datasets"]["demo_rooms"][name] for name in ("retrieval", "download")},
        "source": {"kind": "folder", "path": "photographs"},
        "clip": {"model": f"local-dir:{PROJECT}/sd_assets/demo/models/clip"},
        "captioner": {"model": f"{PROJECT}/sd_assets/demo/models/blip"},
    }
    indices = {"demo": {"kind": "faiss", "path": "${SD_ASSETS_DEMO}/index"}}
    own = tmp_path / "catalogue.yaml"
    own.write_text(yaml.safe_dump({"indices": indices, "seed_datasets": {"photographs": entry}}))
    finished(start("photographs", tmp_path / "data", **{catalog.CATALOG_VARIABLE: str(own)}))

    store = TableStore(LocalFiles(tmp_path / "data"))
    seeds = store.open("seed_images", "photographs").read().to_pylist()
    by_name = {Path(row["source"]).name: row["error"] for row in seeds}
    assert {name for name, error in by_name.items() if error is None} == good | {"cut.jpg"}
    assert {name: by_name[name] for name in ("text.jpg", "empty.jpg")} == {
        "text.jpg": "not_an_image",
        "empty.jpg": "empty",
    }
    # The header of the cut one is whole; who decodes it sees the damage, and says so in its own table.
    cut = next(row["image_id"] for row in seeds if Path(row["source"]).name == "cut.jpg")
    embeddings = {
        row["query_id"]: row["error"]
        for row in store.open("seed_embeddings", "photographs").read().to_pylist()
    }
    assert [name for name, error in embeddings.items() if error] == [cut]
    assert embeddings[cut] == "corrupt_image"
    pairs = store.open("text_image_pairs", "photographs").read().to_pylist()
    assert len([row for row in pairs if row["origin"] == "seed"]) == len(good)
    assert [row for row in pairs if row["origin"] == "retrieved"]
