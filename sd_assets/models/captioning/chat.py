"""Models that are asked through their processor: chat models, and those that take a picture within a text.

Their processors decide by the picture's size how many tokens stand for it, and how its tensors are laid out.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from sd_assets.errors import ModelError
from sd_assets.models.caption_model import DEFAULT_PROMPT
from sd_assets.models.captioning.families import Arrays, Family, Tensor
from sd_assets.models.devices import on_device
from sd_assets.models.preprocessing import without_thin_sides
from sd_assets.views.text import one_line

# What models without a chat template were trained to be asked; others are asked nothing.
_ASKED = {"paligemma": "caption en", "kosmos-2": "An image of", "kosmos-2.5": "<md>"}
_IDS = "input_ids"


class Asked(Family):
    """A model whose processor takes a picture and a text: PaliGemma, Kosmos-2, Pix2Struct, Idefics and their like."""

    fill: ClassVar[int] = 1  # its rows are long: a filling would cost more than it evens out
    on_80_gib: ClassVar[int] = 64

    def preprocess(self, image: Image.Image, prompts: Sequence[str | None]) -> dict[str | None, Arrays]:
        """For each of the prompts, the tensors of one picture and text as the processor makes them.

        Args:
            image: RGB, of any size.
            prompts: with which it will be captioned.
        """
        image = without_thin_sides(image)
        return {prompt: self._processed(image, prompt) for prompt in prompts}

    def encode(self, pictures: Sequence[Any]) -> Sequence[Any]:
        """As they are: the model reads picture and prompt together."""
        return pictures

    def alike(self, picture: Mapping[str | None, Arrays], prompt: str | None) -> Hashable:
        """Those whose tensors follow each other along the first axis; texts may differ in length."""
        arrays = picture[prompt]
        return tuple(
            (name, array.ndim if _is_text(array, arrays) else array.shape[1:])
            for name, array in arrays.items()
        )

    def check(self, prompt: str | None) -> None:
        try:
            self._processed(Image.new("RGB", (64, 64)), prompt)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"{self.where}: its processor does not take a picture with the prompt {prompt!r}: {one_line(error)}"
            ) from error

    def generate(
        self, encoded: Sequence[Mapping[str | None, Arrays]], prompt: str | None, options: Mapping[str, Any]
    ) -> Tensor:
        rows = [picture[prompt] for picture in encoded]
        inputs = {name: self._joined(name, rows) for name in rows[0]}
        tokens: Tensor = self.model.generate(**inputs, **options)
        if self.model.config.is_encoder_decoder:
            start = inputs.get("decoder_input_ids")
            return tokens[:, 1 if start is None else start.shape[1] :]
        return tokens[:, inputs[_IDS].shape[1] :] if _IDS in inputs else tokens

    def _question(self, prompt: str | None) -> str | None:
        """The text beside the picture."""
        text = _ASKED.get(self.model.config.model_type) if prompt is None else prompt
        token = getattr(self.processor, "image_token", None)
        # Where the processor looks for the place of the picture in the text.
        if isinstance(token, str) and token not in (text or ""):
            return f"{token}{text or ''}"
        return text

    def _processed(self, image: Image.Image, prompt: str | None) -> Arrays:
        text = self._question(prompt)
        made = self.processor(images=image, return_tensors="pt", **({} if text is None else {"text": text}))
        return _arrays(made)

    def _joined(self, name: str, rows: Sequence[Arrays]) -> Tensor:
        """One tensor of several pictures; texts are filled up on the left, where nothing is continued."""
        arrays = [row[name] for row in rows]
        if _is_text(arrays[0], rows[0]):
            longest = max(array.shape[1] for array in arrays)
            filling = self.tokenizer.pad_token_id or 0 if name == _IDS else 0
            arrays = [
                np.pad(
                    array,
                    [(0, 0), (longest - array.shape[1], 0), *[(0, 0)] * (array.ndim - 2)],
                    constant_values=filling,
                )
                for array in arrays
            ]
        return self._in_precision(on_device(np.concatenate(arrays), self.device))


class Chat(Asked):
    """A chat model: its template wraps the prompt and the place of the picture."""

    def _processed(self, image: Image.Image, prompt: str | None) -> Arrays:
        text = DEFAULT_PROMPT if prompt is None else prompt
        content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
        made = self.processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        return _arrays(made)


def _arrays(made: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    return {name: value.numpy() for name, value in made.items() if isinstance(value, torch.Tensor)}


def _is_text(array: Any, arrays: Arrays) -> bool:
    """Whether it has a column for each token: ids, masks, kinds of tokens."""
    ids = arrays.get(_IDS)
    return ids is not None and array.ndim > 1 and array.dtype.kind in "iub" and array.shape[:2] == ids.shape
