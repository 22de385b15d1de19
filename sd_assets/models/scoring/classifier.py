"""Image classifiers of transformers, of which one label is asked for."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from sd_assets.catalog import require_set
from sd_assets.errors import ErrorCode, ModelError, RowError
from sd_assets.models.devices import pick_batch_size
from sd_assets.models.hub import HubCommit, folder_digest, hub_commit, hub_folder, is_folder
from sd_assets.models.loading import LazyModel
from sd_assets.models.preprocessing import Preprocessing
from sd_assets.models.running import Batches
from sd_assets.settings import ScoreModelSettings
from sd_assets.views.text import one_line

_CONFIG = "config.json"
_FILES = (
    _CONFIG,
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
)
# Images a batch.
_ON_CPU = 16
_ON_80_GIB = 128


@dataclass
class _Parts:
    model: Any
    preprocessing: Preprocessing
    batches: Batches


class ImageClassifier(LazyModel[_Parts]):
    """A classifier by its Hub id or folder. Nothing is loaded before `load()`.

    Weights come as safetensors only, and no code of a model's repository is run.

    Args:
        settings: which, and which of its labels.
        score: the name of the field of `scores:`, for messages.
        device: `auto` (cuda, mps, cpu, the first there is), or one of them, or `cuda:1`.
        precision: `auto` (half precision where the device is faster in it), `float32`, `float16` or `bfloat16`.
    """

    LANES_PER_GPU = 2

    def __init__(
        self, settings: ScoreModelSettings, score: str, *, device: str = "auto", precision: str = "auto"
    ) -> None:
        super().__init__(device, precision)
        self.settings = settings
        self._score = score

    @cached_property
    def name(self) -> str:
        return require_set(str(self.settings.model), f"scores.{self._score}.model")

    @property
    def _where(self) -> str:
        return f"the classifier {self.name!r} (scores.{self._score})"

    @cached_property
    def identity(self) -> str:
        """Names the model: `org/model@commit`, or `local-dir:` and a digest of the folder's files.

        Raises:
            ModelError: the folder is missing, or the Hub does not have the model.
        """
        if self._folder is not None:
            return f"local-dir:{folder_digest(self._folder)}"
        return f"{self.name}@{self._commit.commit}"

    @property
    def fingerprint_settings(self) -> dict[str, Any]:
        """What of the settings changes the scores; a precision only if one is asked for."""
        return {"model": self.identity, "label": self.settings.label, **self._precision_asked}

    @property
    def batch_size(self) -> int:
        """Images a batch; known once the model is loaded, where the device decides."""
        sizes = [parts.batches.size for parts in self._devices.values()]
        return min(sizes) if sizes else self.settings.batch_size or _ON_CPU

    def pixels(self, data: bytes) -> npt.NDArray[Any]:
        """What `score` takes of an image as it is encoded. May be called from several threads.

        Raises:
            RowError: as `sd_assets.images.decode_rgb`; or the model's own preprocessing fails at it.
        """
        preprocessing = self._loaded().preprocessing
        try:
            return np.asarray(preprocessing.of_bytes(data))
        except RowError:
            raise
        except Exception as error:
            raise RowError(ErrorCode.MODEL_FAILED, f"the model's preprocessing: {one_line(error)}") from error

    def score(self, pixels: Sequence[npt.NDArray[Any]]) -> list[float | RowError]:
        """The probability of the label for each picture; without a label the one number that the model answers.

        Args:
            pixels: what `pixels` gave.
        """
        import torch

        with self._lane() as lane, torch.inference_mode():
            return lane.parts.batches.run(pixels, lambda some: self._answers(lane.parts, some, lane.device))

    def _answers(self, parts: _Parts, pixels: Sequence[npt.NDArray[Any]], device: str) -> list[float]:
        made = parts.preprocessing.batch(pixels, device)
        named = made if isinstance(made, dict) else {"pixel_values": made}
        named["pixel_values"] = named["pixel_values"].to(parts.model.dtype)
        logits = parts.model(**named).logits.float()
        config = parts.model.config
        label = self._label(config)
        if label is None:
            answers = logits[:, 0]
        elif config.problem_type == "multi_label_classification" or logits.shape[1] == 1:
            # Of one label alone the softmax is 1, whatever the model sees.
            answers = logits[:, label].sigmoid()
        else:
            answers = logits.softmax(dim=1)[:, label]
        listed: list[float] = answers.cpu().tolist()
        return listed

    def _label(self, config: Any) -> int | None:
        """The place of the label; None: the model answers one number, and none is asked for.

        Raises:
            ModelError: it has no such label; or several, and none is asked for.
        """
        asked, known = self.settings.label, {int(place): str(name) for place, name in config.id2label.items()}
        if asked is None and len(known) == 1:
            return None
        for place, name in known.items():
            if asked is not None and name.lower() == asked.lower():
                return place
        what = f"has no label {asked!r}" if asked is not None else "has several labels"
        raise ModelError(f"{self._where} {what}: set `label:` to one of {', '.join(known.values())}")

    @cached_property
    def _folder(self) -> Path | None:
        return Path(self.name).expanduser() if is_folder(self.name) else None

    @cached_property
    def _commit(self) -> HubCommit:
        return hub_commit(self.name, self.settings.revision, [_CONFIG], self._where)

    def _load(self, device: str, precision: str) -> _Parts:
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification
        from transformers.utils import logging

        from sd_assets.models.transformers_clip import preprocessing_of

        logging.disable_progress_bar()  # in the log of a run it is noise
        folder = self._folder or hub_folder(self._commit, _FILES, self._where)
        kept: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        try:
            model, report = AutoModelForImageClassification.from_pretrained(
                str(folder),
                dtype=getattr(torch, precision),
                use_safetensors=True,
                output_loading_info=True,
                **kept,
            )
            preprocessing = preprocessing_of(AutoImageProcessor.from_pretrained(str(folder), **kept))
        except Exception as error:
            raise ModelError(
                f"{self._where} cannot be loaded by transformers: {one_line(error)}. It must be an image classifier with weights as "
                "safetensors and a preprocessor_config.json"
            ) from error
        if missing := sorted(report["missing_keys"]):
            raise ModelError(
                f"{self._where} is incomplete: its weights lack {len(missing)} parameters of {type(model).__name__}, "
                f"{missing[0]!r} for one: it was not trained as a classifier"
            )
        self._label(model.config)  # says so before the first image
        size = self.settings.batch_size or pick_batch_size(device, on_cpu=_ON_CPU, on_80_gib=_ON_80_GIB)
        return _Parts(model.to(device).eval().requires_grad_(False), preprocessing, Batches(size, device))
