"""From an encoded picture to the tokens of its caption: greedy, sampled or beams, over `generate` of transformers.

Here belongs what all families of captioners share. How a family takes pictures and prompts is in `families`.
"""

import hashlib
import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from transformers import GenerationMixin, LogitsProcessor, TemperatureLogitsWarper, TopPLogitsWarper
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache
from transformers.utils import ModelOutput

from sd_assets.settings import CaptionSettings

# As in `running`: on a CPU, with multiples of so many rows, a row's bytes do not depend on how many there are.
_ROWS = 16

Tensor = torch.Tensor
Processor = Callable[[Tensor, Tensor], Tensor]


class Rows:
    """Whose caption each row of the decoder's batch is; finished captions lose their rows.

    Attributes:
        places: int64 [rows]: of each row the place of its picture in the batch as it began.
    """

    def __init__(self, count: int, device: str) -> None:
        self.places = torch.arange(count, device=device)


class NotFinite(LogitsProcessor):  # type: ignore[misc]
    """Notes the pictures for which the decoder answers NaN or infinity, and keeps that from the others.

    Attributes:
        found: bool [pictures].
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.found = torch.zeros(len(rows.places), dtype=torch.bool, device=rows.places.device)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        bad = ~torch.isfinite(scores.amax(dim=-1))  # a NaN is greater than all; -inf is what is forbidden
        of_picture = bad.view(len(self._rows.places), -1).any(dim=-1)  # a row for each beam
        self.found[self._rows.places] |= of_picture
        return torch.where(bad[:, None], torch.zeros_like(scores), scores)


class Gumbel(LogitsProcessor):  # type: ignore[misc]
    """Makes the likeliest token a sample: to the log of its probability a draw of Gumbel's distribution is added.

    The draw is a hash of the picture's key, the step and the token, and so does not depend on the rest of the batch. The
    probabilities may, in their last bits: that turns a token where two come out about equal.

    Args:
        rows: of the batch.
        keys: of each picture a number, as `sample_key` makes it.
    """

    def __init__(self, rows: Rows, keys: Sequence[int]) -> None:
        self._rows = rows
        self._keys = torch.tensor(keys, dtype=torch.int64, device=rows.places.device)
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._step += 1
        rows = _mixed(self._keys[self._rows.places] ^ (self._step << 32))
        tokens = torch.arange(scores.shape[-1], device=scores.device) * _ODD
        # 23 bits, the most for which float32 holds the middle between two of them, and so never 0 or 1.
        bits = _mixed(rows[:, None] ^ tokens) & (2**23 - 1)
        uniform = (bits.float() + 0.5) / 2**23
        return scores - torch.log(-torch.log(uniform))


# 2^64 over the golden ratio, as int64: its multiples are spread evenly.
_ODD = -7046029254386353131


def _mixed(numbers: Tensor) -> Tensor:
    """Int64 to int64 that look random (the finalizer of SplitMix64; products wrap around)."""
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        numbers = (numbers ^ _shifted(numbers, shift)) * factor
    return numbers ^ _shifted(numbers, 31)


def _shifted(numbers: Tensor, bits: int) -> Tensor:
    """To the right, zeros from the left: torch has no unsigned integers of 64 bits that shift."""
    return (numbers >> bits) & ((1 << (64 - bits)) - 1)


def sample_key(seed: int, picture: bytes, sample: int) -> int:
    """What a picture's draws depend on, as an int64.

    Args:
        seed: of the settings.
        picture: a digest of it.
        sample: which of its samples, from 0.
    """
    digest = hashlib.blake2b(b"%d/%d/" % (seed, sample) + picture, digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def sampling(settings: CaptionSettings, rows: Rows, keys: Sequence[int]) -> list[Processor]:
    """What makes a greedy search one of samples; nothing where captions are not sampled."""
    processors: list[Processor] = []
    if settings.samples:
        if settings.temperature is not None and settings.temperature != 1:
            processors.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_p is not None and settings.top_p < 1:
            processors.append(TopPLogitsWarper(settings.top_p))
        processors.append(Gumbel(rows, keys))
    return processors


# Whether this transformers has the steps of which `compacting` is made; 4.57 has others.
CAN_COMPACT = (
    "next_sequence_length" in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters
)


def compacting(rows: Rows, not_finite: NotFinite) -> Callable[..., Tensor]:
    """Greedy decoding for `generate(custom_generate=...)` in which finished captions cost nothing.

    Their rows leave the batch, the cache and all else that has a row for each, so that a step is for the unfinished ones
    only; the last steps are for a few.

    Args:
        rows: told which are left.
        not_finite: its pictures are finished, too.
    """

    def decode(
        model: Any,
        input_ids: Tensor,
        logits_processor: Callable[[Tensor, Tensor], Tensor],
        stopping_criteria: Callable[[Tensor, Any], Tensor],
        generation_config: Any,
        synced_gpus: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        # Without a token that pads, transformers takes the one that ends. Without that, nothing ends early.
        pad = generation_config._pad_token_tensor
        pad = 0 if pad is None else int(pad)
        captions = [input_ids]  # a column for each step, of all pictures
        finished = torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)
        step: dict[str, Any] = {"is_first_iteration": True}
        while True:
            inputs = model.prepare_inputs_for_generation(input_ids, **step, **kwargs)
            outputs = model(**inputs, return_dict=True)
            step = {"next_sequence_length": 1}
            kwargs = model._update_model_kwargs_for_generation(
                outputs, kwargs, is_encoder_decoder=model.config.is_encoder_decoder
            )
            scores = logits_processor(input_ids, outputs.logits[:, -1].float())
            tokens = scores.argmax(dim=-1).masked_fill(finished, pad)
            input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
            column = torch.full((len(captions[0]), 1), pad, device=input_ids.device)
            column[rows.places, 0] = tokens
            captions.append(column)
            finished = finished | stopping_criteria(input_ids, None) | not_finite.found[rows.places]
            unfinished = [place for place, over in enumerate(finished.tolist()) if not over]
            if not unfinished:
                return torch.cat(captions, dim=-1)
            left = -(-len(unfinished) // _ROWS) * _ROWS
            if left < len(input_ids) and _is_plain(kwargs.get("past_key_values")):
                move = _Move(unfinished, left, len(input_ids), input_ids.device)
                input_ids, finished, rows.places = map(move.tensor, (input_ids, finished, rows.places))
                kwargs = {name: move.any(value) for name, value in kwargs.items()}

    return decode


def _is_plain(cache: Any) -> bool:
    """Whether it is nothing but keys and values, a row for each picture."""
    if isinstance(cache, EncoderDecoderCache):
        return _is_plain(cache.self_attention_cache) and _is_plain(cache.cross_attention_cache)
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)


class _Move:
    """Brings the unfinished rows to the front and cuts off the rest.

    Only those that lie behind the cut are copied, to the places of finished ones: of a cache of gigabytes most stays where
    it is.
    """

    def __init__(self, unfinished: Iterable[int], left: int, count: int, device: Any) -> None:
        unfinished = list(unfinished)
        behind = [place for place in unfinished if place >= left]
        there = set(unfinished)
        free = [place for place in range(left) if place not in there]
        self._left, self._count = left, count
        self._source = torch.tensor(behind, dtype=torch.int64, device=device)
        self._target = torch.tensor(free[: len(behind)], dtype=torch.int64, device=device)

    def tensor(self, rows: Tensor) -> Tensor:
        if 0 in rows.stride():  # expanded: several rows are one in memory
            rows = rows.clone(memory_format=torch.contiguous_format)
        rows[self._target] = rows[self._source]
        return rows[: self._left]

    def any(self, value: Any) -> Any:
        """The same of whatever a decoder is given: what has a row for each picture is cut."""
        if isinstance(value, Tensor):
            return self.tensor(value) if value.ndim and len(value) == self._count else value
        if isinstance(value, EncoderDecoderCache):
            self.any(value.self_attention_cache), self.any(value.cross_attention_cache)
        elif isinstance(value, Cache):
            for layer in value.layers:
                layer.keys, layer.values = self.tensor(layer.keys), self.tensor(layer.values)
        elif isinstance(value, ModelOutput):
            return type(value)(**{name: self.any(part) for name, part in value.items()})
        return value
