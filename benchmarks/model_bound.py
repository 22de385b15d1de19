"""`python -m benchmarks.model_bound FOLDER DEVICE`: the models alone, for `benchmarks.models`; a contender (`turns`).

What no program around the models can be faster than, unless it runs them in a better way: the same models, on tensors that lie
ready on the device. Questions:

    what            clip: the image encoder; or caption: `generate`, of the captions' tokens
    count           pictures, the first ones; of the last batch only as a whole
    precision       of torch: bfloat16, for example
    batch           pictures at once
    how             eager; channels-last, the memory format; or compiled, by torch.compile (of a captioner its image encoder,
                    whose shapes do not change)

Answers with `seconds` and the `count` of pictures that they were for. Loading, compiling and a first batch come before.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks import caption_lengths
from benchmarks.turns import Answer, serve

HOWS = ("eager", "channels-last", "compiled")
_PICTURES = 512  # that are prepared for captions; then they come again


class Bound:
    """Models that stay loaded, one of each kind.

    Args:
        folder: of the models and pictures.
        device: of torch.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._device = device
        self._ready: dict[tuple[str, str, str], Callable[[Any], Any]] = {}
        self._pixels: torch.Tensor | None = None

    @torch.inference_mode()
    def measure(self, what: str, count: int, precision: str, batch: int, how: str) -> Answer:
        """See the module."""
        dtype = getattr(torch, precision)
        run = self._ready.get((what, precision, how))
        if run is None:
            run = self._encoder(dtype, how) if what == "clip" else self._captioner(dtype, how)
            self._ready[what, precision, how] = run
        batches = max(1, count // batch)
        if what == "clip":  # whatever they show, it takes as long
            inputs = [
                torch.randn(batch, 3, self._side, self._side, device=self._device, dtype=dtype)
            ] * batches
        else:
            pictures = self._pictures(min(count, _PICTURES), dtype)
            places = torch.arange(batches * batch, device=self._device) % len(pictures)
            inputs = [pictures[places[first : first + batch]] for first in range(0, len(places), batch)]
        if how == "channels-last":
            inputs = [pixels.contiguous(memory_format=torch.channels_last) for pixels in inputs]
        # What is chosen or compiled at the first batch of a size is not timed; where nothing is, two pictures will do.
        run(inputs[0][:2] if self._device == "cpu" and how != "compiled" else inputs[0])
        self._wait()
        started = time.perf_counter()
        for pixels in inputs:
            run(pixels)
        self._wait()
        return {"seconds": time.perf_counter() - started, "count": batches * batch}

    @property
    def _side(self) -> int:
        config = json.loads((self._folder / "clip" / "open_clip_config.json").read_text())
        return int(config["model_cfg"]["vision_cfg"]["image_size"])

    def _encoder(self, dtype: torch.dtype, how: str) -> Callable[[Any], Any]:
        import open_clip

        model: Any = open_clip.create_model(f"local-dir:{self._folder / 'clip'}")
        encoder: Callable[[Any], Any] = self._prepared(model.visual, dtype, how)
        return encoder

    def _captioner(self, dtype: torch.dtype, how: str) -> Callable[[Any], Any]:
        from transformers import BlipForConditionalGeneration

        model: Any = BlipForConditionalGeneration.from_pretrained(self._folder / "blip")
        model.to(self._device, dtype).eval()
        self._prepared(model.vision_model, dtype, how)
        return lambda pixels: model.generate(
            pixel_values=pixels,
            max_new_tokens=caption_lengths.MAX_NEW_TOKENS,
            do_sample=False,
            num_beams=1,
        )

    def _prepared(self, model: Any, dtype: torch.dtype, how: str) -> Any:
        model.to(self._device, dtype).eval().requires_grad_(False)
        if how == "channels-last":
            model.to(memory_format=torch.channels_last)
        elif how == "compiled":
            model.compile(dynamic=False)
        elif how != "eager":
            raise ValueError(f"there is no {how!r}; there are {', '.join(HOWS)}")
        return model

    def _pictures(self, count: int, dtype: torch.dtype) -> torch.Tensor:
        """The first pictures, as the model's image processor makes them, on the device."""
        if self._pixels is None or len(self._pixels) < count:
            from transformers import AutoImageProcessor

            processor = AutoImageProcessor.from_pretrained(self._folder / "blip")
            paths = sorted((self._folder / "pictures").iterdir())[:count]
            made = [processor(images=Image.open(path), return_tensors="pt").pixel_values for path in paths]
            self._pixels = torch.cat(made).to(self._device, dtype)
        return self._pixels[:count].to(dtype)

    def _wait(self) -> None:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize()


def main() -> None:
    """See the module."""
    caption_lengths.impose()
    folder, device = sys.argv[1:]
    serve(Bound(Path(folder), device).measure)


if __name__ == "__main__":
    main()
