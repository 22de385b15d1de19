"""Captions of pictures, by any image-to-text model of transformers."""

import contextlib
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from sd_assets.catalog import require_set
from sd_assets.errors import ErrorCode, ModelError, RowError
from sd_assets.models.caption_model import CaptionModel
from sd_assets.models.cleaning import cleaner_of
from sd_assets.models.devices import pick_batch_size
from sd_assets.models.hub import HubCommit, NoSuchFileError, folder_digest, hub_commit, hub_file, is_folder
from sd_assets.models.loading import Lane, LazyModel
from sd_assets.models.running import Batches
from sd_assets.settings import CaptionerSettings, NumberedCaption
from sd_assets.views.text import one_line

if TYPE_CHECKING:  # torch, which costs seconds
    from sd_assets.models.captioning.families import Family

# An encoder gains nothing from large batches once they fill the device, and on a CPU loses its caches by them.
_ENCODED = {"on_cpu": 4, "on_80_gib": 64}
_DECODED_ON_CPU = 32


@dataclass(eq=False)
class Picture:
    """What a captioner knows of a picture; several variants share it.

    Attributes:
        inputs: what the model's own image processor made of it, as arrays.
        digest: of its pixels.
        encoded: what the image encoder made of it, on the device; None before, and where nobody asks again.
        beams: by kind of variant, what a beam search found.
    """

    inputs: Any
    digest: bytes = b""
    encoded: Any = None
    beams: dict[str, list[str] | RowError] = field(default_factory=dict)


@dataclass
class _Parts:
    """A model on a device.

    Attributes:
        encoding: batches of its image encoder.
        decoding: batches of its decoder, by the number of beams.
    """

    family: "Family"
    encoding: Batches
    decoding: dict[int, Batches]


class Captioner(LazyModel[_Parts], CaptionModel):
    """An image-to-text model by its Hub id or folder: BLIP, Florence-2, GIT, chat models and their like.

    Nothing is loaded before `load()`. Weights come as safetensors only, and code of a model's repository is run only where
    `trust_remote_code` says so.

    Pictures are encoded in small batches and captioned in large ones, which finished captions leave. On one machine's CPU, in
    float32, a picture has the same caption in every batch. On a GPU, in half precision, or where a lack of memory has made
    batches smaller, the model's numbers differ in their last bits, which may turn a word where two are about equally likely.

    Args:
        settings: which model, what captions, the batch size.
        device: `auto` (cuda, mps, cpu, the first there is), or one of them, or `cuda:1`.
        precision: `auto` (half precision where the device is faster in it), `float32`, `float16` or `bfloat16`.
    """

    def __init__(self, settings: CaptionerSettings, *, device: str = "auto", precision: str = "auto") -> None:
        super().__init__(device, precision)
        self.settings = settings
        self._clean = cleaner_of(settings)
        self._variants = settings.numbered

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
        """Pictures a batch of the decoder; known once the model is loaded, where the device decides."""
        sizes = [batches.size for parts in self._devices.values() for batches in parts.decoding.values()]
        return max(sizes) if sizes else self.settings.batch_size or _DECODED_ON_CPU

    @property
    def name(self) -> str:
        return self._model

    @cached_property
    def variants(self) -> dict[str, dict[str, Any]]:
        """The captions of a picture by name, in order, each with what of the settings changes it."""
        return {name: _effects(variant) for name, variant in self._variants.items()}

    @property
    def fingerprint_settings(self) -> dict[str, Any]:
        """What of the settings changes the captions of every variant; a precision only if one is asked for."""
        return {
            "model": self.identity,
            **self._precision_asked,
            "own_code": self.settings.trust_remote_code,
            "artefacts": self._clean.artefacts if self._clean else None,
        }

    @cached_property
    def _prompts(self) -> list[str | None]:
        return list(dict.fromkeys(variant.settings.prompt for variant in self._variants.values()))

    # --- captions ------------------------------------------------------------------------------------------------

    def preprocess(self, image: Image.Image) -> Picture:
        """A picture as the model's own image processor makes it. May be called from several threads.

        Args:
            image: RGB, of any size.

        Returns:
            to be given to `caption`, once for each variant.

        Raises:
            RowError: the model's image processor fails at it.
        """
        family = self._loaded().family
        samples = any(variant.settings.samples for variant in self._variants.values())
        try:
            inputs = family.preprocess(image, self._prompts)
        except Exception as error:
            raise RowError(
                ErrorCode.MODEL_FAILED, f"the model's image processor: {one_line(error)}"
            ) from error
        return Picture(inputs, _digest(image) if samples else b"")

    def caption(self, inputs: Sequence[Picture], variant: str) -> list[str | RowError]:
        """Captions of pictures, each as if it were alone, as far as the class says.

        Args:
            inputs: what `preprocess` gave.
            variant: a name of `variants`.

        Returns:
            for each picture a text of at most `max_new_tokens` tokens, without the prompt, perhaps empty; or a RowError where
            the model answers NaN (`not_finite`) or fails at this picture alone (`model_failed`).

        Raises:
            ModelError: the model fails at all of them.
        """
        import torch

        asked = self._variants[variant]
        searched = asked.settings.num_beams > 1
        if searched and all(asked.kind in picture.beams for picture in inputs):
            found: Sequence[list[str] | RowError] = [picture.beams[asked.kind] for picture in inputs]
        else:
            with self._lane() as lane, torch.inference_mode():
                found = self._decode(lane, inputs, self._encode(lane, inputs), asked)
            if searched and asked.settings.count > 1:
                for picture, captions in zip(inputs, found, strict=True):
                    picture.beams[asked.kind] = captions
        number = asked.number if searched else 0
        return [captions if isinstance(captions, RowError) else captions[number] for captions in found]

    def _encode(self, lane: Lane[_Parts], pictures: Sequence[Picture]) -> list[Any]:
        """What the image encoder makes of each, or a RowError."""
        family, encoding = lane.parts.family, lane.parts.encoding
        lacking = [picture for picture in pictures if picture.encoded is None]
        made = encoding.run([picture.inputs for picture in lacking], family.encode)
        new = dict(zip(map(id, lacking), made, strict=True))
        if len(self._variants) > 1:
            for picture in lacking:
                picture.encoded = new[id(picture)]
        encoded = [new.get(id(picture), picture.encoded) for picture in pictures]
        # Another variant's caption may have been made on another GPU.
        return [item.to(lane.device) if hasattr(item, "to") else item for item in encoded]

    def _decode(
        self, lane: Lane[_Parts], pictures: Sequence[Picture], encoded: Sequence[Any], asked: NumberedCaption
    ) -> list[list[str] | RowError]:
        """The captions of each picture: one, or the best of its beams."""
        found: list[Any] = list(encoded)
        groups: dict[Any, list[int]] = {}
        for place, item in enumerate(encoded):
            if not isinstance(item, RowError):
                groups.setdefault(lane.parts.family.alike(item, asked.settings.prompt), []).append(place)
        for places in groups.values():
            texts = lane.parts.decoding[asked.settings.num_beams].run(
                [(pictures[place], encoded[place]) for place in places],
                lambda batch: self._texts(lane, batch, asked),
            )
            for place, captions in zip(places, texts, strict=True):
                found[place] = captions
        return found

    def _texts(
        self, lane: Lane[_Parts], batch: Sequence[tuple[Picture, Any]], asked: NumberedCaption
    ) -> list[list[str] | RowError]:
        """One call of the decoder."""
        from sd_assets.models.captioning.generation import (
            CAN_COMPACT,
            NotFinite,
            Rows,
            compacting,
            sample_key,
            sampling,
        )

        family, settings = lane.parts.family, asked.settings
        pictures = [picture for picture, _ in batch]
        rows = Rows(len(batch), lane.device)
        not_finite = NotFinite(rows)
        keys = [sample_key(settings.seed, picture.digest, asked.number) for picture in pictures]
        options: dict[str, Any] = {
            "max_new_tokens": settings.max_new_tokens,
            "do_sample": False,
            "num_beams": settings.num_beams,
            "logits_processor": [not_finite, *sampling(settings, rows, keys)],
        }
        if settings.min_new_tokens:
            options["min_new_tokens"] = settings.min_new_tokens
        returned = 1
        if settings.num_beams > 1:
            options["num_return_sequences"] = returned = settings.count
        elif family.compacts and CAN_COMPACT:
            options["custom_generate"] = compacting(rows, not_finite)
        tokens = family.generate([item for _, item in batch], settings.prompt, options).tolist()
        nowhere = RowError(ErrorCode.NOT_FINITE, f"{self.identity} answered NaN or infinity")
        return [
            nowhere if bad else [self._text(family, row) for row in tokens[first : first + returned]]
            for bad, first in zip(not_finite.found.tolist(), range(0, len(tokens), returned), strict=True)
        ]

    def _text(self, family: "Family", tokens: Sequence[int]) -> str:
        caption = family.text(tokens)
        return self._clean(caption) if self._clean else caption

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

    def _files(self, names: Sequence[str]) -> Iterator[Path]:
        """Those of the model's small files that there are."""
        for name in names:
            if self._folder is None:
                with contextlib.suppress(NoSuchFileError):
                    yield hub_file(self._commit, name, self._where)
            elif (path := self._folder / name).is_file():
                yield path

    def _load(self, device: str, precision: str) -> _Parts:
        from sd_assets.models.captioning.checkpoint import NAME_CODE, check_code, check_kind, load_family

        own_code = self.settings.trust_remote_code
        check_kind(self._config_file(), self._where, own_code=own_code)
        if own_code:
            check_code(self._files(NAME_CODE), self._where)
        source = str(self._folder) if self._folder is not None else self._model
        # Pinned to the commit; from the cache alone where the Hub does not answer, or every file costs a time-out.
        pinned: dict[str, Any] = {"trust_remote_code": own_code}
        if self._folder is None:
            pinned.update(revision=self._commit.commit, local_files_only=not self._commit.online)
        family = load_family(source, pinned, self._where, device, precision)
        for prompt in self._prompts:
            family.check(prompt)
        size = self.settings.batch_size or pick_batch_size(
            device, on_cpu=_DECODED_ON_CPU, on_80_gib=family.on_80_gib
        )
        encoded = pick_batch_size(device, **_ENCODED)
        return _Parts(
            family=family,
            encoding=Batches(min(encoded, size), device, fill=min(encoded, size)),
            # Each beam is a row.
            decoding={
                beams: Batches(_whole(max(1, size // beams), family.fill), device, fill=family.fill)
                for beams in {variant.settings.num_beams for variant in self._variants.values()}
            },
        )


def _effects(variant: NumberedCaption) -> dict[str, Any]:
    """What changes a caption: settings that have no part in it do not."""
    settings = variant.settings
    effects = settings.model_dump(mode="json", exclude={"count", "seed", "top_p", "temperature"})
    if settings.samples:
        effects.update(
            seed=settings.seed, top_p=settings.top_p, temperature=settings.temperature, sample=variant.number
        )
    elif settings.num_beams > 1:
        effects["rank"] = variant.number
    return effects


def _whole(size: int, fill: int) -> int:
    """Down to a multiple of `fill`, or a batch would be filled up beyond its size."""
    return size - size % fill if size > fill else size


def _digest(image: Image.Image) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=16).digest()
