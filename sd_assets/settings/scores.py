"""Which models say how beautiful an image is, and whether it is safe to look at."""

from typing import Any, Literal

from pydantic import Field, model_validator

from sd_assets.settings.base import Settings

HUB_PREFIX = "hf-hub:"

Activation = Literal["none", "relu", "gelu", "silu", "tanh"]


class ScoreModelSettings(Settings):
    """A model that gives an image a number: a head on its CLIP embedding, or a classifier that sees the image.

    Attributes:
        head: the weights of linear layers on the embedding of the entry's CLIP, as safetensors or `.pth` (a state dict): a file, or
            `hf-hub:org/model/file` of the Hub.
        activation: of a head: what is between its layers.
        sigmoid: of a head: whether its answer is made a number from 0 to 1.
        model: an image classifier of transformers: a Hub id, or a folder.
        label: of a classifier: the score is the probability of this one, in whichever case. None for a model that answers one
            number, which is then the score as it is.
        revision: of what is on the Hub: a branch, tag or commit.
        batch_size: of a classifier: images a forward pass, at most; null: as many as suit the device.
    """

    WITHOUT_EFFECT = frozenset({"batch_size"})

    head: str | None = None
    activation: Activation = "none"
    sigmoid: bool = False
    model: str | None = None
    label: str | None = None
    revision: str | None = None
    batch_size: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _is_one_of_two(self) -> "ScoreModelSettings":
        if (self.head is None) == (self.model is None):
            raise ValueError(
                "give either `head:` (weights on the CLIP embedding) or `model:` (an image classifier); null takes one away that "
                "the defaults give"
            )
        of_the_other = ("label", "batch_size") if self.head is not None else ("activation", "sigmoid")
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        if wrong := [name for name in of_the_other if getattr(self, name) != defaults[name]]:
            kinds = ("a classifier (`model:`)", "a `head:`")
            of, given = kinds if self.head is not None else kinds[::-1]
            raise ValueError(f"`{wrong[0]}` is a field of {of}, and this is {given}: take it away")
        if self.head is not None and self.hub_file is None and self.revision:
            raise ValueError(
                f"`revision` is one of a Hub repository, which head {self.head!r} does not name: take it away, or use "
                f"{HUB_PREFIX}org/model/file"
            )
        return self

    @property
    def hub_file(self) -> tuple[str, str] | None:
        """Repository and file of a head that is on the Hub."""
        if self.head is None or not self.head.startswith(HUB_PREFIX):
            return None
        organisation, _, rest = self.head.removeprefix(HUB_PREFIX).partition("/")
        model, _, file = rest.partition("/")
        return f"{organisation}/{model}", file

    @model_validator(mode="after")
    def _names_a_file_of_the_hub(self) -> "ScoreModelSettings":
        if self.hub_file is not None and not all((*self.hub_file[0].split("/"), self.hub_file[1])):
            raise ValueError(f"head {self.head!r} names no file of the Hub: write {HUB_PREFIX}org/model/file")
        return self


class ScoreSettings(Settings):
    """Scores that need a model of their own; each may be left out: its table is then empty, and there can be no threshold on it.

    Attributes:
        aesthetic: how beautiful: the number that its model answers, mostly 1 to 10.
        nsfw: from 0 to 1, the more the less safe.
    """

    aesthetic: ScoreModelSettings | None = None
    nsfw: ScoreModelSettings | None = None

    def effects(self) -> dict[str, Any]:
        return {
            name: model.effects() if model is not None else None
            for name, model in (("aesthetic", self.aesthetic), ("nsfw", self.nsfw))
        }
