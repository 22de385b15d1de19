"""`python -m benchmarks.model_pipeline FOLDER DEVICE`: the pipeline `image-to-text`, for `benchmarks.models`; a contender (`turns`).

For an environment with transformers 4, as 5 has no such pipeline. It gets the pictures' files, and the captions are written
to Parquet. Questions:

    count           pictures, the first ones
    precision       null: as the pipeline chooses, which is that of the weights, float32; or of torch: bfloat16, for example
    batch, workers  its options `batch_size` and `num_workers`

Answers with `seconds`; the model is loaded before. `precision` is the one that was used.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import caption_lengths
from benchmarks.turns import Answer, serve


class Pipelines:
    """Pipelines that stay loaded.

    Args:
        folder: of the models and pictures.
        device: of torch.
        room: a folder for Parquet files.
    """

    def __init__(self, folder: Path, device: str, room: Path) -> None:
        self._folder = folder
        self._device = device
        self._room = room
        self._ready: dict[str | None, Any] = {}

    def measure(self, count: int, precision: str | None, batch: int, workers: int) -> Answer:
        """See the module."""
        import torch
        from transformers import pipeline

        captioner = self._ready.get(precision)
        if captioner is None:
            dtype = {} if precision is None else {"dtype": getattr(torch, precision)}
            model = str(self._folder / "blip")
            captioner = pipeline("image-to-text", model=model, device=self._device, **dtype)
            self._ready[precision] = captioner
            self._run(captioner, 2, 2, 0)
        return {
            "seconds": self._run(captioner, count, batch, workers),
            "precision": str(captioner.model.dtype).removeprefix("torch."),
        }

    def _run(self, captioner: Any, count: int, batch: int, workers: int) -> float:
        paths = [str(path) for path in sorted((self._folder / "pictures").iterdir())[:count]]
        started = time.perf_counter()
        results = captioner(
            paths,
            batch_size=batch,
            num_workers=workers,
            max_new_tokens=caption_lengths.MAX_NEW_TOKENS,
        )
        captions = [result[0]["generated_text"] for result in results]
        pq.write_table(pa.table({"image": paths, "caption": captions}), self._room / "captions.parquet")
        seconds = time.perf_counter() - started
        caption_lengths.require(captions)
        return seconds


def main() -> None:
    """See the module."""
    caption_lengths.impose()
    folder, device = sys.argv[1:]
    with tempfile.TemporaryDirectory() as room:
        serve(Pipelines(Path(folder), device, Path(room)).measure)


if __name__ == "__main__":
    main()
