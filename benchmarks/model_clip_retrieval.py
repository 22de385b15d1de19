"""`python -m benchmarks.model_clip_retrieval FOLDER`: `clip-retrieval inference`, for `benchmarks.models`; a contender (`turns`).

For the environment of clip-retrieval. The program's own entry runs over a folder of the pictures, with the weights of ours, on
CUDA where there is one. Questions:

    count           pictures, the first ones
    precision       null: as it comes, which is in float32 on a CPU, and mixed with bfloat16 on CUDA; or of torch: what the
                    model's weights are brought to
    batch, workers  its options `batch_size` and `num_prepro_workers`

Answers with `seconds`, of all of it but the loading of the model, which it keeps for the next time. So that this can be told it
is called in this process; and its two loggers, which are processes of their own, and print a rate, are left out: it would be
their start that is measured.
"""

import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.turns import Answer, serve

_WARM_UP = 8  # pictures


class ClipRetrieval:
    """The program, with models that stay loaded.

    Args:
        folder: of the models and pictures.
        room: a folder for what it reads and writes.
    """

    def __init__(self, folder: Path, room: Path) -> None:
        import open_clip

        self._folder = folder
        self._room = room
        self._runs = 0
        (config,) = (folder / "clip").glob("benchmark-*.json")
        open_clip.add_model_config(config)
        # What follows the kind of a CLIP where one of open_clip is named whose weights are in a file.
        self._clip = f"{config.stem}/{(folder / 'clip' / 'open_clip_model.safetensors').absolute()}"
        self._loaded: set[tuple[str | None, int]] = set()
        self._program = import_module("clip_retrieval.clip_inference.main")
        self._program.LoggerReader = _NoLogger  # type: ignore[attr-defined]
        import_module("clip_retrieval.clip_inference.worker").LoggerWriter = _NoLogger  # type: ignore[attr-defined]

    def measure(self, count: int, precision: str | None, batch: int, workers: int) -> Answer:
        """See the module."""
        kind = f"{precision or 'open_clip'}:"
        if (precision, batch) not in self._loaded:  # it loads a model for each size of a batch, and keeps it
            if precision is not None:
                _introduce(kind, precision)
            self._run(kind, _WARM_UP, batch, workers)
            self._loaded.add((precision, batch))
        return {"seconds": self._run(kind, count, batch, workers)}

    def _run(self, kind: str, count: int, batch: int, workers: int) -> float:
        images = self._room / f"{count}"
        if not images.exists():
            images.mkdir()
            for path in sorted((self._folder / "pictures").iterdir())[:count]:
                (images / path.name).symlink_to(path.absolute())
        self._runs += 1
        out = self._room / f"out-{self._runs}"
        started = time.perf_counter()
        self._program.main(
            input_dataset=str(images),
            output_folder=str(out),
            enable_text=False,
            batch_size=batch,
            num_prepro_workers=workers,
            clip_model=kind + self._clip,
        )
        seconds = time.perf_counter() - started
        vectors = np.load(out / "img_emb" / "img_emb_0.npy")
        if len(vectors) != count or not np.isfinite(vectors).all():
            raise RuntimeError(f"not all of {count} pictures have embeddings")
        return seconds


class _NoLogger:
    """In place of loggers that are processes."""

    def __init__(self, *_: object, **__: object) -> None:
        self.start = self.end = self

    def __call__(self, *_: object) -> None:
        pass


def _introduce(kind: str, precision: str) -> None:
    """From now on it knows this kind of CLIP: those of open_clip, with weights of this precision."""
    import torch

    loaders = import_module("all_clip.main")
    known = loaders._CLIP_REGISTRY
    dtype = getattr(torch, precision)

    def load(*arguments: Any) -> Any:
        model, preprocess, tokenizer = known["open_clip:"](*arguments)
        model.inner_model.to(dtype)
        encode = model.encode_image
        model.encode_image = lambda image: encode(image.to(dtype))
        return model, preprocess, tokenizer

    loaders._CLIP_REGISTRY = {kind: load, **known}  # type: ignore[attr-defined] # the first that fits is taken


def main() -> None:
    """See the module."""
    (folder,) = sys.argv[1:]
    with tempfile.TemporaryDirectory() as room:
        serve(ClipRetrieval(Path(folder), Path(room)).measure)


if __name__ == "__main__":
    main()
