"""How each family of captioners takes pictures and prompts: BLIP, BLIP-2, GIT, Florence-2, encoders with decoders.

Here belongs what differs between them. The steps of decoding are in `generation`, models that are asked through their
processor (chat models and their like) in `chat`, how a model is found and loaded in `checkpoint`.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from transformers.modeling_outputs import BaseModelOutput

from sd_assets.errors import ModelError
from sd_assets.models.devices import on_device
from sd_assets.models.preprocessing import middle_of_strip, without_thin_sides

Tensor = torch.Tensor
Tensors = dict[str, Tensor]
Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Loaded:
    """A model with what prepares its inputs.

    Attributes:
        model: on its device.
        image_processor: of its library.
        tokenizer: likewise.
        processor: of both, or None: ViT-GPT2 and its like have no joint one.
        where: names the model in errors.
    """

    model: Any
    image_processor: Any
    tokenizer: Any
    processor: Any
    where: str


class Family(ABC):
    """One model of a family, on its device.

    Attributes:
        compacts: whether its decoder may lose rows while it goes on (`generation.compacting`).
        fill: batches of the decoder are filled up to a multiple of this.
        on_80_gib: pictures that a GPU of so much memory decodes at once.
    """

    compacts: ClassVar[bool] = False
    fill: ClassVar[int] = 16
    on_80_gib: ClassVar[int] = 256

    def __init__(self, loaded: Loaded) -> None:
        self.model = loaded.model
        self.image_processor = loaded.image_processor
        self.tokenizer = loaded.tokenizer
        self.processor = loaded.processor
        self.where = loaded.where
        self._special = frozenset(self.tokenizer.all_special_ids) | _marks(self.model)
        self._crops_middle = _crops_middle(self.image_processor)
        self._prompts: dict[str | None, Tensors] = {}

    @property
    def device(self) -> str:
        return str(self.model.device)

    # --- pictures ------------------------------------------------------------------------------------------------

    def preprocess(self, image: Image.Image, prompts: Sequence[str | None]) -> Any:
        """A picture as `encode` takes it. Called from several threads.

        Args:
            image: RGB, of any size.
            prompts: with which it will be captioned.

        Returns:
            the tensors of the model's own image processor: `pixel_values` [3, H, W] float32 and whatever else it makes.
        """
        image = middle_of_strip(image) if self._crops_middle else image
        made = self.image_processor(images=without_thin_sides(image), return_tensors="pt")
        return {name: value[0].numpy() for name, value in made.items()}

    def alike(self, picture: Any, prompt: str | None) -> Hashable:
        """Pictures for which this is the same can be decoded together."""
        return None

    @abstractmethod
    def encode(self, pictures: Sequence[Any]) -> Sequence[Any]:
        """What the decoder needs of each picture, on the device, whatever the prompt."""

    # --- captions ------------------------------------------------------------------------------------------------

    def check(self, prompt: str | None) -> None:
        """Refuses a prompt that the model does not take.

        Raises:
            ModelError: why not.
        """
        self._prompt(prompt)

    @abstractmethod
    def generate(self, encoded: Sequence[Any], prompt: str | None, options: Mapping[str, Any]) -> Tensor:
        """Tokens of captions.

        Args:
            encoded: what `encode` made of the pictures.
            prompt: that they continue.
            options: for `generate` of transformers.

        Returns:
            int64 [pictures x `num_return_sequences`, steps], without the prompt.
        """

    def text(self, tokens: Sequence[int]) -> str:
        """A caption's tokens in words, on one line."""
        words = [token for token in tokens if token not in self._special]
        return " ".join(self.tokenizer.decode(words, skip_special_tokens=True).split())

    def _prompt(self, text: str | None) -> Tensors:
        """Tensors of one row on the CPU; empty where the model needs none."""
        if text not in self._prompts:
            self._prompts[text] = self._make_prompt(text)
        return self._prompts[text]

    def _make_prompt(self, text: str | None) -> Tensors:
        return {} if text is None else self._of_processor(text)

    def _of_processor(self, text: str) -> Tensors:
        """What the model's processor makes of a text, beside what it makes of a picture."""
        if self.processor is None:
            raise ModelError(f"{self.where} has no processor that takes a prompt: remove `prompt:`")
        blank = Image.new("RGB", (32, 32))
        of_image = set(self.image_processor(images=blank, return_tensors="pt"))
        both = self.processor(images=blank, text=text, return_tensors="pt")
        return {name: value for name, value in both.items() if name not in of_image}

    def _rows(self, row: Tensor, count: int) -> Tensor:
        """A row for each picture, on the device; a copy each time: some models write into their input_ids."""
        return row.to(self.model.device).repeat(count, *[1] * (row.ndim - 1))

    def _continued(self, text: str) -> list[int]:
        """The tokens of a text to be continued, without those that end it."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _pixels(self, pictures: Sequence[Arrays]) -> Tensor:
        """[pictures, 3, H, W] in the model's precision."""
        return self._stacked(pictures, "pixel_values")

    def _stacked(self, pictures: Sequence[Arrays], name: str) -> Tensor:
        return self._in_precision(on_device(np.stack([picture[name] for picture in pictures]), self.device))

    def _in_precision(self, tensor: Tensor) -> Tensor:
        """Numbers as the model's weights are; ids and masks as they are."""
        precise: Tensor = tensor.to(self.model.dtype) if tensor.is_floating_point() else tensor
        return precise


class Blip(Family):
    """BLIP: a text decoder that looks at the picture's patches."""

    compacts = True

    def encode(self, pictures: Sequence[Arrays]) -> Sequence[Tensor]:
        """Each [patches, width]."""
        return list(self.model.vision_model(pixel_values=self._pixels(pictures))[0])

    def _make_prompt(self, text: str | None) -> Tensors:
        words = self.model.config.text_config
        if text is None:
            return {"input_ids": torch.tensor([[words.bos_token_id]])}
        row = self._of_processor(text)
        ids = row["input_ids"][:, :-1].clone()  # without the end
        ids[:, 0] = words.bos_token_id
        return {"input_ids": ids}

    def generate(self, encoded: Sequence[Tensor], prompt: str | None, options: Mapping[str, Any]) -> Tensor:
        states = torch.stack(list(encoded))
        ids = self._rows(self._prompt(prompt)["input_ids"], len(encoded))
        words = self.model.config.text_config
        tokens: Tensor = self.model.text_decoder.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            encoder_hidden_states=states,
            encoder_attention_mask=torch.ones(states.shape[:2], dtype=torch.long, device=states.device),
            eos_token_id=words.sep_token_id,
            pad_token_id=words.pad_token_id,
            **options,
        )
        return tokens[:, ids.shape[1] :]


class VisionEncoderDecoder(Family):
    """ViT-GPT2 and its like: any image encoder with any text decoder."""

    compacts = True

    def encode(self, pictures: Sequence[Arrays]) -> Sequence[Tensor]:
        """Each [patches, width]."""
        return list(self.model.encoder(pixel_values=self._pixels(pictures)).last_hidden_state)

    def _make_prompt(self, text: str | None) -> Tensors:
        start = self.model.generation_config.decoder_start_token_id
        if start is None:
            start = self.model.config.decoder_start_token_id
        return {"decoder_input_ids": torch.tensor([[start, *self._continued(text or "")]])}

    def generate(self, encoded: Sequence[Tensor], prompt: str | None, options: Mapping[str, Any]) -> Tensor:
        ids = self._rows(self._prompt(prompt)["decoder_input_ids"], len(encoded))
        tokens: Tensor = self.model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=torch.stack(list(encoded))),
            decoder_input_ids=ids,
            **options,
        )
        return tokens[:, ids.shape[1] :]


class Git(Family):
    """GIT: one decoder over the picture's patches and the text; it encodes the picture in its first step."""

    compacts = True

    def encode(self, pictures: Sequence[Arrays]) -> Sequence[Arrays]:
        return pictures

    def _make_prompt(self, text: str | None) -> Tensors:
        start = self.tokenizer.cls_token_id
        if start is None:
            start = self.model.config.bos_token_id
        return {"input_ids": torch.tensor([[start, *self._continued(text or "")]])}

    def generate(self, encoded: Sequence[Arrays], prompt: str | None, options: Mapping[str, Any]) -> Tensor:
        ids = self._rows(self._prompt(prompt)["input_ids"], len(encoded))
        tokens: Tensor = self.model.generate(
            pixel_values=self._pixels(encoded), input_ids=ids, attention_mask=torch.ones_like(ids), **options
        )
        return tokens[:, ids.shape[1] :]


class Blip2(Family):
    """BLIP-2 and InstructBLIP: a language model that is told of the picture by a Q-Former."""

    compacts = True

    def encode(self, pictures: Sequence[Arrays]) -> Sequence[Tensor]:
        """Each [patches, width]: what the Q-Former reads."""
        return list(self.model.vision_model(self._pixels(pictures), return_dict=True).last_hidden_state)

    @property
    def _reads_instruction(self) -> bool:
        return str(self.model.config.model_type).startswith("instructblip")

    def _make_prompt(self, text: str | None) -> Tensors:
        if text is not None or self._reads_instruction:
            return self._of_processor(text or "")
        config = self.model.config
        ids = [config.image_token_index] * config.num_query_tokens + [config.text_config.bos_token_id]
        return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}

    def generate(self, encoded: Sequence[Tensor], prompt: str | None, options: Mapping[str, Any]) -> Tensor:
        row = {name: self._rows(value, len(encoded)) for name, value in self._prompt(prompt).items()}
        of_picture = self._queried(torch.stack(list(encoded)), row)
        model = self.model
        ids, mask = row["input_ids"], row["attention_mask"]
        embeds = model.get_input_embeddings()(ids)
        places = (ids == model.config.image_token_index)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(places, of_picture.to(embeds.dtype))
        tokens: Tensor = model.language_model.generate(inputs_embeds=embeds, attention_mask=mask, **options)
        # A T5 begins with its start token, a decoder that was given vectors with nothing.
        return tokens[:, 1:] if model.language_model.config.is_encoder_decoder else tokens

    def _queried(self, states: Tensor, row: Tensors) -> Tensor:
        """[pictures, queries, width of the language model]: the picture in the words of the language model."""
        model = self.model
        queries = model.query_tokens.expand(len(states), -1, -1)
        inputs: dict[str, Any] = {
            "query_embeds": queries,
            "encoder_hidden_states": states,
            "encoder_attention_mask": torch.ones(states.shape[:2], dtype=torch.long, device=states.device),
        }
        if self._reads_instruction:
            read = row["qformer_attention_mask"]
            seen = torch.ones(queries.shape[:2], dtype=read.dtype, device=read.device)
            inputs.update(input_ids=row["qformer_input_ids"], attention_mask=torch.cat([seen, read], dim=1))
        answered = model.qformer(**inputs, return_dict=True).last_hidden_state[:, : queries.shape[1]]
        projected: Tensor = model.language_projection(answered.to(model.language_projection.weight.dtype))
        return projected


class Florence2(Family):
    """Florence-2: an encoder reads the picture and the task (`<CAPTION>`), a decoder answers."""

    compacts = True
    TASK: ClassVar[str] = "<CAPTION>"

    def encode(self, pictures: Sequence[Arrays]) -> Sequence[Tensor]:
        """Each [image tokens, width]."""
        features = self.model.get_image_features(pixel_values=self._pixels(pictures))
        # transformers 5 answers an object, 4.57 the tensor.
        return list(getattr(features, "pooler_output", features))

    def _make_prompt(self, text: str | None) -> Tensors:
        try:
            return self._of_processor(self.TASK if text is None else text)
        except ValueError as error:  # its processor knows what it can be asked
            raise ModelError(f"{self.where} does not take the prompt {text!r}: {error}") from error

    def generate(self, encoded: Sequence[Tensor], prompt: str | None, options: Mapping[str, Any]) -> Tensor:
        model = self.model
        row = {name: self._rows(value, len(encoded)) for name, value in self._prompt(prompt).items()}
        ids, mask = row["input_ids"], row["attention_mask"]
        embeds = model.get_input_embeddings()(ids)
        places = (ids == model.config.image_token_id)[..., None].expand_as(embeds)
        embeds = embeds.masked_scatter(places, torch.stack(list(encoded)).to(embeds.dtype))
        read = model.model.language_model.encoder(inputs_embeds=embeds, attention_mask=mask)
        tokens: Tensor = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=read.last_hidden_state),
            attention_mask=mask,
            **options,
        )
        return tokens[:, 1:]


def _marks(model: Any) -> frozenset[int]:
    """The ids that start, end and fill a sequence. BLIP starts with one that its tokenizer does not know."""
    names = ("bos_token_id", "eos_token_id", "sep_token_id", "pad_token_id", "decoder_start_token_id")
    config = model.config
    parts = [
        config,
        *(getattr(config, name, None) for name in ("text_config", "decoder")),
        model.generation_config,
    ]
    ids = [getattr(part, name, None) for part in parts for name in names]
    flat = [token for each in ids for token in (each if isinstance(each, list) else [each])]
    return frozenset(token for token in flat if isinstance(token, int))


def _crops_middle(image_processor: Any) -> bool:
    size = getattr(image_processor, "size", None) or {}
    return bool(getattr(image_processor, "do_center_crop", False)) and bool(dict(size).get("shortest_edge"))
