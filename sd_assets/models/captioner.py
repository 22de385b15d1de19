"""Captions of pictures, by any image-to-text model of transformers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sd_assets.catalog import require_set
from sd_assets.errors import ModelError
from sd_assets.models.caption_model import CaptionModel
from sd_assets.models.loading import (
    HubCommit,
    LazyModel,
    folder_digest,
    hub_commit,
    hub_file,
    is_folder,
    padded_batches,
)
from sd_assets.models.preprocessing import middle_of_strip, without_thin_sides
from sd_assets.settings import CaptionerSettings
from sd_assets.views.text import one_line

Inputs = Mapping[str, npt.NDArray[Any]]


@dataclass
class _Parts:
    model: Any
    image_processor: Any
    tokenizer: Any
    prompt: dict[str, Any]  # tensors of one row that go with every picture; empty without a prompt
    prompt_ids: list[int]  # what of it a model may echo
    special_ids: frozenset[int]
    crops_middle: bool


class Captioner(LazyModel[_Parts], CaptionModel):
    """An image-to-text model by its Hub id or folder: BLIP, BLIP-2, InstructBLIP, GIT and their like.

    Nothing is loaded before `load()`. Weights come as safetensors only, and no code of a model's repository is run.

    Args:
        settings: which model, its prompt, the longest caption, the batch size.
        device: `auto` (cuda, mps, cpu, the first there is), or one of them, or `cuda:1`.
        precision: `auto` (half precision on cuda, float32 elsewhere), `float32`, `float16` or `bfloat16`.
    """

    def __init__(self, settings: CaptionerSettings, *, device: str = "auto", precision: str = "auto") -> None:
        super().__init__(device, precision)
        self.settings = settings

    @cached_property
    def identity(self) -> str:
        """Names the model: `org/model@commit`, or `local-dir:` and a digest of the folder's files.

        Raises:
            ModelError: the folder is missing, or the Hub does not have the model.
        """
        if self._folder is not None:
            return f"local-dir:{folder_digest(self._folder)}"
        return f"{self._model}@{self._commit.commit}"

    @property
    def batch_size(self) -> int:
        return self.settings.batch_size

    @property
    def name(self) -> str:
        return self._model

    @property
    def fingerprint_settings(self) -> dict[str, Any]:
        """What of the settings changes the captions."""
        return {
            "model": self.identity,
            "prompt": self.settings.prompt,
            "max_new_tokens": self.settings.max_new_tokens,
        }

    def preprocess(self, image: Image.Image) -> dict[str, npt.NDArray[Any]]:
        """A picture as the model's own image processor makes it. May be called from several threads.

        Args:
            image: RGB, of any size.

        Returns:
            `pixel_values` [3, H, W] float32, and whatever else the model's image processor makes.
        """
        parts = self._loaded()
        image = middle_of_strip(image) if parts.crops_middle else image
        made = parts.image_processor(images=without_thin_sides(image), return_tensors="pt")
        return {name: value[0].numpy() for name, value in made.items()}

    def caption(self, inputs: Sequence[Inputs]) -> list[str]:
        """Captions of pictures, by greedy decoding: the same picture has the same caption, whatever else is there.

        Args:
            inputs: what `preprocess` gave.

        Returns:
            one text each, at most `max_new_tokens` tokens after the prompt, without the prompt; perhaps empty.
        """
        import torch

        parts = self._loaded()
        captions: list[str] = []
        with torch.inference_mode():
            for batch, count in padded_batches(inputs, self.settings.batch_size):
                tensors = {
                    name: self._to_device(torch.from_numpy(np.stack([item[name] for item in batch])))
                    for name in batch[0]
                }
                for name, row in parts.prompt.items():  # a copy each time: BLIP writes into its input_ids
                    tensors[name] = row.to(self.device).repeat(len(batch), *[1] * (row.ndim - 1))
                tokens = parts.model.generate(
                    **tensors, max_new_tokens=self.settings.max_new_tokens, do_sample=False, num_beams=1
                )
                captions += [self._text(row, parts) for row in tokens.tolist()[:count]]
        return captions

    def _text(self, tokens: list[int], parts: _Parts) -> str:
        """Tokens as a caption. Some models repeat the prompt before the caption, some do not."""
        words = [token for token in tokens if token not in parts.special_ids]
        if parts.prompt_ids and words[: len(parts.prompt_ids)] == parts.prompt_ids:
            words = words[len(parts.prompt_ids) :]
        return " ".join(parts.tokenizer.decode(words, skip_special_tokens=True).split())

    def _to_device(self, tensor: Any) -> Any:
        import torch

        if tensor.is_floating_point():
            return tensor.to(device=self.device, dtype=getattr(torch, self.precision))
        return tensor.to(self.device)

    # --- what the name means -------------------------------------------------------------------------------------

    @cached_property
    def _model(self) -> str:
        return require_set(self.settings.model, "captioner.model")

    @property
    def _where(self) -> str:
        return f"the captioner {self._model!r}"

    @property
    def _folder(self) -> Path | None:
        return Path(self._model).expanduser() if is_folder(self._model) else None

    @cached_property
    def _commit(self) -> HubCommit:
        return hub_commit(self._model, self.settings.revision, ["config.json"], self._where)

    # --- loading -------------------------------------------------------------------------------------------------

    def _config_file(self) -> Path:
        if self._folder is None:
            return hub_file(self._commit, "config.json", self._where)
        if not self._folder.is_dir():
            raise ModelError(
                f"{self._where}: the folder does not exist: give the one that holds config.json and weights"
            )
        path = self._folder / "config.json"
        if not path.is_file():
            raise ModelError(f"{self._where} is not a model of transformers: the folder holds no config.json")
        return path

    def _load(self, device: str, precision: str) -> _Parts:
        self._check_kind(self._config_file())
        import torch
        from transformers import AutoModelForImageTextToText
        from transformers.utils import logging

        logging.disable_progress_bar()  # in the log of a run it is noise

        source = str(self._folder) if self._folder is not None else self._model
        # Pinned to the commit; from the cache alone where the Hub does not answer, or every file costs a time-out.
        pinned: dict[str, Any] = {"trust_remote_code": False}
        if self._folder is None:
            pinned.update(revision=self._commit.commit, local_files_only=not self._commit.online)
        try:
            image_processor, tokenizer, processor = _processors(source, pinned)
            if getattr(processor, "chat_template", None):
                raise ModelError(
                    f"{self._where} is a chat model, which is asked through its chat template; this captioner runs "
                    "models that caption as they are: BLIP, BLIP-2, InstructBLIP, GIT, ViT-GPT2"
                )
            model, report = AutoModelForImageTextToText.from_pretrained(
                source,
                dtype=getattr(torch, precision),
                use_safetensors=True,
                output_loading_info=True,
                **pinned,
            )
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(
                f"{self._where} cannot be loaded: {one_line(error)}. Its weights must be safetensors, and its processor "
                "must be there (preprocessor_config.json and the tokenizer's files)"
            ) from error
        if missing := sorted(report["missing_keys"]):
            raise ModelError(
                f"{self._where} is incomplete: its weights lack {len(missing)} parameters of "
                f"{type(model).__name__}, {missing[0]!r} for one"
            )
        _leave_length_to_us(model)
        prompt = self._prompt(model, processor, image_processor, tokenizer)
        special = frozenset(tokenizer.all_special_ids) | _marks(model.config)
        ids = prompt.get("input_ids", prompt.get("decoder_input_ids"))
        return _Parts(
            model=model.to(device).eval().requires_grad_(False),
            image_processor=image_processor,
            tokenizer=tokenizer,
            prompt=prompt,
            prompt_ids=[] if ids is None else [token for token in ids[0].tolist() if token not in special],
            special_ids=special,
            crops_middle=_crops_middle(image_processor),
        )

    def _check_kind(self, config_file: Path) -> None:
        """Refuses what is not an image-to-text model, before its weights are fetched."""
        from transformers import CONFIG_MAPPING
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES as KNOWN

        try:
            config = json.loads(config_file.read_text(encoding="utf-8"))
            kind = config["model_type"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{self._where} is not a model of transformers: its config.json names no model_type"
            ) from error
        if kind not in KNOWN:
            known = kind in CONFIG_MAPPING
            raise ModelError(
                f"{self._where} is not an image-to-text model"
                + (f": it is a {kind!r}" if known else f" that this transformers knows: {kind!r}")
                + "; use one like Salesforce/blip-image-captioning-base, Salesforce/blip2-opt-2.7b or microsoft/git-base-coco"
            )
        # A BLIP for visual question answering loads as a captioner without complaint, and captions nonsense.
        saved = config.get("architectures") or [KNOWN[kind]]
        if KNOWN[kind] not in saved:
            raise ModelError(
                f"{self._where} is not an image-to-text model: it was saved as {', '.join(saved)}, a captioner of its "
                f"family is a {KNOWN[kind]}"
            )

    def _prompt(self, model: Any, processor: Any, image_processor: Any, tokenizer: Any) -> dict[str, Any]:
        """The tensors of the prompt, a row, in the form in which this family continues a text."""
        import torch

        text = self.settings.prompt
        kind = model.config.model_type
        needs_text = kind.startswith("instructblip")  # its Q-Former reads the instruction
        if text is None and not needs_text:
            return {}
        text = text or ""
        if kind == "git":  # continues after the text; what its tokenizer adds would end the text
            ids = [tokenizer.cls_token_id, *tokenizer(text, add_special_tokens=False).input_ids]
            return {
                "input_ids": torch.tensor([ids]),
                "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            }
        if kind == "vision-encoder-decoder":
            start = model.generation_config.decoder_start_token_id or model.config.decoder_start_token_id
            ids = [start, *tokenizer(text, add_special_tokens=False).input_ids]
            return {"decoder_input_ids": torch.tensor([ids])}
        if processor is None:
            raise ModelError(f"{self._where} has no processor that takes a prompt: remove `prompt:`")
        blank = Image.new("RGB", (32, 32))
        of_image = set(image_processor(images=blank, return_tensors="pt"))
        both = processor(images=blank, text=text, return_tensors="pt")
        return {name: value for name, value in both.items() if name not in of_image}


def _marks(config: Any) -> frozenset[int]:
    """The ids that start, end and fill a sequence. BLIP starts with one that its tokenizer does not know."""
    names = ("bos_token_id", "eos_token_id", "sep_token_id", "pad_token_id", "decoder_start_token_id")
    parts = [config, *(getattr(config, name, None) for name in ("text_config", "decoder"))]
    ids = [getattr(part, name, None) for part in parts for name in names]
    return frozenset(token for token in ids if isinstance(token, int))


def _leave_length_to_us(model: Any) -> None:
    """A model's own `max_length` counts the prompt, and transformers warns of it at every batch."""
    for module in model.modules():
        if getattr(module, "generation_config", None) is not None:
            module.generation_config.max_length = None


def _crops_middle(image_processor: Any) -> bool:
    size = getattr(image_processor, "size", None) or {}
    return bool(getattr(image_processor, "do_center_crop", False)) and bool(dict(size).get("shortest_edge"))


def _processors(source: str, pinned: dict[str, Any]) -> tuple[Any, Any, Any]:
    """(image processor, tokenizer, the processor of both or None): ViT-GPT2 and its like have no joint one."""
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

    processor = AutoProcessor.from_pretrained(source, **pinned)
    if hasattr(processor, "image_processor") and hasattr(processor, "tokenizer"):
        return processor.image_processor, processor.tokenizer, processor
    return (
        AutoImageProcessor.from_pretrained(source, **pinned),
        AutoTokenizer.from_pretrained(source, **pinned),
        None,
    )
