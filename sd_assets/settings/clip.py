"""Which CLIP embeds."""

import re

from pydantic import Field, model_validator

from sd_assets.settings.base import Settings

# OpenAI's own spelling of names that open_clip writes with a dash, `ViT-B/32`: no ids of the Hub.
_WITH_SLASH = re.compile(r"ViT-[A-Za-z]+/\d+.*")


class ClipSettings(Settings):
    """Which CLIP embeds the seeds; it must be the one that made the index.

    Attributes:
        model: an open_clip name (`ViT-L-14`); a repository of the Hub, `org/model` or `hf-hub:org/model`; or a folder,
            `local-dir:path` or a path that begins with `.`, `/` or `~`. Of the last two, their files say whether open_clip or
            transformers reads them.
        pretrained: the tag of the weights of an open_clip name (`openai`); none for the other two.
        revision: of a repository: a branch, tag or commit.
        batch_size: images or texts a forward pass, at most; null: as many as suit the device. It changes results in their last
            bits at most.
    """

    WITHOUT_EFFECT = frozenset({"batch_size"})

    model: str = "ViT-L-14"
    pretrained: str | None = None
    revision: str | None = None
    batch_size: int | None = Field(None, ge=1)

    @property
    def folder(self) -> str | None:
        """The path of the model's folder, where `model` names one."""
        if self.model.startswith("local-dir:"):
            return self.model.removeprefix("local-dir:")
        return self.model if self.model.startswith((".", "/", "~")) else None

    @property
    def hub_id(self) -> str | None:
        """The repository of the Hub, where `model` names one."""
        if self.model.startswith("hf-hub:"):
            return self.model.removeprefix("hf-hub:")
        named_otherwise = self.folder is not None or _WITH_SLASH.fullmatch(self.model)
        return self.model if "/" in self.model and not named_otherwise else None

    @model_validator(mode="after")
    def _weights_are_named(self) -> "ClipSettings":
        if self.model.startswith("${"):  # a variable that is not set: what it means is not known
            return self
        holds_weights = self.folder is not None or self.hub_id is not None
        if holds_weights and self.pretrained:
            raise ValueError(
                f"model {self.model!r} names its own weights: take `pretrained` away (`pretrained: null`, where the defaults "
                "give one)"
            )
        if not holds_weights and not self.pretrained:
            raise ValueError(
                f"model {self.model!r} has no weights: add `pretrained:` (for ViT-L-14, for example, openai), "
                "or use org/model of the Hub, or local-dir:path"
            )
        if self.revision and self.hub_id is None:
            raise ValueError(
                f"`revision` is one of a Hub repository, which model {self.model!r} does not name: take it away, or use "
                "org/model"
            )
        return self
