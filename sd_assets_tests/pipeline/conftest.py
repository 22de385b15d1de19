"""A small embedded world and its web server, and runs of the pipeline in processes of their own."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sd_assets.demo.server import WorldServer
from sd_assets.demo.world import World, WorldSpec, build_world
from sd_assets.models.clip import ClipEncoder
from sd_assets.settings import ClipSettings

PROJECT = Path(__file__).parents[2]
CLIP = PROJECT / "sd_assets" / "demo" / "models" / "clip"

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("demo") / "world"
    encoder = ClipEncoder(ClipSettings(model=f"local-dir:{CLIP}"))
    spec = WorldSpec(seeds=16, images=360, faults_per_kind=1, flaws_per_kind=2)
    world = build_world(folder, 1107, encoder, progress=lambda line: None, spec=spec)
    with WorldServer(folder):
        yield world


@pytest.fixture(scope="session")
def start(world: World, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts `build_partition` in a process of its own, on a persistent instance with the project's dagster.yaml."""
    home = tmp_path_factory.mktemp("home")
    shutil.copy(PROJECT / "dagster.yaml", home)

    def started(
        partition: str, data: Path, command: list[str] | None = None, **environment: str
    ) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command or [sys.executable, "-m", "sd_assets", "build", partition],
            cwd=PROJECT,
            env={
                **os.environ,
                "DAGSTER_HOME": str(home),
                "SD_ASSETS_DATA": str(data),
                "SD_ASSETS_DEMO": str(world.folder),
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return started


def finished(process: "subprocess.Popen[str]") -> str:
    """The output of a run that must succeed."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output
