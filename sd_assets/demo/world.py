"""The embedded world: seed images, a small web of images with a kNN index over it, and the truth about both.

Everything but the port follows from the seed. A world's folder holds

    seeds/        seed images with `metadata.jsonl`, some with a text, as a user would bring them
    web/          what the loopback server (`demo.server`) serves, under opaque names
    index/        clip-retrieval's layout, over the embeddings of what a crawler saw when every page was well
    faults.json   path -> kind of fault; for the server
    truth.json    what every image shows, every fault and every flaw; only the evaluator opens it
    world.json    seed, port, model; written last
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import random
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from sd_assets.errors import SdAssetsError

HOST = "127.0.0.1"
FORMAT = 2
"""Of the folder; a world of another format is built again."""

# Below the ports that systems give to outgoing connections, so that the port is still free at the next start.
_PORTS = range(18_000, 32_000)

Array = npt.NDArray[np.float32]


class Encoder(Protocol):
    """The CLIP that makes the index, see `sd_assets.models.clip`."""

    @property
    def identity(self) -> str:
        """Names the model and its weights."""

    def load(self) -> None:
        """Make ready."""

    def preprocess(self, image: Image.Image, /) -> Array:
        """RGB image -> float32, shape (3, height, width)."""

    def encode_images(self, images: Sequence[Array], /) -> Array:
        """Preprocessed images -> float32, shape (images, dim), L2-normalised."""


@dataclass(frozen=True)
class WorldSpec:
    """How large a world is.

    Attributes:
        seeds: seed images.
        images: pages of the web, faults included.
        faults_per_kind: planted faults of each kind.
        flaws_per_kind: planted flaws of each kind; of texts at most a third of the seeds has one.
        images_per_query: of the entry that is to retrieve every fault and flaw.
    """

    seeds: int = 48
    images: int = 2_000
    faults_per_kind: int = 5
    flaws_per_kind: int = 8
    images_per_query: int = 20


@dataclass(frozen=True)
class World:
    """A complete world.

    Attributes:
        folder: where it is.
        seed: that it was built from.
        port: of its server on 127.0.0.1; its URLs hold it.
        model: identity of the CLIP that made its index.
        spec: its size.
    """

    folder: Path
    seed: int
    port: int
    model: str
    spec: WorldSpec

    @classmethod
    def open(cls, folder: Path) -> World:
        """The world in `folder`.

        Raises:
            SdAssetsError: there is none, or it is of another format.
        """
        try:
            data = json.loads((folder / "world.json").read_text("utf-8"))
        except (OSError, ValueError):
            raise SdAssetsError(f"{folder} holds no complete demo world; `make demo` builds one") from None
        if data.get("format") != FORMAT:
            raise SdAssetsError(
                f"the demo world in {folder} has the format {data.get('format')}, this version makes {FORMAT}; "
                "`make demo` builds it again"
            )
        return cls(folder, data["seed"], data["port"], data["model"], WorldSpec(**data["spec"]))

    @property
    def id(self) -> str:
        """Names this world: two with the same id serve the same under the same URLs."""
        parts = [FORMAT, self.seed, self.port, self.model, asdict(self.spec)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def base_url(self) -> str:
        """Of its web server."""
        return f"http://{HOST}:{self.port}"

    @property
    def seeds_folder(self) -> Path:
        """The seed images, an image folder with `metadata.jsonl`."""
        return self.folder / "seeds"

    @property
    def index_folder(self) -> Path:
        """The kNN index, in clip-retrieval's layout."""
        return self.folder / "index"

    @property
    def web_folder(self) -> Path:
        """The files of the web."""
        return self.folder / "web"


def build_world(
    folder: Path,
    seed: int,
    encoder: Encoder,
    *,
    progress: Callable[[str], None],
    spec: WorldSpec | None = None,
) -> World:
    """The world of `seed` in `folder`; built unless it is complete there, from the same seed, model and size.

    It is built in a folder beside and renamed at the end, so that an interrupted build leaves none. Two processes that build the
    same folder wait for each other.

    Raises:
        SdAssetsError: `folder` holds something else, or no port is free.
    """
    from sd_assets.demo.building import fill_world

    spec = spec or WorldSpec()
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        old: World | None = None
        with contextlib.suppress(SdAssetsError):
            old = World.open(folder)
        wanted = (seed, encoder.identity, spec)
        if old is not None and (old.seed, old.model, old.spec) == wanted:
            return old
        if old is None and folder.exists() and any(folder.iterdir()) and not (folder / "world.json").exists():
            raise SdAssetsError(
                f"{folder} holds something that is no demo world; name another folder, or empty it"
            )
        # The same seed keeps its URLs, whatever else changed.
        port = old.port if old is not None and old.seed == seed else _free_port(seed)
        building = folder.with_name(f"{folder.name}.building")
        shutil.rmtree(building, ignore_errors=True)
        building.mkdir()
        fill_world(World(building, seed, port, encoder.identity, spec), encoder, progress)
        description: dict[str, Any] = {
            "format": FORMAT,
            "seed": seed,
            "port": port,
            "model": encoder.identity,
        }
        (building / "world.json").write_text(
            json.dumps({**description, "spec": asdict(spec)}, indent=2) + "\n", "utf-8"
        )
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    return World.open(folder)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _free_port(seed: int) -> int:
    """A port that nobody listens on; for one seed always the same, if it is free."""
    rng = random.Random(f"world:{seed}:port")
    for _ in range(100):
        port = rng.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise SdAssetsError(f"found no free port between {_PORTS.start} and {_PORTS.stop} on {HOST}")
