"""Which model captions the images, here or behind an endpoint, and what its captions are like."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import Field, field_validator, model_validator

from sd_assets.settings.base import Settings, Texts
from sd_assets.settings.services import CREDENTIALS, ServiceSettings, ServiceUrl, without_password


class EndpointSettings(ServiceSettings):
    """An OpenAI-compatible server (vLLM and the like) that captions images, and how it is asked.

    Attributes:
        url: up to `/v1`; `/chat/completions` follows.
        max_side: an image whose longer side has more pixels is sent smaller.
        quality: of the JPEG that is sent.
        body: further fields of each request, as the server knows them; null takes away one of ours
            (`{max_tokens: null, max_completion_tokens: 100}`). They are recorded as they are, so no credentials.
    """

    url: ServiceUrl
    max_side: int = Field(768, ge=32, le=8192)
    quality: int = Field(90, ge=1, le=100)
    body: dict[str, Any] = Field(default_factory=dict)
    timeout_s: float = Field(120, gt=0)
    deadline_s: float = Field(600, gt=0)
    retries: int = Field(5, ge=0, le=20)
    connections: int = Field(16, ge=1, le=256)
    max_bytes: int = Field(1_000_000, ge=1)

    @field_validator("body")
    @classmethod
    def _has_no_credentials(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in _texts_of(value):
            if name.strip().lower() in CREDENTIALS:
                raise ValueError(
                    f"the field `{name}` looks like a credential, and what stands in `body` is recorded and shown: give it as "
                    "`endpoint: api_key: ${API_KEY}`, with the `api_key_header` that it is to be sent in"
                )
        return value

    def effects(self) -> dict[str, Any]:
        """The URL without a password."""
        return {**super().effects(), "url": without_password(self.url)}


class CaptionSettings(Settings):
    """What one caption of an image is like.

    Without `num_beams`, `top_p` and `temperature` it is made greedily: of the words the likeliest, one after the other.

    Attributes:
        prompt: a text that the caption continues, or that asks for it, as the model understands it.
        min_new_tokens: the fewest tokens of a caption.
        max_new_tokens: the most tokens of a caption.
        num_beams: beam search with so many beams.
        top_p: nucleus sampling: of the likeliest words that together have this probability.
        temperature: sampling: above 1 more varied, below 1 less.
        seed: of the sampling; the same image, seed and settings give the same caption.
        count: captions of this kind that an image gets: as many samples, or the best of the beams.
    """

    prompt: str | None = None
    min_new_tokens: int = Field(0, ge=0, le=1000)
    max_new_tokens: int = Field(50, ge=1, le=1000)
    num_beams: int = Field(1, ge=1, le=32)
    top_p: float | None = Field(None, gt=0, le=1)
    temperature: float | None = Field(None, gt=0, le=10)
    seed: int = Field(0, ge=0, lt=2**32)
    count: int = Field(1, ge=1, le=64)

    @property
    def samples(self) -> bool:
        """Whether captions are drawn, not searched."""
        return self.top_p is not None or self.temperature is not None

    @model_validator(mode="after")
    def _fields_fit_together(self) -> "CaptionSettings":
        # What stands above variants is for them to complete: each is validated with it.
        if not getattr(self, "variants", None):
            self._check_together()
        return self

    def _check_together(self) -> None:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"`min_new_tokens` is {self.min_new_tokens}, more than `max_new_tokens`, {self.max_new_tokens}: "
                "raise the one or lower the other"
            )
        if self.samples and self.num_beams > 1:
            raise ValueError(
                "captions are either sampled (`top_p`, `temperature`) or searched for with beams (`num_beams`): "
                "take one of the two away"
            )
        if self.count > 1 and not self.samples and self.num_beams == 1:
            raise ValueError(
                f"`count` is {self.count}, but greedy captions of an image are all the same: sample them (`top_p: 0.9`) "
                f"or use beams (`num_beams: {self.count}`)"
            )
        if self.count > self.num_beams > 1:
            raise ValueError(
                f"`count` is {self.count}, but {self.num_beams} beams have {self.num_beams} captions: raise `num_beams`"
            )


def _texts_of(value: Any) -> Iterator[str]:
    """The names of all texts and numbers in JSON, however deep: what a JSON schema calls `key` is neither."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _texts_of(inner)
            if isinstance(inner, str | int | float):
                yield str(name)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts_of(inner)


VariantName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class CaptionerSettings(CaptionSettings):
    """Which image-to-text model captions the images, and how.

    Attributes:
        model: a Hub id (`org/model`) or a local folder.
        revision: a branch, tag or commit of the model's repository.
        endpoint: a server that runs the model, which is named as it is there; null: it runs here.
        trust_remote_code: run the code in the model's repository or folder; of a repository, only with a full commit as
            `revision`.
        batch_size: images that are captioned at once; null fits the device; changes what the model computes in the last
            bits, which may turn a word where two are about equally likely.
        clean: take known mistakes of captioners out of the captions.
        artefacts: the words and phrases that are taken out, in place of our own list (`arafed` and its kin).
        variants: several captions of each image: by its name, what of the fields of a caption is different in it.
            Without, there is one, named `default`. With a `count` of 3, `short` is `short-1`, `short-2` and `short-3`.
    """

    WITHOUT_EFFECT = frozenset({"batch_size"})

    model: str = "Salesforce/blip-image-captioning-base"
    revision: str | None = None
    endpoint: EndpointSettings | None = None
    trust_remote_code: bool = False
    batch_size: int | None = Field(None, ge=1)
    clean: bool = True
    artefacts: Texts | None = None
    variants: dict[VariantName, CaptionSettings] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _variants_complete_what_stands_above(cls, values: Any) -> Any:
        variants = values.get("variants") if isinstance(values, Mapping) else None
        if not isinstance(variants, Mapping):
            return values
        above = {name: values[name] for name in CaptionSettings.model_fields if name in values}
        complete = {
            # An empty entry, `plain:`, is all as above.
            name: {**above, **(fields or {})} if fields is None or isinstance(fields, Mapping) else fields
            for name, fields in variants.items()
        }
        return {**values, "variants": complete}

    @model_validator(mode="after")
    def _names_are_distinct(self) -> "CaptionerSettings":
        seen: set[str] = set()
        for name, variant in self.kinds.items():
            for numbered in numbered_names(name, variant.count):
                if numbered in seen:
                    raise ValueError(
                        f"two variants are named {numbered!r}: one is a number of `count`; rename the other"
                    )
                seen.add(numbered)
        return self

    @model_validator(mode="after")
    def _code_is_pinned(self) -> "CaptionerSettings":
        folder = self.model.startswith((".", "/", "~", "$"))
        if self.trust_remote_code and not folder and not re.fullmatch(r"[0-9a-f]{40}", self.revision or ""):
            raise ValueError(
                "`trust_remote_code` runs code of the model's repository: give the commit that you have read as "
                "`revision`, all 40 digits of it"
            )
        return self

    @model_validator(mode="after")
    def _endpoint_can_do_it(self) -> "CaptionerSettings":
        if self.endpoint is None:
            return self
        if "model" not in self.model_fields_set:
            raise ValueError("`endpoint` needs `model:`, the model's name there")
        for name in ("revision", "trust_remote_code"):
            if getattr(self, name):
                raise ValueError(
                    f"`{name}` is of a model that runs here, and `endpoint` runs it elsewhere: take `{name}` away"
                )
        if any(kind.num_beams > 1 for kind in self.kinds.values()):
            raise ValueError(
                "an `endpoint` searches with no beams: take `num_beams` away, or sample (`top_p: 0.9`)"
            )
        return self

    @property
    def kinds(self) -> dict[str, CaptionSettings]:
        """The variants, or the one that there is without any; before `count` numbers them."""
        if self.variants:
            return self.variants
        return {
            "default": CaptionSettings(**{name: getattr(self, name) for name in CaptionSettings.model_fields})
        }

    @property
    def numbered(self) -> dict[str, "NumberedCaption"]:
        """The captions of an image by name, in order."""
        return {
            name: NumberedCaption(kind, settings, number)
            for kind, settings in self.kinds.items()
            for number, name in enumerate(numbered_names(kind, settings.count))
        }

    def effects(self) -> dict[str, Any]:
        """The fields that change what comes out, as JSON."""
        above = set(CaptionSettings.model_fields) if self.variants else set()
        said = self.model_dump(mode="json", exclude=set(self.WITHOUT_EFFECT) | above | {"endpoint"})
        return said if self.endpoint is None else {**said, "endpoint": self.endpoint.effects()}


class NumberedCaption(NamedTuple):
    """One caption of an image.

    Attributes:
        kind: of caption: a name of `kinds`.
        settings: of that kind.
        number: which of as many as the kind has, from 0.
    """

    kind: str
    settings: CaptionSettings
    number: int


def numbered_names(variant: str, count: int) -> list[str]:
    """The names of `count` captions of a kind: its own if there is one, else `name-1` and so on."""
    return [variant] if count == 1 else [f"{variant}-{number}" for number in range(1, count + 1)]
