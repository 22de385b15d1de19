"""CLIP: pictures and texts as vectors, by open_clip or transformers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sd_assets.errors import ErrorCode, RowError
from sd_assets.models import open_clip_model, transformers_clip
from sd_assets.models.clip_model import ClipModel
from sd_assets.models.clip_source import ClipSource
from sd_assets.models.devices import pick_batch_size
from sd_assets.models.loading import LazyModel
from sd_assets.models.running import Batches
from sd_assets.settings import ClipSettings
from sd_assets.views.text import one_line

# Items a batch: more only leave a CPU's caches, and a GPU is busy with these.
_ON_CPU = 16
_ON_80_GIB = 128


@dataclass
class _Parts:
    clip: ClipModel
    images: Batches
    texts: Batches


class ClipEncoder(LazyModel[_Parts]):
    """A CLIP by its open_clip name and tag, its repository on the Hub, or its folder. Nothing is loaded before `load()`.

    Args:
        settings: which model, and the batch size.
        device: `auto` (cuda, mps, cpu, the first there is), or one of them, or `cuda:1`.
        precision: `auto` (half precision where the device is faster in it), `float32`, `float16` or `bfloat16`.
    """

    LANES_PER_GPU = 2

    def __init__(self, settings: ClipSettings, *, device: str = "auto", precision: str = "auto") -> None:
        super().__init__(device, precision)
        self.settings = settings
        self._source = ClipSource(settings)

    @cached_property
    def identity(self) -> str:
        """Names model and weights: `ViT-L-14/openai`, `hf-hub:org/model@commit`, `local-dir:` and a digest of the files.

        Raises:
            ModelError: the folder is missing, or the Hub does not have the model.
        """
        return self._source.identity

    @property
    def batch_size(self) -> int:
        """Images or texts a batch; known once the model is loaded, where the device decides."""
        sizes = [parts.images.size for parts in self._devices.values()]
        return min(sizes) if sizes else self.settings.batch_size or _ON_CPU

    @property
    def name(self) -> str:
        return self._source.model

    @property
    def fingerprint_settings(self) -> dict[str, Any]:
        """What of the settings changes the result; a precision only if one is asked for."""
        return {"model": self.identity, **self._precision_asked}

    @cached_property
    def dim(self) -> int:
        """The length of a vector, read from the model's configuration; torch stays out of it.

        Raises:
            ModelError: unknown name, missing folder, or no CLIP.
        """
        length: int = self._library.dim(self._source)
        return length

    def preprocess(self, image: Image.Image) -> npt.NDArray[Any]:
        """A picture as `encode_images` takes it. May be called from several threads.

        Args:
            image: RGB, of any size.

        Returns:
            what the model sees, before it is normalised: uint8 [H, W, 3], resized and cropped as the model's library does it. Of
            the few models whose own code does something else: float32 [3, H, W], normalised.
        """
        return np.asarray(self._loaded().clip.preprocessing.of_image(image))

    def pixels(self, data: bytes) -> npt.NDArray[Any]:
        """The same as `preprocess(decode_rgb(data))`, but for what cannot be seen, and several times as quick for a JPEG.

        Args:
            data: an image as it is encoded.

        Raises:
            RowError: as `sd_assets.images.decode_rgb`; or the model's own preprocessing fails at it.
        """
        preprocessing = self._loaded().clip.preprocessing
        try:
            return np.asarray(preprocessing.of_bytes(data))
        except RowError:
            raise
        except Exception as error:
            raise RowError(ErrorCode.MODEL_FAILED, f"the model's preprocessing: {one_line(error)}") from error

    def encode_images(
        self, pixels: Sequence[npt.NDArray[Any]], failed: dict[int, RowError] | None = None
    ) -> npt.NDArray[np.float32]:
        """Vectors of pictures.

        Args:
            pixels: what `preprocess` or `pixels` gave.
            failed: gets the places of those at which the model fails, and why.

        Returns:
            [n, dim] float32, L2-normalised; where the model answers NaN, infinity or zero, or fails at it, the row is NaN.
        """
        return self._encode(
            pixels, lambda parts: parts.images, lambda clip, batch: clip.encode_images(batch), failed
        )

    def encode_texts(
        self, texts: Sequence[str], failed: dict[int, RowError] | None = None
    ) -> npt.NDArray[np.float32]:
        """Vectors of texts; what is longer than the model's context is cut.

        Args:
            texts: any.
            failed: gets the places of those at which the model fails, and why.

        Returns:
            [n, dim] float32, L2-normalised; where the model answers NaN, infinity or zero, or fails at it, the row is NaN.
        """
        return self._encode(
            texts, lambda parts: parts.texts, lambda clip, batch: clip.encode_texts(batch), failed
        )

    def _encode(
        self,
        items: Sequence[Any],
        batches: Callable[[_Parts], Batches],
        run: Callable[[ClipModel, list[Any]], Any],
        failed: dict[int, RowError] | None,
    ) -> npt.NDArray[np.float32]:
        import torch

        with self._lane() as lane, torch.inference_mode():
            rows = batches(lane.parts).run(
                items, lambda batch: run(lane.parts.clip, batch).float().cpu().numpy()
            )
        if failed is not None:
            failed.update({place: row for place, row in enumerate(rows) if isinstance(row, RowError)})
        nothing = np.full(self.dim, np.nan, np.float32)
        vectors = np.array([nothing if isinstance(row, RowError) else row for row in rows], np.float32)
        return _of_unit_length(vectors.reshape(len(items), self.dim))

    @property
    def _library(self) -> ModuleType:
        """What reads the model's files: a module with `dim` and `load`."""
        return transformers_clip if self._source.of_transformers else open_clip_model

    def _load(self, device: str, precision: str) -> _Parts:
        _ = self.dim  # says what is wrong with the name before torch is imported
        clip = self._library.load(self._source, device, precision)
        size = self.settings.batch_size or pick_batch_size(device, on_cpu=_ON_CPU, on_80_gib=_ON_80_GIB)
        return _Parts(clip, Batches(size, device), Batches(size, device))


def _of_unit_length(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Of what is no number, or nothing, NaN."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)
