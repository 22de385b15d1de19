"""`python -m benchmarks.model_loop FOLDER DEVICE`: a plain loop, for `benchmarks.models`; a contender (`turns`).

Embeddings and captions as the components of Fondant make them with transformers: all pictures are read from Parquet, each is
decoded and preprocessed by the model's processor, one after the other, and put on the device; then the model gets them eight
at a time, in float32; and the results are written to Parquet. Questions:

    what            clip or caption
    count           pictures, the first ones
    precision       of torch: float32, for example

Answers with `seconds`; the models are loaded before. The CLIP is one of transformers, of the same architecture.
"""

import io
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from benchmarks import caption_lengths
from benchmarks.turns import Answer, serve

BATCH = 8


class Loop:
    """Models that stay loaded.

    Args:
        folder: of the models and pictures.
        device: of torch.
        room: a folder for Parquet files.
    """

    def __init__(self, folder: Path, device: str, room: Path) -> None:
        self._folder = folder
        self._device = device
        self._room = room
        self._ready: dict[tuple[str, str], tuple[Any, Any]] = {}

    @torch.inference_mode()
    def measure(self, what: str, count: int, precision: str) -> Answer:
        """See the module."""
        dtype = getattr(torch, precision)
        if (what, precision) not in self._ready:
            self._ready[what, precision] = self._clip(dtype) if what == "clip" else self._captioner(dtype)
        processor, model = self._ready[what, precision]
        file = self._input(count)
        started = time.perf_counter()
        pixels = []
        for image in pq.read_table(file).column("image").to_pylist():
            picture = Image.open(io.BytesIO(image)).convert("RGB")
            made = processor(images=picture, return_tensors="pt").pixel_values
            pixels.append(made.to(self._device, dtype))
        results: list[Any] = []
        for start in range(0, len(pixels), BATCH):
            batch = torch.cat(pixels[start : start + BATCH])
            if what == "clip":
                results += list(model(pixel_values=batch).image_embeds.float().cpu().numpy())
            else:
                tokens = model.generate(pixel_values=batch, max_new_tokens=caption_lengths.MAX_NEW_TOKENS)
                results += processor.batch_decode(tokens, skip_special_tokens=True)
        pq.write_table(pa.table({what: results}), self._room / "results.parquet")
        seconds = time.perf_counter() - started
        if what == "caption":
            caption_lengths.require(results)
        elif len(results) != count or not np.isfinite(np.array(results)).all():
            raise RuntimeError(f"not all of {count} pictures have embeddings")
        return {"seconds": seconds}

    def _clip(self, dtype: torch.dtype) -> tuple[Any, Any]:
        from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

        known = json.loads((self._folder / "clip" / "open_clip_config.json").read_text())["model_cfg"]
        tower = known["vision_cfg"]
        config = CLIPVisionConfig(
            image_size=tower["image_size"],
            patch_size=tower["patch_size"],
            hidden_size=tower["width"],
            intermediate_size=tower["width"] * 4,
            num_hidden_layers=tower["layers"],
            num_attention_heads=tower["width"] // tower.get("head_width", 64),
            projection_dim=known["embed_dim"],
        )
        side = tower["image_size"]
        processor = CLIPImageProcessor(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        )
        return processor, CLIPVisionModelWithProjection(config).to(self._device, dtype).eval()

    def _captioner(self, dtype: torch.dtype) -> tuple[Any, Any]:
        from transformers import BlipForConditionalGeneration, BlipProcessor

        model: Any = BlipForConditionalGeneration.from_pretrained(self._folder / "blip", dtype=dtype)
        return BlipProcessor.from_pretrained(self._folder / "blip"), model.to(self._device).eval()

    def _input(self, count: int) -> Path:
        file = self._room / f"{count}.parquet"
        if not file.exists():
            paths = sorted((self._folder / "pictures").iterdir())[:count]
            pq.write_table(pa.table({"image": [path.read_bytes() for path in paths]}), file)
        return file


def main() -> None:
    """See the module."""
    caption_lengths.impose()
    folder, device = sys.argv[1:]
    with tempfile.TemporaryDirectory() as room:
        serve(Loop(Path(folder), device, Path(room)).measure)


if __name__ == "__main__":
    main()
