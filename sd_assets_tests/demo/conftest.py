"""A small world, made once with an encoder that needs no model, and a bare client for its server."""

import json
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from sd_assets.demo.world import World, WorldSpec, build_world

SPEC = WorldSpec(seeds=10, images=225, faults_per_kind=1, flaws_per_kind=1, images_per_query=20)

Array = npt.NDArray[np.float32]


class PixelEncoder:
    """Tells scenes apart by their coarse pixels: enough for what is tested here, and quick."""

    identity = "pixels"

    def __init__(self) -> None:
        self.loads = 0

    def load(self) -> None:
        self.loads += 1

    def preprocess(self, image: Image.Image, /) -> Array:
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        box = (left, top, left + side, top + side)
        small = image.resize((12, 12), Image.Resampling.BOX, box=box)
        return np.asarray(small, dtype=np.float32).transpose(2, 0, 1) / np.float32(255)

    def encode_images(self, images: Sequence[Array], /) -> Array:
        flat = np.stack(images).reshape(len(images), -1) - 0.6
        return np.asarray(flat / np.linalg.norm(flat, axis=1, keepdims=True), dtype=np.float32)


def made(folder: Path, seed: int = 7, spec: WorldSpec = SPEC) -> World:
    return build_world(folder, seed, PixelEncoder(), progress=lambda _: None, spec=spec)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return made(tmp_path_factory.mktemp("demo") / "world")


@pytest.fixture
def planted(world: World) -> dict[str, str]:
    """Kind of fault -> path."""
    return {kind: path for path, kind in json.loads((world.folder / "faults.json").read_text()).items()}


@dataclass
class Raw:
    """What came over the wire. `ended`: closed, reset, or timeout (nothing more came for as long as was waited)."""

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: str = "closed"


def ask(port: int, path: str, *, wait_s: float = 1.0, at_most: int = 10_000_000, total_s: float = 3.0) -> Raw:
    """One GET by a bare socket."""
    raw, data = Raw(), b""
    stop = time.monotonic() + total_s
    with socket.create_connection(("127.0.0.1", port), timeout=wait_s) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
        try:
            while len(data) < at_most and time.monotonic() < stop:
                part = sock.recv(65_536)
                if not part:
                    break
                data += part
            else:
                raw.ended = "timeout"
        except TimeoutError:
            raw.ended = "timeout"
        except ConnectionResetError:
            raw.ended = "reset"
    head, mark, body = data.partition(b"\r\n\r\n")
    if mark and head.startswith(b"HTTP/1.1 "):
        lines = head.decode().split("\r\n")
        raw.status = int(lines[0].split()[1])
        raw.headers = {
            name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])
        }
        raw.body = body
    return raw
