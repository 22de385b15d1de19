"""CLIPs that open_clip reads: its own names and tags, and folders and repositories with an `open_clip_config.json`."""

import difflib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from sd_assets.errors import ModelError
from sd_assets.models.clip_model import ClipModel
from sd_assets.models.clip_source import OPEN_CLIP_CONFIG, TOKENIZER, ClipSource, read_json
from sd_assets.models.hub import hub_commit, hub_folder
from sd_assets.models.preprocessing import Recipe, Size, shorter_side
from sd_assets.views.text import one_line

# In open_clip's order. Only one is fetched: repositories often hold both, and those of transformers too.
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_PRECISION = {"float32": "fp32", "float16": "pure_fp16", "bfloat16": "pure_bf16"}


class OpenClipModel(ClipModel):
    """A CLIP of open_clip on its device."""

    def __init__(self, model: Any, tokenizer: Any, device: str, precision: str) -> None:
        super().__init__(_recipe(model.visual.preprocess_cfg))
        self._model = model
        self._tokenizer = tokenizer
        self._tokenizing = Lock()  # those of Hugging Face are set anew at each call
        self._device = device
        self._precision = precision

    def encode_images(self, pixels: Sequence[Any]) -> Any:
        import torch

        batch = self.preprocessing.batch(pixels, self._device)
        return self._model.encode_image(batch.to(getattr(torch, self._precision)))

    def encode_texts(self, texts: Sequence[str]) -> Any:
        with self._tokenizing:
            tokens = self._tokenizer(list(texts))
        return self._model.encode_text(tokens.to(self._device))


def dim(source: ClipSource) -> int:
    """The length of a vector, by the configuration.

    Raises:
        ModelError: unknown name, missing folder, or not a CLIP of open_clip.
    """
    config = _config(source)
    length = config.get("embed_dim")
    if not isinstance(length, int) or "vision_cfg" not in config or "text_cfg" not in config:
        raise ModelError(
            f"{source.where} is not a CLIP of open_clip: its configuration names no embed_dim and towers"
        )
    return length


def load(source: ClipSource, device: str, precision: str) -> OpenClipModel:
    """The model with its weights, on the device.

    Raises:
        ModelError: what is wrong with the model and what to do.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    tag = source.settings.pretrained
    weights = get_pretrained_cfg(source.builtin, tag) if source.builtin else {}
    if source.builtin and not weights:
        tags = open_clip.list_pretrained_tags_by_model(source.builtin)
        raise ModelError(
            f"open_clip has no weights {tag!r} for {source.model!r} (`pretrained:`); there are: "
            f"{', '.join(tags) or 'none'}"
        )
    if repository := weights.get("hf_hub"):
        # Asked only to fail at once, and clearly: open_clip's download tries for a minute.
        owner, _, file = repository.rpartition("/")
        where = f"{source.where} with weights {tag!r} (Hub: {owner})"
        hub_commit(owner, None, [file] if file else _WEIGHTS, where)
    name = source.model if source.hub_id is None else f"local-dir:{_fetched(source)}"
    if source.folder is not None:
        name = f"local-dir:{source.folder}"
    try:
        model = open_clip.create_model(
            name,
            tag,
            precision=_PRECISION[precision],
            device=device,
            # OpenAI's weights were trained with QuickGELU, the configuration `ViT-L-14` is without; open_clip only
            # warns, and computes other vectors than those an index made with them holds.
            force_quick_gelu=bool(weights.get("quick_gelu")),
            require_pretrained=True,  # else missing weights are random ones, with a warning
        )
        tokenizer = _foreign_tokenizer(source) or open_clip.get_tokenizer(name)
        model.eval().requires_grad_(False)
        return OpenClipModel(model, tokenizer, device, precision)
    except Exception as error:
        raise ModelError(
            f"{source.where}{f' with weights {tag!r}' if tag else ''} cannot be loaded: {one_line(error)}. "
            + source.advice()
        ) from error


def _recipe(declared: dict[str, Any]) -> Recipe:
    """What `open_clip.transform.image_transform_v2` does."""
    from open_clip.transform import PreprocessCfg

    config = PreprocessCfg(**declared)
    size = (config.size, config.size) if isinstance(config.size, int) else tuple(config.size)
    mean, std = (
        tuple(255.0 * value for value in (values if isinstance(values, Sequence) else [values] * 3))
        for values in (config.mean, config.std)
    )
    filter = "bilinear" if config.interpolation == "bilinear" else "bicubic"
    square = size[0] == size[1]

    def inside(height: int, width: int) -> Size:
        # As open_clip does, half a pixel too many or few included.
        ratios = height / size[0], width / size[1]
        ratio = max(ratios) if config.resize_mode == "longest" else min(ratios)
        return max(1, round(height / ratio)), max(1, round(width / ratio))

    def whole(height: int, width: int) -> Size:
        return size

    if config.resize_mode == "squash":
        return Recipe(size, whole, mean, std, filter)
    if config.resize_mode == "longest":
        return Recipe(size, inside, mean, std, filter, fill=config.fill_color)
    if square:
        return Recipe(size, shorter_side(size[0]), mean, std, filter)
    return Recipe(size, inside, mean, std)  # of sides that differ open_clip forgets the filter


# --- files ---------------------------------------------------------------------------------------------------------------


def _config(source: ClipSource) -> dict[str, Any]:
    """The `model_cfg` of open_clip, without importing open_clip (and so torch) for it."""
    if source.builtin is not None:
        path = _builtin_configs() / f"{source.builtin}.json"
        if not path.is_file():
            raise _unknown_name(source)
        config = read_json(path)
    else:
        config = read_json(source.config_file)
        config = config.get("model_cfg") if isinstance(config, dict) else None
        if config is None:
            raise ModelError(
                f"{source.where} is not a CLIP of open_clip: {OPEN_CLIP_CONFIG} holds no model_cfg"
            )
    return config if isinstance(config, dict) else {}


def _unknown_name(source: ClipSource) -> ModelError:
    names = sorted(path.stem for path in _builtin_configs().glob("*.json"))
    close = difflib.get_close_matches(str(source.builtin), names, n=5, cutoff=0.4)
    return ModelError(
        f"open_clip knows no model {source.model!r}; close to it: {', '.join(close) or 'none'}. "
        "Other models: org/model of the Hub, or local-dir:path"
    )


def _builtin_configs() -> Path:
    """The folder of open_clip's model configurations; finding a package does not import it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise ModelError("open_clip is not installed: pip install open_clip_torch")
    return Path(spec.submodule_search_locations[0]) / "model_configs"


def _fetched(source: ClipSource) -> Path:
    """The folder of a Hub model's files at its commit. open_clip by itself reads `main`, whatever that is by then."""
    small = [OPEN_CLIP_CONFIG, *(() if _tokenizer_elsewhere(source) else TOKENIZER)]
    for weights in _WEIGHTS:
        folder = hub_folder(source.commit, [*small, weights], source.where)
        if (folder / weights).is_file():
            return folder
    raise ModelError(
        f"{source.where} has no weights of open_clip: "
        + (
            f"its repository holds neither {' nor '.join(_WEIGHTS)}"
            if source.commit.online
            else "they are not in the Hub's cache on this machine, and the Hub cannot be reached"
        )
    )


def _tokenizer_elsewhere(source: ClipSource) -> str | None:
    """The repository of the tokenizer, where it is another than that of the Hub model."""
    name = _config(source)["text_cfg"].get("hf_tokenizer_name") if source.hub_id is not None else None
    return name if name != source.hub_id else None


def _foreign_tokenizer(source: ClipSource) -> Any:
    """As `open_clip.get_tokenizer` makes it for a Hub model."""
    repository = _tokenizer_elsewhere(source)
    if not repository:
        return None
    from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer

    text = _config(source)["text_cfg"]
    return HFTokenizer(
        repository,
        context_length=text.get("context_length", DEFAULT_CONTEXT_LENGTH),
        tokenizer_mode=text.get("tokenizer_mode"),
        local_files_only=not source.commit.online,
        **text.get("tokenizer_kwargs", {}),
    )
