"""Heads: linear layers that were trained to read a number off a CLIP embedding.

Known ones are LAION's aesthetic-predictor (`sa_0_4_vit_l_14_linear.pth`: one layer on ViT-L/14 of OpenAI) and the
improved-aesthetic-predictor (`sac+logos+ava1-l14-linearMSE.pth`: five layers, 768-1024-128-64-16-1, with nothing but dropout
between them). Both take the embedding L2-normalised, as our tables have it.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from sd_assets.catalog import require_set
from sd_assets.errors import ModelError
from sd_assets.models.hub import HubCommit, file_digest, hub_commit, hub_file
from sd_assets.settings import ScoreModelSettings
from sd_assets.views.text import one_line

Floats = npt.NDArray[np.float64]

_SAFETENSORS = ".safetensors"
_NUMBER = re.compile(r"[0-9]+")
_NESTED = ("state_dict", "model_state_dict", "model")  # where trainers keep the weights among other things


class _Layer(NamedTuple):
    name: str
    weight: Floats  # [out, in]
    bias: Floats  # [out]


class Head:
    """A head by its file, or that of a repository of the Hub. Nothing is read before `load()`.

    Args:
        settings: which, and what is between and behind its layers.
        score: the name of the field of `scores:`, for messages.
    """

    def __init__(self, settings: ScoreModelSettings, score: str) -> None:
        self.settings = settings
        self._score = score
        self._layers: list[_Layer] = []

    @property
    def _where(self) -> str:
        return f"the head {self._name!r} (scores.{self._score})"

    @cached_property
    def _name(self) -> str:
        return require_set(str(self.settings.head), f"scores.{self._score}.head")

    @cached_property
    def identity(self) -> str:
        """Names the weights: the file and a digest of it, or `hf-hub:org/model@commit/file`.

        Raises:
            ModelError: there is no such file, or the Hub does not have it.
        """
        if self.settings.hub_file is not None:
            return f"hf-hub:{self._commit.model}@{self._commit.commit}/{self.settings.hub_file[1]}"
        return f"{Path(self._name).name} {file_digest(Path(self._name), self._where)}"

    @property
    def fingerprint_settings(self) -> dict[str, Any]:
        """What changes the scores."""
        return {
            "head": self.identity,
            "activation": self.settings.activation,
            "sigmoid": self.settings.sigmoid,
        }

    def facts(self) -> dict[str, Any]:
        """For metadata."""
        return {"model": self.identity}

    def load(self) -> None:
        """Read the layers.

        Raises:
            ModelError: what is wrong with the file and what to do.
        """
        if not self._layers:
            tensors = _tensors(self._file, self._where)
            is_ordered = self._file.suffix != _SAFETENSORS
            self._layers = _layers(tensors, self._where, is_ordered=is_ordered)

    def score(self, embeddings: npt.NDArray[np.float32], clip: str) -> npt.NDArray[np.float32]:
        """A number for each embedding.

        In double precision, so that a row's number does not depend on how many come with it.

        Args:
            embeddings: [n, dim], L2-normalised.
            clip: the model that made them, for messages.

        Raises:
            ModelError: the head is for embeddings of another length.
        """
        wanted = self._layers[0].weight.shape[1]
        if embeddings.shape[1] != wanted:
            raise ModelError(
                f"{self._where} reads embeddings of {wanted} numbers, and those of {clip} have {embeddings.shape[1]}: take a head "
                "that was trained on this CLIP, or name the CLIP that it was trained on under `clip:`"
            )
        values = embeddings.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):  # what is no number is said of its row
            for layer in self._layers[:-1]:
                values = _ACTIVATIONS[self.settings.activation](values @ layer.weight.T + layer.bias)
            last = self._layers[-1]
            answers = (values @ last.weight.T + last.bias)[:, 0]
            return (_sigmoid(answers) if self.settings.sigmoid else answers).astype(np.float32)

    @cached_property
    def _commit(self) -> HubCommit:
        assert self.settings.hub_file is not None
        model, file = self.settings.hub_file
        return hub_commit(model, self.settings.revision, [file], self._where)

    @property
    def _file(self) -> Path:
        if self.settings.hub_file is None:
            return Path(self._name)
        return hub_file(self._commit, self.settings.hub_file[1], self._where)


def _tensors(file: Path, where: str) -> dict[str, Floats]:
    """The arrays of a file, by name; no code in it is run. Those of a state dict are in its order, which is that of the layers."""
    import torch
    from safetensors.torch import load_file

    try:
        if file.suffix == _SAFETENSORS:
            found: Any = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ModelError(
            f"{where} cannot be read: {one_line(error)}. It must be safetensors, or a state dict that torch.save wrote; a whole "
            "module, which holds code, is not read: save its `state_dict()`"
        ) from error
    for name in _NESTED:
        found = found[name] if isinstance(found, Mapping) and isinstance(found.get(name), Mapping) else found
    if not isinstance(found, Mapping) or not all(isinstance(it, torch.Tensor) for it in found.values()):
        raise ModelError(
            f"{where} holds no weights by name (a state dict): save the `state_dict()` of the head"
        )
    return {str(name): tensor.detach().double().numpy() for name, tensor in found.items()}


def _layers(tensors: Mapping[str, Floats], where: str, *, is_ordered: bool) -> list[_Layer]:
    """The layers, the first first.

    Args:
        tensors: weights and biases by name.
        where: for messages.
        is_ordered: whether they are in the order of the layers; safetensors has an order of its own.

    Raises:
        ModelError: they are no chain of linear layers that ends in one number; or more than one.
    """
    layers = []
    left = dict(tensors)
    for name in [name for name in tensors if name.split(".")[-1] == "weight"]:
        weight = left.pop(name)
        bias = left.pop(f"{name.removesuffix('weight')}bias", np.zeros(weight.shape[0]))
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise _no_chain(where, f"{name!r} of shape {list(weight.shape)} is no linear layer")
        layers.append(_Layer(name, weight, bias))
    if left or not layers:
        raise _no_chain(where, f"it holds {', '.join(map(repr, left)) or 'nothing'}")
    if not is_ordered:
        layers = _in_order(layers, where)
    for one, following in pairwise(layers):
        if one.weight.shape[0] != following.weight.shape[1]:
            raise _no_chain(
                where, f"{one.name!r} answers {one.weight.shape[0]} numbers, {following.name!r} takes others"
            )
    if layers[-1].weight.shape[0] != 1:
        raise _no_chain(
            where, f"its last layer answers {layers[-1].weight.shape[0]} numbers, and a score is one"
        )
    return layers


def _in_order(layers: Sequence[_Layer], where: str) -> list[_Layer]:
    """The one order in which each layer takes what the one before it answers; names that are numbered stay in that order.

    Raises:
        ModelError: there are several such orders.
    """
    numbered: dict[str, list[_Layer]] = {}
    for layer in sorted(layers, key=lambda layer: _numbers(layer.name)):
        numbered.setdefault(_NUMBER.sub("#", layer.name), []).append(layer)
    fitting = list(islice(_chains([], list(numbered.values())), 2))
    if len(fitting) > 1:
        one, other = (", ".join(repr(layer.name) for layer in chain) for chain in fitting)
        raise ModelError(
            f"{where} does not tell the order of its layers: {one} fit, and so do {other}. Save it as a `.pth` (a state dict, which "
            "has an order), or number the names: layers.0.weight, layers.1.weight"
        )
    return fitting[0] if fitting else [layer for group in numbered.values() for layer in group]


def _chains(begun: list[_Layer], left: Sequence[list[_Layer]]) -> Iterator[list[_Layer]]:
    """All ways to go on to the end from some layers: of each group of those that are left the first comes first."""
    if not left and begun[-1].weight.shape[0] == 1:
        yield begun
    for place, (layer, *rest) in enumerate(left):
        if not begun or begun[-1].weight.shape[0] == layer.weight.shape[1]:
            yield from _chains(
                [*begun, layer], [*left[:place], *([rest] if rest else []), *left[place + 1 :]]
            )


def _no_chain(where: str, what: str) -> ModelError:
    return ModelError(
        f"{where} is not made of linear layers, one behind the other, that end in one number: {what}. For other models there are "
        "`model:` (an image classifier) and scorers of your own"
    )


def _numbers(name: str) -> list[int]:
    """So that `layers.2` comes before `layers.10`."""
    return [int(number) for number in _NUMBER.findall(name)]


def _sigmoid(values: Floats) -> Floats:
    return np.asarray(0.5 * (1 + np.tanh(values / 2)))  # the same as 1 / (1 + exp(-x)), and never overflows


def _gelu(values: Floats) -> Floats:
    import torch

    return np.asarray(torch.nn.functional.gelu(torch.from_numpy(values)).numpy())


_ACTIVATIONS: Mapping[str, Callable[[Floats], Floats]] = {
    "none": lambda values: values,
    "relu": lambda values: np.maximum(values, 0),
    "gelu": _gelu,
    "silu": lambda values: values * _sigmoid(values),
    "tanh": np.tanh,
}
