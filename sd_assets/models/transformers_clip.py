"""CLIPs that transformers reads: CLIP, SigLIP and their kin, repositories and folders with a `config.json` of theirs.

Weights come as safetensors only, and no code of a model's repository is run.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sd_assets.errors import ModelError
from sd_assets.images import Pixels, decode_rgb, read_picture
from sd_assets.models.clip_model import ClipModel
from sd_assets.models.clip_source import TOKENIZER, TRANSFORMERS_CONFIG, ClipSource, read_json
from sd_assets.models.devices import on_device
from sd_assets.models.hub import hub_folder
from sd_assets.models.preprocessing import (
    OfLibrary,
    Preprocessing,
    Recipe,
    Size,
    normalised,
    resized,
    resized_picture,
    shorter_side,
)
from sd_assets.views.text import one_line

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors")
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# What configurations leave out where it is the family's own: the length of a vector.
_DIMS = {"clip": 512, "chinese_clip": 512, "metaclip_2": 512, "clipseg": 512, "altclip": 768, "align": 640}
_OF_TOWER = {"siglip": 768, "siglip2": 768}  # as wide as the vision tower
_ONE_TOWER = ("VisionModel", "TextModel")
# Trained with texts of the full length, the padding included.
_PADDED = frozenset({"siglip", "siglip2"})
# Texts of models with so many tokens or fewer are all padded to that, so that a text's vector does not depend on its company.
_SHORT = 128
_ROBERTA = frozenset({"altclip"})  # whose first positions stand for the padding
# How near a recipe of ours must come to what the library makes of a picture.
_AGREES = 0.9995


class TransformersClip(ClipModel):
    """A CLIP of transformers on its device."""

    def __init__(
        self,
        model: Any,
        preprocessing: Preprocessing,
        tokenize: Callable[[list[str]], Mapping[str, Any]],
        device: str,
    ) -> None:
        super().__init__(preprocessing)
        self._model = model
        self._tokenize = tokenize
        self._tokenizing = Lock()  # a tokenizer is set anew at each call
        self._device = device

    def encode_images(self, pixels: Sequence[Any]) -> Any:
        made = self.preprocessing.batch(pixels, self._device)
        named = made if isinstance(made, dict) else {"pixel_values": made}
        named["pixel_values"] = named["pixel_values"].to(self._model.dtype)
        return _features(self._model.get_image_features(**named))

    def encode_texts(self, texts: Sequence[str]) -> Any:
        with self._tokenizing:
            tokens = self._tokenize(list(texts))
        on = {name: tensor.to(self._device) for name, tensor in tokens.items()}
        return _features(self._model.get_text_features(**on))


def dim(source: ClipSource) -> int:
    """The length of a vector, by the configuration; transformers (and torch) stay out of it.

    Raises:
        ModelError: it is no CLIP.
    """
    config = read_json(source.config_file)
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise ModelError(f"{source.where} is no CLIP: its {TRANSFORMERS_CONFIG} names no model_type")
    saved = config.get("architectures") or []
    length = config.get("projection_dim", _DIMS.get(kind))
    if kind in _OF_TOWER:
        length = (config.get("vision_config") or {}).get("hidden_size", _OF_TOWER[kind])
    # A model for captions or classes, or one tower of two, has no common space of pictures and texts.
    whole = not saved or any(name.endswith("Model") and not name.endswith(_ONE_TOWER) for name in saved)
    if not isinstance(length, int) or not whole:
        raise ModelError(
            f"{source.where} is no CLIP: its {TRANSFORMERS_CONFIG} is of a {kind!r}"
            + (f", saved as {', '.join(map(str, saved))}" if saved else "")
            + "; give a model with a picture and a text tower, as openai/clip-vit-large-patch14 or "
            "google/siglip-base-patch16-224 is"
        )
    return length


def load(source: ClipSource, device: str, precision: str) -> TransformersClip:
    """The model with its weights, on the device.

    Raises:
        ModelError: what is wrong with the model and what to do.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # in the log of a run it is noise
    folder = str(_folder(source))
    kept: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        model, report = AutoModel.from_pretrained(
            folder, dtype=getattr(torch, precision), use_safetensors=True, output_loading_info=True, **kept
        )
        image_processor = AutoImageProcessor.from_pretrained(folder, **kept)
        preprocessing = preprocessing_of(image_processor)
        tokenizer = AutoTokenizer.from_pretrained(folder, **kept)
    except Exception as error:
        raise ModelError(
            f"{source.where} cannot be loaded by transformers: {one_line(error)}. {source.advice()}"
        ) from error
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise ModelError(
            f"{source.where} is no CLIP: a {type(model).__name__} has no common space of pictures and texts"
        )
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{source.where} is incomplete: its weights lack {len(missing)} parameters of {type(model).__name__}, "
            f"{missing[0]!r} for one"
        )
    model.to(device).eval().requires_grad_(False)
    return TransformersClip(model, preprocessing, _tokenizing(tokenizer, model.config), device)


def _folder(source: ClipSource) -> Path:
    """The folder of the model's files; of a Hub model at its commit."""
    if source.folder is not None:
        folder = source.folder
    else:
        patterns = [TRANSFORMERS_CONFIG, *_PROCESSORS, *TOKENIZER, *_WEIGHTS]
        folder = hub_folder(source.commit, patterns, source.where)
    if not any((folder / name).is_file() for name in _WEIGHTS[:2]):
        raise ModelError(
            f"{source.where} has no weights of transformers as safetensors: "
            + (
                f"there is no {_WEIGHTS[0]}. Others may run code when they are read: convert them "
                "(`model.save_pretrained(folder)`), and name that folder"
                if source.folder is not None or source.commit.online
                else "they are not in the Hub's cache on this machine, and the Hub cannot be reached"
            )
        )
    return folder


def _features(answer: Any) -> Any:
    """The vectors of an answer, which is an output with several fields since transformers 5."""
    return getattr(answer, "pooler_output", answer)


# --- texts ---------------------------------------------------------------------------------------------------------------


def _tokenizing(tokenizer: Any, config: Any) -> Callable[[list[str]], Mapping[str, Any]]:
    """Texts as tensors, cut to the model's length with their end token kept, and padded as it was trained."""
    kind = config.model_type
    positions = config.text_config.max_position_embeddings
    if kind in _ROBERTA:
        positions -= (config.text_config.pad_token_id or 0) + 1
    length = min(positions, tokenizer.model_max_length)
    padding: dict[str, Any] = {"padding": "max_length"}
    if kind not in _PADDED and length > _SHORT:
        padding = {"padding": "longest", "pad_to_multiple_of": 16}

    def tokenize(texts: list[str]) -> Mapping[str, Any]:
        tokens: Mapping[str, Any] = tokenizer(
            texts, truncation=True, max_length=length, return_tensors="pt", **padding
        )
        return tokens

    return tokenize


# --- pictures ------------------------------------------------------------------------------------------------------------


def preprocessing_of(image_processor: Any) -> Preprocessing:
    """What an image processor does, as a recipe of ours if there is one that agrees with it; else itself."""
    declared = image_processor.to_dict()
    if declared.get("max_num_patches"):
        return Patches(
            declared["patch_size"], declared["max_num_patches"], _filter(declared), *_levels(declared)
        )

    def of_library(image: Image.Image) -> npt.NDArray[np.float32]:
        made = image_processor(images=image, return_tensors="pt")["pixel_values"][0].numpy()
        return np.asarray(made, np.float32)

    return next(
        (recipe for recipe in _recipes(declared) if _agree(recipe, of_library)), OfLibrary(of_library)
    )


def _recipes(declared: Mapping[str, Any]) -> Iterator[Recipe]:
    """Recipes that an image processor's fields may mean."""
    size, crop = (
        {name: side for name, side in (declared.get(field) or {}).items() if side}
        for field in ("size", "crop_size")
    )
    scaled: Callable[[int, int], Size]
    if set(size) == {"shortest_edge"}:
        scaled, shown = shorter_side(size["shortest_edge"]), None
    elif set(size) == {"height", "width"}:
        shown = (size["height"], size["width"])
        scaled = _always(shown)
    else:
        return
    if declared.get("do_center_crop"):
        shown = (crop["height"], crop["width"])
    if shown is None or not declared.get("do_resize"):
        return
    for offset in (int, round):  # as its version of transformers rounds where it cuts
        yield Recipe(shown, scaled, *_levels(declared), filter=_filter(declared), offset=offset)


def _always(size: Size) -> Callable[[int, int], Size]:
    return lambda height, width: size


def _filter(declared: Mapping[str, Any]) -> str:
    return Image.Resampling(declared.get("resample", Image.Resampling.BICUBIC)).name.lower()


def _levels(declared: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and spread, in levels of 0 to 255."""
    factor = declared.get("rescale_factor", 1 / 255) if declared.get("do_rescale") else 1.0
    mean, std = [0.0] * 3, [1.0] * 3
    if declared.get("do_normalize"):
        mean, std = declared["image_mean"], declared["image_std"]
    return tuple(value / factor for value in mean), tuple(value / factor for value in std)


def _agree(recipe: Recipe, of_library: Callable[[Image.Image], npt.NDArray[np.float32]]) -> bool:
    """Whether the two make the same of some pictures: one that is scaled, and some where it shows to the pixel what is cut."""
    rng = np.random.default_rng(0)
    height, width = recipe.size
    sizes = [(width * 2 + 31, height * 3), *((width + more, height) for more in range(1, 5))]
    for size in sizes:
        image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        ours, theirs = recipe.batch([recipe.of_image(image)], "cpu")[0].numpy(), of_library(image)
        if ours.shape != theirs.shape:
            return False
        product = (ours * theirs).sum() / math.sqrt((ours**2).sum() * (theirs**2).sum())
        if not product >= _AGREES:
            return False
    return True


@dataclass(frozen=True)
class Patches(Preprocessing):
    """A picture in its own proportions as patches, as SigLIP 2's NaFlex models take it.

    Attributes:
        side: of a patch, in pixels.
        most: patches of a picture; fewer are filled up with zeros and masked.
        filter: how to resize, a name of `Image.Resampling` in small letters.
        mean: of all channels, in levels of 0 to 255.
        std: likewise.
    """

    side: int
    most: int
    filter: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of_image(self, image: Image.Image) -> Pixels:
        """[height, width, 3] uint8, whole patches of them."""
        return resized(image, self._scaled(image.height, image.width), self.filter)

    def of_bytes(self, data: bytes) -> Pixels:
        """The same of an image as it is encoded.

        Raises:
            RowError: as `sd_assets.images.decode_rgb`.
        """
        quickly = resized_picture(read_picture(data), self._scaled, self.filter)
        return self.of_image(decode_rgb(data)) if quickly is None else quickly

    def batch(self, pixels: Sequence[Pixels], device: str) -> dict[str, Any]:
        """`pixel_values` [n, most, side * side * 3] float32, `pixel_attention_mask` [n, most], `spatial_shapes` [n, 2]."""
        patches = np.zeros((len(pixels), self.most, self.side, self.side, 3), np.uint8)
        mask = np.zeros((len(pixels), self.most), np.int64)
        shapes = np.array([(one.shape[0] // self.side, one.shape[1] // self.side) for one in pixels])
        for place, (one, (high, wide)) in enumerate(zip(pixels, shapes, strict=True)):
            cut = one.reshape(high, self.side, wide, self.side, 3).swapaxes(1, 2)
            patches[place, : high * wide] = cut.reshape(-1, self.side, self.side, 3)
            mask[place, : high * wide] = 1
        masked = on_device(mask, device)
        levels = normalised(on_device(patches, device), self.mean, self.std)
        return {
            "pixel_values": levels.flatten(2) * masked[..., None],
            "pixel_attention_mask": masked,
            "spatial_shapes": on_device(shapes, device),
        }

    def _scaled(self, height: int, width: int) -> Size:
        from transformers.models.siglip2.image_processing_siglip2 import get_image_size_for_max_num_patches

        scaled: Size = get_image_size_for_max_num_patches(height, width, self.side, self.most)
        return scaled
