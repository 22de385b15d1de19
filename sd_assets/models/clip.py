"""CLIP: pictures and texts as vectors, by open_clip."""

import difflib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from sd_assets.catalog import require_set
from sd_assets.errors import ModelError
from sd_assets.models.loading import (
    HubCommit,
    LazyModel,
    folder_digest,
    hub_commit,
    hub_file,
    hub_folder,
    padded_batches,
)
from sd_assets.models.preprocessing import middle_of_strip
from sd_assets.settings import ClipSettings
from sd_assets.views.text import one_line

_CONFIG = "open_clip_config.json"
# In open_clip's order. Only one is fetched: repositories often hold both, and those of transformers too.
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_TOKENIZER = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json", "*.model")
_OPEN_CLIP_PRECISION = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}


@dataclass
class _Parts:
    model: Any
    transform: Callable[[Image.Image], Any]
    tokenizer: Callable[[list[str]], Any]
    crops_middle: bool  # the transform scales the shorter side and crops the middle


class ClipEncoder(LazyModel[_Parts]):
    """A CLIP by its open_clip name and tag, `hf-hub:org/model`, or `local-dir:path`. Nothing is loaded before `load()`.

    Args:
        settings: which model, and the batch size.
        device: `auto` (cuda, mps, cpu, the first there is), or one of them, or `cuda:1`.
        precision: `auto` (half precision on cuda, float32 elsewhere), `float32`, `float16` or `bfloat16`.
    """

    def __init__(self, settings: ClipSettings, *, device: str = "auto", precision: str = "auto") -> None:
        super().__init__(device, precision)
        self.settings = settings

    @cached_property
    def identity(self) -> str:
        """Names model and weights: `ViT-L-14/openai`, `hf-hub:org/model@commit`, `local-dir:` and a digest of the files.

        Raises:
            ModelError: the folder is missing, or the Hub does not have the model.
        """
        if self._folder is not None:
            return f"local-dir:{folder_digest(self._folder)}"
        if self._hub_id is not None:
            return f"hf-hub:{self._hub_id}@{self._commit.commit}"
        return f"{self._name}/{self.settings.pretrained}"

    @property
    def name(self) -> str:
        return self._model

    @property
    def fingerprint_settings(self) -> dict[str, Any]:
        """What of the settings changes the result; a precision only if one is asked for."""
        asked = {} if self.precision_asked == "auto" else {"precision": self.precision_asked}
        return {"model": self.identity, **asked}

    @cached_property
    def dim(self) -> int:
        """The length of a vector, read from the model's configuration; torch stays out of it.

        Raises:
            ModelError: unknown name, missing folder, or not a CLIP of open_clip.
        """
        config = self._config()
        dim = config.get("embed_dim")
        if not isinstance(dim, int) or "vision_cfg" not in config or "text_cfg" not in config:
            raise ModelError(
                f"{self._where} is not a CLIP of open_clip: its configuration names no embed_dim and towers"
            )
        return dim

    def preprocess(self, image: Image.Image) -> npt.NDArray[np.float32]:
        """A picture as the model's own transform makes it. May be called from several threads.

        Args:
            image: RGB, of any size.

        Returns:
            [3, H, W] float32, normalised, of the model's input size.
        """
        parts = self._loaded()
        if parts.crops_middle:
            image = middle_of_strip(image)
        pixels: npt.NDArray[np.float32] = parts.transform(image).numpy()
        return pixels

    def encode_images(self, pixels: Sequence[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Vectors of pictures.

        Args:
            pixels: what `preprocess` gave, [3, H, W] each.

        Returns:
            [n, dim] float32, L2-normalised; where the model answers NaN, infinity or zero, the row is NaN.
        """
        import torch

        parts = self._loaded()

        def run(batch: list[npt.NDArray[np.float32]]) -> Any:
            return parts.model.encode_image(self._to_device(torch.from_numpy(np.stack(batch))))

        return self._encode(pixels, run)

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors of texts; what is longer than the model's context is cut.

        Returns:
            [n, dim] float32, L2-normalised; where the model answers NaN, infinity or zero, the row is NaN.
        """
        parts = self._loaded()

        def run(batch: list[str]) -> Any:
            return parts.model.encode_text(parts.tokenizer(batch).to(self.device))

        return self._encode(texts, run)

    def _encode(self, items: Sequence[Any], run: Callable[[list[Any]], Any]) -> npt.NDArray[np.float32]:
        import torch

        vectors = np.empty((len(items), self.dim), np.float32)
        done = 0
        with torch.inference_mode():
            for batch, count in padded_batches(items, self.settings.batch_size):
                vectors[done : done + count] = run(batch).float().cpu().numpy()[:count]
                done += count
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def _to_device(self, pixels: Any) -> Any:
        import torch

        return pixels.to(device=self.device, dtype=getattr(torch, self.precision))

    # --- what the name means -------------------------------------------------------------------------------------

    @cached_property
    def _model(self) -> str:
        return require_set(self.settings.model, "clip.model")

    @property
    def _where(self) -> str:
        return f"the CLIP {self._model!r}"

    @property
    def _folder(self) -> Path | None:
        prefix, mark, path = self._model.partition("local-dir:")
        return Path(path) if mark and not prefix else None

    @property
    def _hub_id(self) -> str | None:
        prefix, mark, name = self._model.partition("hf-hub:")
        return name if mark and not prefix else None

    @property
    def _name(self) -> str:
        return self._model.replace("/", "-")  # as open_clip does

    @cached_property
    def _commit(self) -> HubCommit:
        return hub_commit(str(self._hub_id), self.settings.revision, [_CONFIG], self._where)

    def _config(self) -> dict[str, Any]:
        """The `model_cfg` of open_clip, without importing open_clip (and so torch) for it."""
        if self._folder is not None:
            if not self._folder.is_dir():
                raise ModelError(
                    f"{self._where}: the folder does not exist: give the one that holds {_CONFIG} and weights"
                )
            path = self._folder / _CONFIG
            if not path.is_file():
                raise ModelError(f"{self._where} is not a CLIP of open_clip: the folder holds no {_CONFIG}")
        elif self._hub_id is not None:
            path = hub_file(self._commit, _CONFIG, self._where)
        else:
            path = _builtin_configs() / f"{self._name}.json"
            if not path.is_file():
                raise self._unknown_name()
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
            if path.name == _CONFIG:
                config = config["model_cfg"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{self._where} is not a CLIP of open_clip: {_CONFIG} holds no model_cfg"
            ) from error
        return config if isinstance(config, dict) else {}

    def _unknown_name(self) -> ModelError:
        names = sorted(path.stem for path in _builtin_configs().glob("*.json"))
        close = difflib.get_close_matches(self._name, names, n=5, cutoff=0.4)
        return ModelError(
            f"open_clip knows no model {self._model!r}; close to it: {', '.join(close) or 'none'}. "
            "Other models: hf-hub:org/model or local-dir:path"
        )

    def _load(self, device: str, precision: str) -> _Parts:
        _ = self.dim  # says what is wrong with the name before torch is imported
        import open_clip
        from open_clip.pretrained import get_pretrained_cfg
        from open_clip.transform import PreprocessCfg, image_transform_v2

        tag = self.settings.pretrained
        builtin = self._folder is None and self._hub_id is None
        weights = get_pretrained_cfg(self._name, tag) if builtin else {}
        if builtin and not weights:
            tags = open_clip.list_pretrained_tags_by_model(self._name)
            raise ModelError(
                f"open_clip has no weights {tag!r} for {self._model!r} (`pretrained:`); there are: "
                f"{', '.join(tags) or 'none'}"
            )
        if repository := weights.get("hf_hub"):
            # Asked only to fail at once, and clearly: open_clip's download tries for a minute.
            owner, _, file = repository.rpartition("/")
            hub_commit(
                owner,
                None,
                [file] if file else _WEIGHTS,
                f"{self._where} with weights {tag!r} (Hub: {owner})",
            )
        name = self._model if self._hub_id is None else f"local-dir:{self._fetched()}"
        try:
            model = open_clip.create_model(
                name,
                tag,
                precision=_OPEN_CLIP_PRECISION[precision],
                device=device,
                # OpenAI's weights were trained with QuickGELU, the configuration `ViT-L-14` is without; open_clip only
                # warns, and computes other vectors than those an index made with them holds.
                force_quick_gelu=bool(weights.get("quick_gelu")),
                require_pretrained=True,  # else missing weights are random ones, with a warning
            )
            tokenizer = self._foreign_tokenizer() or open_clip.get_tokenizer(name)
            preprocess = PreprocessCfg(**model.visual.preprocess_cfg)
        except Exception as error:
            raise ModelError(
                f"{self._where}{f' with weights {tag!r}' if tag else ''} cannot be loaded: {one_line(error)}. "
                + (
                    "Check its files."
                    if self._folder
                    else "Check the network and HF_ENDPOINT, or name a `local-dir:path`."
                )
            ) from error
        model.eval().requires_grad_(False)
        return _Parts(
            model=model,
            transform=image_transform_v2(preprocess, is_train=False),
            tokenizer=tokenizer,
            crops_middle=preprocess.resize_mode == "shortest",
        )

    def _fetched(self) -> Path:
        """The folder of a Hub model's files at its commit. open_clip by itself reads `main`, whatever that is by then."""
        small = [_CONFIG, *(() if self._tokenizer_elsewhere else _TOKENIZER)]
        for weights in _WEIGHTS:
            folder = hub_folder(self._commit, [*small, weights], self._where)
            if (folder / weights).is_file():
                return folder
        raise ModelError(
            f"{self._where} has no weights of open_clip: "
            + (
                f"its repository holds neither {' nor '.join(_WEIGHTS)}"
                if self._commit.online
                else "they are not in the Hub's cache on this machine, and the Hub cannot be reached"
            )
        )

    @property
    def _tokenizer_elsewhere(self) -> str | None:
        """The repository of the tokenizer, where it is another than that of the Hub model."""
        name = self._config()["text_cfg"].get("hf_tokenizer_name") if self._hub_id is not None else None
        return name if name != self._hub_id else None

    def _foreign_tokenizer(self) -> Any:
        """As `open_clip.get_tokenizer` makes it for a Hub model."""
        if not self._tokenizer_elsewhere:
            return None
        from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer

        text = self._config()["text_cfg"]
        return HFTokenizer(
            self._tokenizer_elsewhere,
            context_length=text.get("context_length", DEFAULT_CONTEXT_LENGTH),
            tokenizer_mode=text.get("tokenizer_mode"),
            local_files_only=not self._commit.online,
            **text.get("tokenizer_kwargs", {}),
        )


def _builtin_configs() -> Path:
    """The folder of open_clip's model configurations; finding a package does not import it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("open_clip is not installed: pip install open_clip_torch")
    return Path(spec.submodule_search_locations[0]) / "model_configs"
