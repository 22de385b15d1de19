"""What an entry of the catalogue may say: one pydantic model per section, with its defaults, limits and meaning.

How a file is read, merged and expanded, and how its mistakes are reported, is in `sd_assets.catalog`.
"""

import ipaddress
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, ClassVar, Final, Literal, NamedTuple, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from sd_assets.blocked import Blocked, normal_host, normal_image, normal_url
from sd_assets.errors import ErrorCode
from sd_assets.schemas import TABLES


class Settings(BaseModel):
    """Knows its fields and refuses others; does not change.

    Attributes:
        WITHOUT_EFFECT: fields that say how to work, not what comes out: timeouts, retries, batch sizes.
    """

    # What pydantic itself writes of a mistake quotes no input: it may hold a key or a password.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _truth_values_are_no_numbers(cls, values: Any) -> Any:
        # `retries: yes` would be 1. As a text, the truth value fails where numbers are read.
        if not isinstance(values, Mapping):
            return values
        return {
            name: str(value) if isinstance(value, bool) and cls._is_number(name) else value
            for name, value in values.items()
        }

    @classmethod
    def _is_number(cls, name: str) -> bool:
        field = cls.model_fields.get(name)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        return int in kinds or float in kinds

    def effects(self) -> dict[str, Any]:
        """The fields that change what comes out, as JSON."""
        return self.model_dump(mode="json", exclude=set(self.WITHOUT_EFFECT))


# --- where the seeds come from -----------------------------------------------------------------------------------


class FolderSource(Settings):
    """A folder of images, read by `datasets` as an imagefolder, with or without `metadata.jsonl`.

    Attributes:
        path: the folder; sub-folders are read too.
        text_column: the column of `metadata.jsonl` that holds the image's text; `text` if there is one, or the only
            column of texts; "" for none.
        max_rows: stop after so many rows.
    """

    kind: Literal["folder"]
    path: str
    text_column: str | None = None
    max_rows: int | None = Field(None, ge=1)


class HubSource(Settings):
    """A dataset of the Hugging Face hub, read by `datasets` in streaming mode.

    Attributes:
        id: `owner/name`.
        config: the dataset's configuration, if it has several.
        split: the split to read.
        revision: a branch, tag or commit of the dataset's repository.
        image_column: the column that holds the image; found when there is only one.
        text_column: the column that holds the image's text; `text` if there is one, or the only column of texts; "" for
            none. Of a list of texts the first is taken.
        max_rows: stop after so many rows.
    """

    kind: Literal["hub"]
    id: str
    config: str | None = None
    split: str = "train"
    revision: str | None = None
    image_column: str | None = None
    text_column: str | None = None
    max_rows: int | None = Field(None, ge=1)


class ParquetSource(Settings):
    """Parquet files that hold images, or name image files.

    Attributes:
        path: a file, a folder (its sub-folders too) or a pattern such as `data/train-*.parquet`.
        image_column: the column that holds the image: bytes, `{bytes, path}` as `datasets` writes it, or the path of
            a file, relative to the Parquet file; found when only one column holds images.
        text_column: the column that holds the image's text; `text` if there is one, or the only column of texts; "" for
            none.
        max_rows: stop after so many rows.
    """

    kind: Literal["parquet"]
    path: str
    image_column: str | None = None
    text_column: str | None = None
    max_rows: int | None = Field(None, ge=1)


class WebDatasetSource(Settings):
    """Tar files in which neighbours of one name are a sample: `0001.jpg`, `0001.txt`, `0001.json`.

    Attributes:
        path: a file, a folder (its sub-folders too), a pattern such as `shards/*.tar`, or a range such as
            `"shards/{000..012}.tar"` (quoted: braces mean something in YAML).
        image_column: the extension of the member that is the image (`jpg`, `input.png`), where samples have several.
        text_column: the key of the sample's .json that holds the text, or `txt`; else its .txt is taken, or the key
            `caption` or `text`.
        max_rows: stop after so many rows.
    """

    kind: Literal["webdataset"]
    path: str
    image_column: str | None = None
    text_column: str | None = None
    max_rows: int | None = Field(None, ge=1)


class UrlsSource(Settings):
    """A list of URLs whose images are downloaded, and kept as they came.

    Of the entry's `download:` holds what says how to fetch (timeout_s, retries, max_bytes, max_redirects, connections,
    user_agent, allow_addresses), and nothing that judges sizes or resizes. An image that came is not asked for again.
    Failures are asked for again by the ages of `download:`, and after an edit of max_bytes, ports or allow_addresses. An image
    is asked for anew under a new URL only; a `#` and anything behind it makes one.

    Attributes:
        path: a .csv or .tsv file with a header, a .parquet file, or a .txt file with one URL a line.
        url_column: the column that holds the URL; `url` if there is one, or the only one.
        text_column: the column that holds the image's text; `text` if there is one, or the only one that is called
            like a text (caption, prompt, title ...); "" for none.
        max_rows: stop after so many rows.
    """

    kind: Literal["urls"]
    path: str
    url_column: str | None = None
    text_column: str | None = None
    max_rows: int | None = Field(None, ge=1)


Source = Annotated[
    FolderSource | HubSource | ParquetSource | WebDatasetSource | UrlsSource, Field(discriminator="kind")
]


class Prompts(Settings):
    """Seed prompts: a template with lists, a plain list, a text file; any of them together, in this order.

    Attributes:
        template: a text with `{name}` fields; every other key of the mapping is the list of one field, and every
            combination of them is a prompt, the last field varying fastest.
        texts: a plain list of prompts.
        file: a UTF-8 text file, one prompt a line; blank lines are passed over.
    """

    model_config = ConfigDict(extra="allow")

    template: str | None = None
    texts: tuple[str, ...] = ()
    file: str | None = None

    @property
    def fields(self) -> dict[str, list[str]]:
        """The lists that fill the template, by the name of their field."""
        return {name: list(values) for name, values in (self.model_extra or {}).items()}

    @model_validator(mode="after")
    def _template_fits_its_lists(self) -> "Prompts":
        for name, values in (self.model_extra or {}).items():
            if not isinstance(values, list) or not values or not all(isinstance(v, str) for v in values):
                raise ValueError(
                    f"`{name}` must be a list of texts that fills {{{name}}} of the template, got {values!r}"
                )
        used = set(re.findall(r"{(\w+)}", self.template or ""))
        for name in sorted(used - set(self.fields)):
            raise ValueError(f"the template uses {{{name}}}, but there is no list `{name}:`")
        for name in sorted(set(self.fields) - used):
            if self.template is None:
                raise ValueError(
                    f"the list `{name}:` needs a `template:` that uses {{{name}}}; a plain list is `texts:`"
                )
            raise ValueError(f"the list `{name}:` is used nowhere in the template {self.template!r}")
        if self.template is None and not self.texts and self.file is None:
            raise ValueError("give `template:` with its lists, `texts:` or `file:`")
        return self


# --- services -------------------------------------------------------------------------------------------------------


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|")
# Fields of a request that would be a credential: there is `api_key` for it, which is kept nowhere.
_CREDENTIALS = frozenset(
    {
        "access_token",
        "api-key",
        "api_key",
        "apikey",
        "auth",
        "auth_token",
        "authorization",
        "bearer",
        "credentials",
        "key",
        "password",
        "secret",
        "token",
        "x-api-key",
    }
)


def _split(url: str) -> tuple[str, str]:
    """`https://`, and what follows it."""
    start = _SCHEME.match(url)
    place = start.end() if start else 0
    return url[:place], url[place:]


def without_password(url: str) -> str:
    """A URL without the name and password that may stand in it: of what follows the scheme, all up to the last `@`."""
    scheme, rest = _split(url)
    return f"{scheme}{rest.rpartition('@')[2]}"


def _with_readable_user(url: str) -> str:
    # `http://me:pa/ss@host` has the host `me`: it would be asked, and a part of the password shown as the path.
    _, rest = _split(url)
    if "@" in re.sub(r"^[^/?#]*", "", rest):
        raise ValueError(
            "has an `@` behind the first `/`, `?` or `#`, so that a name and password before the host cannot be told from the "
            "path: in a password write %2F for `/`, %3F for `?` and %23 for `#`, in a path %40 for `@`"
        )
    return url


# A URL of which nothing but name and password is secret; these stand before the host, if at all.
ServiceUrl = Annotated[str, AfterValidator(_with_readable_user)]


def _secret(value: Any) -> Any:
    # What pydantic says of another type quotes the value.
    if value is not None and not isinstance(value, str | SecretStr):
        raise ValueError(
            "must be a text: put quotes around it, or better, take it from the environment: ${API_KEY}"
        )
    return value


class ServiceSettings(Settings):
    """How an HTTP service is asked.

    Attributes:
        timeout_s: seconds for one attempt.
        deadline_s: seconds for an answer with all attempts and the waits between them.
        retries: further attempts at what failed in a way that may pass.
        connections: requests in flight at once, at each of the services.
        max_bytes: of one answer, at most.
        api_key: sent with every request; from the environment, `${API_KEY}`. It is shown and kept nowhere.
        api_key_header: the header that it is sent in; in `Authorization` it follows the word `Bearer`.
    """

    WITHOUT_EFFECT = frozenset(
        {"timeout_s", "deadline_s", "retries", "connections", "max_bytes", "api_key", "api_key_header"}
    )

    timeout_s: float = Field(30, gt=0)
    deadline_s: float = Field(300, gt=0)
    retries: int = Field(2, ge=0, le=20)
    connections: int = Field(8, ge=1, le=256)
    max_bytes: int = Field(64_000_000, ge=1)
    api_key: Annotated[SecretStr | None, BeforeValidator(_secret)] = None
    api_key_header: str = Field("Authorization", pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")


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
        for name in value:
            if name.strip().lower() in _CREDENTIALS:
                raise ValueError(
                    f"the field `{name}` looks like a credential, and what stands in `body` is recorded and shown: give it as "
                    "`endpoint: api_key: ${API_KEY}`, with the `api_key_header` that it is to be sent in"
                )
        return value

    def effects(self) -> dict[str, Any]:
        """The URL without a password."""
        return {**super().effects(), "url": without_password(self.url)}


# --- models, retrieval, download ---------------------------------------------------------------------------------

Texts = tuple[Annotated[str, Field(min_length=1)], ...]


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


def _host(text: str) -> str:
    normal = normal_host(text)
    if normal is None:
        raise PydanticCustomError(
            "host",
            "must be the name or address of a host, without scheme, port, path or `*` (it stands for its sub-domains, too)",
        )
    return normal


Host = Annotated[str, AfterValidator(_host)]
Pixels = Annotated[int, Field(ge=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
# What a corpus may know of an image, and a filter may ask for.
KnownField = Literal["width", "height", "nsfw", "licence", "language"]


class HitFilters(Settings):
    """What an image of the index must be to become a hit. Null asks for nothing.

    A filter lets pass what is known to meet it. Where the corpus does not say how wide an image is, a filter on the width leaves
    it out, unless `unknown_passes` lists `width`.

    Attributes:
        min_width: of the original, px; so are the next three.
        max_width: see `min_width`.
        min_height: see `min_width`.
        max_height: see `min_width`.
        max_aspect_ratio: the longer side over the shorter; unknown where a side is, and passes if `unknown_passes` lists both.
        nsfw: labels that pass, in whichever case (`[UNLIKELY]`).
        max_nsfw: the highest score that passes, of corpora that have scores. What has a label is unknown to it, and what has a
            score to `nsfw`, unless both are given.
        licences: that pass, in whichever case; `*` stands for anything (`["*creativecommons.org/licenses/by/*"]`). `?` and an
            empty text are unknown, of languages, too.
        languages: that pass, in the corpus's own codes (`[en, de]`).
        hosts: that pass, their sub-domains, too.
        refused_hosts: that do not, nor their sub-domains.
        min_similarity_images: of the hits of seed images, to the query (that the aesthetic embedding has moved).
        max_similarity_images: the same, at most: 0.95 leaves out what is all but the seed itself.
        min_similarity_prompts: of the hits of prompts, which lie far lower than those of images.
        max_similarity_prompts: the same, at most.
        unknown_passes: what an image may have unknown, and pass the filters on it: width, height, nsfw, licence, language.
    """

    min_width: Pixels | None = None
    max_width: Pixels | None = None
    min_height: Pixels | None = None
    max_height: Pixels | None = None
    max_aspect_ratio: float | None = Field(None, ge=1)
    nsfw: Texts | None = None
    max_nsfw: float | None = None
    licences: Texts | None = None
    languages: Texts | None = None
    hosts: tuple[Host, ...] | None = None
    refused_hosts: tuple[Host, ...] = ()
    min_similarity_images: Cosine | None = None
    max_similarity_images: Cosine | None = None
    min_similarity_prompts: Cosine | None = None
    max_similarity_prompts: Cosine | None = None
    unknown_passes: tuple[KnownField, ...] = ()

    @model_validator(mode="after")
    def _something_can_pass(self) -> "HitFilters":
        for name in ("nsfw", "licences", "languages", "hosts"):
            if getattr(self, name) == ():
                raise ValueError(
                    f"`{name}` is empty, so nothing would pass: list what may, or give null for no filter"
                )
        for name in ("width", "height", "similarity_images", "similarity_prompts"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{name} ({least}) is more than max_{name} ({most}): nothing would pass")
        return self


class RetrievalSettings(Settings):
    """How many images a query brings, from which index, and which.

    Of a query's images that are the same, by URL or by sha256 as far as the corpus has it, the most similar is its hit.

    Attributes:
        index: a name under `indices:`.
        images_per_query: hits a query, at most: no query has more in the set. So many are looked for that pass the filters and
            are no duplicates, until the index has no more.
        filters: which.
        near_duplicates: the cosine of two images' embeddings from which on the less similar to the query is no hit (0.94 is what
            clip-retrieval takes); local indices only.
        max_candidates: of the index that are looked at for a query, at most, or the ten thousand best of a service.
        aesthetic_score: 0 to 9: pull the results towards images rated so. A local index needs `aesthetic_embeddings`.
        aesthetic_weight: how strongly: the query becomes normalise(query + weight * embedding of the score).
    """

    index: str = "laion"
    images_per_query: int = Field(20, ge=1, le=100_000)
    filters: HitFilters = HitFilters()
    near_duplicates: float | None = Field(None, gt=0, le=1)
    max_candidates: int = Field(1_000_000, ge=1)
    aesthetic_score: int | None = Field(None, ge=0, le=9)
    aesthetic_weight: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _score_and_weight_go_together(self) -> "RetrievalSettings":
        given = [name for name in ("aesthetic_score", "aesthetic_weight") if getattr(self, name) is not None]
        if len(given) == 1:
            raise ValueError(
                f"`{given[0]}` has no effect alone: give `aesthetic_score` (9, for example) and `aesthetic_weight` (0.5), or neither"
            )
        return self


ResizeMode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]


class DownloadSettings(Settings):
    """How images are fetched, judged, resized and encoded.

    Attributes:
        image_size: pixels of the side that `resize_mode` speaks of.
        resize_mode: with img2dataset's meaning. `no`: as it is; `border`: the whole image in a white square;
            `keep_ratio`: the smaller side becomes image_size; `keep_ratio_largest`: the larger side does;
            `center_crop`: like keep_ratio, then the middle square.
        resize_only_if_bigger: leave images alone that are smaller than image_size.
        image_format: of the images in the table.
        quality: of the encoder, 1 to 100.
        min_image_size: pixels of the smaller side, at least.
        max_aspect_ratio: larger side over smaller side, at most.
        max_pixels: pixels of the original, at most; judged from the header, before decoding.
        max_bytes: bytes of the original, at most.
        timeout_s: seconds for one attempt, from connecting to the last byte.
        retries: further attempts after a failure that may pass.
        retry_failed_after_h: hours after which a later run tries again what failed in a way that may pass.
        give_up_after_d: days after the first failure of a URL. If an attempt fails so late, the failure counts as permanent.
        retry_permanent_after_d: days after which a later run asks again for what failed otherwise, or was given up.
        refetch_after_d: days after which a later run asks whether an image has changed (by ETag and Last-Modified,
            where the server gave them); null: never.
        max_redirects: redirects followed, at most.
        connections: images in flight at once.
        connections_per_host: of these, from one host.
        host_failures: failures in a row (no connection, or no whole answer in time) after which a host is left alone for the
            rest of the run; null: never. A time-out after redirects that used up more than half of the time does not count.
        user_agent: how the downloader introduces itself; robots.txt and X-Robots-Tag may name what stands before its `/`.
        contact: a mail address or a URL for those who run the servers; sent with the user_agent.
        robots_txt: whether a host's robots.txt is obeyed.
        x_robots_tag: whether an answer's X-Robots-Tag of noai, noimageai, noindex or noimageindex is obeyed.
        ports: that may be connected to at public addresses.
        allow_addresses: private or loopback networks that may be fetched from all the same: `127.0.0.1`,
            `10.0.0.0/8`, `[::1]`, each optionally with `:port`.
    """

    # Only what may pass, or is looked at again, could come out otherwise; a longer timeout must not fetch all anew.
    WITHOUT_EFFECT = frozenset(
        {
            "timeout_s",
            "retries",
            "retry_failed_after_h",
            "give_up_after_d",
            "retry_permanent_after_d",
            "refetch_after_d",
            "max_redirects",
            "connections",
            "connections_per_host",
            "host_failures",
            "user_agent",
            "contact",
            "robots_txt",
            "x_robots_tag",
        }
    )

    def fetch_effects(self) -> dict[str, Any]:
        """Those of the `effects` that decide what may be fetched at all, whatever is made of it then."""
        return self.model_dump(mode="json", include={"max_bytes", "allow_addresses", "ports"})

    image_size: int = Field(512, ge=1, le=16_384)
    resize_mode: ResizeMode = "center_crop"
    resize_only_if_bigger: bool = False
    image_format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = Field(95, ge=1, le=100)
    min_image_size: int = Field(0, ge=0)
    max_aspect_ratio: float | None = Field(None, ge=1)
    max_pixels: int = Field(100_000_000, ge=1)
    max_bytes: int = Field(50_000_000, ge=1)
    timeout_s: float = Field(10, gt=0)
    retries: int = Field(2, ge=0, le=20)
    retry_failed_after_h: float = Field(24, ge=0)
    give_up_after_d: float = Field(60, ge=0)
    retry_permanent_after_d: float = Field(90, ge=0)
    refetch_after_d: float | None = Field(None, ge=0)
    max_redirects: int = Field(5, ge=0, le=20)
    connections: int = Field(64, ge=1, le=4096)
    connections_per_host: int = Field(6, ge=1, le=4096)
    host_failures: int | None = Field(20, ge=1)
    user_agent: str = "sd_assets/0.1"
    contact: str | None = None
    robots_txt: bool = True
    x_robots_tag: bool = True
    ports: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = (80, 443)
    allow_addresses: tuple[str, ...] = ()

    @field_validator("user_agent")
    @classmethod
    def _names_itself(cls, value: str) -> str:
        if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
            raise ValueError(
                f"{value!r} can be no User-Agent: write a name and a version in plain ASCII, such as sd_assets/0.1"
            )
        return value

    @field_validator("contact")
    @classmethod
    def _can_be_written_to(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[!-~]+|(mailto:)?[!-~]+@[!-~]+", value):
            raise ValueError(
                f"{value!r} is no contact: write a mail address (who@example.org) or a URL (https://example.org/bot)"
            )
        return value

    @field_validator("allow_addresses")
    @classmethod
    def _addresses_parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_allowed_address(text)
        return value


def parse_allowed_address(text: str) -> tuple[str, int | None]:
    """`10.0.0.0/8`, `127.0.0.1:8000`, `[::1]:8000` -> (network, port or None).

    Raises:
        ValueError: the text is no address or network.
    """
    match = re.fullmatch(r"(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[\d./]+))(?::(?P<port>\d+))?", text)
    bare = (match["v6"] or match["v4"]) if match else text
    try:
        network = str(ipaddress.ip_network(bare, strict=False))
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no address or network: write 127.0.0.1, 10.0.0.0/8, 127.0.0.1:8000 or [::1]:8000"
        ) from error
    port = match and match["port"]
    return network, int(port) if port else None


# --- kNN indices -------------------------------------------------------------------------------------------------


class ClipRetrievalCorpus(Settings):
    """What `clip-retrieval inference` writes, and LAION-400M: `img_emb_N.npy` with `metadata_N.parquet`.

    Attributes:
        path: the folder; the files may lie in its sub-folders (`img_emb/`, `metadata/`, `images/` ...).
        vectors: of what: of the images (`img_emb_N.npy`) or of their texts (`text_emb_N.npy`).
        columns: of the metadata to keep, besides those that retrieval itself reads; null: all.
    """

    kind: Literal["clip-retrieval"]
    path: str
    vectors: Literal["image", "text"] = "image"
    columns: tuple[str, ...] | None = None


class DataCompCorpus(Settings):
    """DataComp and CommonPool: `UID.parquet` with `UID.npz`.

    Attributes:
        path: the folder; sub-folders are read, too.
        array: of the npz file: which CLIP, and whether of the image or the text.
        columns: of the metadata to keep, besides those that retrieval itself reads; null: all.
    """

    kind: Literal["datacomp"]
    path: str
    array: Literal["b32_img", "b32_txt", "l14_img", "l14_txt"] = "l14_img"
    columns: tuple[str, ...] | None = None


class ParquetCorpus(Settings):
    """Parquet files with a column of vectors: lists, of fixed size or not, of float16, float32 or float64.

    Attributes:
        path: a file, a folder (its sub-folders too) or a pattern such as `data/part-*.parquet`.
        vector_column: found when only one column holds lists of floats.
        url_column: found when it has a usual name (url, URL, image_url). If another one is named, `url` is kept as `corpus_url`.
        text_column: the column of the texts; found when it has a usual name (caption, TEXT, text, alt_text ...); likewise.
        columns: others to keep, besides those that retrieval itself reads; null: all.
    """

    kind: Literal["parquet"]
    path: str
    vector_column: str | None = None
    url_column: str | None = None
    text_column: str | None = None
    columns: tuple[str, ...] | None = None


class PartitionCorpus(Settings):
    """The seed images of an entry of the catalogue: its `seed_embeddings`, and what `seed_images` says of them.

    Retrieval answers with URLs, which are then downloaded. Seeds of `kind: urls` have theirs; of others it is to be said.

    Attributes:
        partition: the entry.
        base_url: for seeds of `kind: folder`: where a web server of yours serves that folder. A seed's URL is this
            and its path in the folder. An address such as 127.0.0.1 must be in `download: allow_addresses:`.
        downloads_of: another entry, where the seeds are its `downloaded_images` (say, `kind: parquet` over its folder): an
            image has the URL that it was downloaded from there.
    """

    kind: Literal["partition"]
    partition: str
    base_url: ServiceUrl | None = None
    downloads_of: str | None = None

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, value: str | None) -> str | None:
        if value is not None and "${" not in value and normal_url(value) is None:
            raise ValueError(f"{value!r} is no URL: write http:// or https://, a host, and the folder's path")
        return value


CorpusSettings = Annotated[
    ClipRetrievalCorpus | DataCompCorpus | ParquetCorpus | PartitionCorpus, Field(discriminator="kind")
]


def parse_bytes(size: str) -> int:
    """`4GB`, `512 MB`, `1.5TiB` -> bytes.

    Raises:
        ValueError: the text is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?\s*", size)
    count = match and float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ")
    if not match or not count or count < 1:
        raise ValueError(f"{size!r} is no size: write a number and MB, GB or TB, such as 4GB")
    return int(count)


class IndexBuildSettings(Settings):
    """How an index is built of a corpus.

    Attributes:
        factory: the kind of index as FAISS's index factory writes it (`Flat`, `IVF4096,Flat`, `IVF65536_HNSW32,SQfp16`,
            `OPQ64_256,IVF65536,PQ64x8`, `HNSW32`); null: chosen by the number of vectors and `memory`.
        memory: that the index may take when it is searched, from which the kind is chosen, and that training may take.
        training_rows: vectors that are sampled to train with; null: 64 for each list of the index.
        seed: of the sample.
        recall: that the number of lists to look into (`nprobe`, which the file keeps) is chosen for, as estimated of the
            10 nearest on the sample. Another one builds an index with lists anew; `nprobe:` of the index does not.
    """

    factory: str | None = None
    memory: str = "4GB"
    training_rows: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    recall: float = Field(0.95, gt=0, le=1)

    @property
    def memory_bytes(self) -> int:
        return parse_bytes(self.memory)

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        parse_bytes(value)
        return value


class FaissIndexSettings(Settings):
    """A local index in clip-retrieval's layout: `image.index` and `metadata/*.parquet`.

    Attributes:
        path: the folder.
        corpus: what `knn_index` builds it of; null: the folder is somebody else's, and only read.
        build: how it is built.
        clip: the CLIP that made the vectors, where neither the folder nor the corpus says it.
        nprobe: cells of an inverted file (IVF) that a query looks into: the more, the more it finds of what is nearest, and the
            slower; null: as the index file says. Where they hold fewer images than are asked for, it looks into more. Of no
            effect on indices without cells.
        ef_search: candidates that the walk through an HNSW graph keeps, likewise.
        aesthetic_embeddings: of the same CLIP, for `aesthetic_score`: a folder of `rating0.npy` to `rating9.npy`, as LAION's
            aesthetic-predictor has them, or a .npy file whose row is the score.
    """

    # What was built is in the identity of the folder, and what is to be built is in what `knn_index` is made from.
    WITHOUT_EFFECT = frozenset({"clip", "corpus", "build"})

    kind: Literal["faiss"]
    path: str
    corpus: CorpusSettings | None = None
    build: IndexBuildSettings = IndexBuildSettings()
    clip: ClipSettings | None = None
    nprobe: int | None = Field(None, ge=1)
    ef_search: int | None = Field(None, ge=1)
    aesthetic_embeddings: str | None = None


def _one_or_more(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("urls", "must be a URL, or a list of URLs")
    return value


class ServiceIndexSettings(ServiceSettings):
    """A clip-retrieval back end that somebody runs, or several that serve the same index.

    Attributes:
        url: of the server, with or without `/knn-service`; or a list of such URLs, over which queries are spread. The first
            names the index: when others come or go, no query is asked again.
        indice_name: which of its indices; null is the first.
        clip: the CLIP that made its vectors; null: unknown, so that only the dimension is checked, by the service.
        max_results: the most that the service gives a query, where it has such a limit.
    """

    WITHOUT_EFFECT = ServiceSettings.WITHOUT_EFFECT | {"clip"}

    kind: Literal["clip-retrieval"]
    url: Annotated[tuple[ServiceUrl, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
    indice_name: str | None = None
    clip: ClipSettings | None = None
    max_results: int | None = Field(None, ge=1)

    def effects(self) -> dict[str, Any]:
        """The first URL stands for all, and without a password."""
        return {**super().effects(), "url": without_password(self.url[0])}


IndexSettings = Annotated[FaissIndexSettings | ServiceIndexSettings, Field(discriminator="kind")]


# --- checks ------------------------------------------------------------------------------------------------------

TOTAL = "total"  # of a table's limits on failures: the one on all codes together
_TABLE_NAMES = tuple(table.name for table in TABLES)
Share = Annotated[float, Field(ge=0, le=1)]


def _known(what: str, names: Sequence[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise PydanticCustomError(
                "unknown_name", f"there is no {what} of this name; there are: {', '.join(names)}"
            )
        return name

    return AfterValidator(check)


def limits_by_code(limit: Any) -> Any:
    """A plain share of failures stands for the one on all codes together."""
    return {TOTAL: limit} if isinstance(limit, int | float) and not isinstance(limit, bool) else limit


def _limits_by_code(limit: Any) -> Any:
    limits = limits_by_code(limit)
    if not isinstance(limits, Mapping):
        raise PydanticCustomError(
            "failure_limits", "must be a share from 0 to 1, or a mapping of error codes (or total) to shares"
        )
    return limits


# What was taken down counts as no failure.
_LIMITED = (TOTAL, *(code for code in ErrorCode if code is not ErrorCode.BLOCKED))
FailureLimits = Annotated[
    dict[Annotated[str, _known("error code", _LIMITED)], Share], BeforeValidator(_limits_by_code)
]

# Where half of the rows failed, something is wrong with all of them; of the web, less can be asked.
MAX_FAILED: Final[Mapping[str, Mapping[str, float]]] = {
    **{name: {TOTAL: 0.5} for name in _TABLE_NAMES},
    # A model that answers NaN for some seeds is broken for all, or runs in a precision that it cannot bear.
    "seed_embeddings": {TOTAL: 0.5, ErrorCode.NOT_FINITE: 0.01},
    "downloaded_images": {TOTAL: 0.9},
}


class CheckSettings(Settings):
    """What the checks of a partition's tables let pass. Shares are from 0 (none) to 1 (all).

    A limit that says "stops" guards what would be wasted work: where it is passed, the run computes nothing that follows
    from the table. The others warn.

    Attributes:
        max_failed: stops: by table, the share of its rows that may have failed, altogether
            (`{downloaded_images: 0.95}`) or also by error code (`{downloaded_images: {total: 0.95, timeout: 0.3}}`).
            What is not named keeps its default: 0.5, 0.9 of downloaded_images; 0.01 for not_finite of seed_embeddings.
        norm_tolerance: stops: how far the length of an embedding may be from 1.
        max_queries_without_hits: stops: share of the queries that the index answered with nothing.
        min_median_similarity_images: stops: what the median similarity of the hits of seed images must reach. What is
            low depends on the CLIP and the index, so by default the distribution is only reported.
        min_median_similarity_prompts: the same for hits of prompts; they lie far lower than those of images.
        max_same_caption: stops: share of the captioned images to which the captioner may give one and the same caption;
            judged from ten captions on, and not for texts that seeds came with.
        max_repeated_captions: share of the captioned images whose caption another image has, too.
        max_images_with_one_text: of the images with several captions, the share whose captions may all be the same.
        min_caption_words: shorter captions are counted as too short. A Chinese or Japanese character counts as a word.
        max_caption_words: longer ones as too long; the text encoder of Stable Diffusion reads 75 tokens.
        max_captions_of_odd_length: share of the captions that may be too short or too long.
    """

    max_failed: dict[Annotated[str, _known("table", _TABLE_NAMES)], FailureLimits] = Field(
        default_factory=dict, validate_default=True
    )
    norm_tolerance: float = Field(0.001, ge=0)
    max_queries_without_hits: Share = 0.5
    min_median_similarity_images: float | None = Field(None, ge=-1, le=1)
    min_median_similarity_prompts: float | None = Field(None, ge=-1, le=1)
    max_same_caption: Share = 0.9
    max_repeated_captions: Share = 0.5
    max_images_with_one_text: Share = 0.5
    min_caption_words: int = Field(3, ge=0)
    max_caption_words: int = Field(75, ge=1)
    max_captions_of_odd_length: Share = 0.1

    @field_validator("max_failed")
    @classmethod
    def _others_keep_their_default(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        return {name: {**limits, **value.get(name, {})} for name, limits in MAX_FAILED.items()}

    @model_validator(mode="after")
    def _lengths_leave_room(self) -> "CheckSettings":
        if self.min_caption_words > self.max_caption_words:
            raise ValueError(
                f"min_caption_words ({self.min_caption_words}) is more than max_caption_words ({self.max_caption_words})"
            )
        return self


# --- what was taken down -----------------------------------------------------------------------------------------


def blocked_url(text: str) -> str:
    """A URL as `Blocked` wants it.

    Raises:
        PydanticCustomError: it is none; says what is allowed.
    """
    normal = normal_url(text)
    if normal is None:
        raise PydanticCustomError(
            "blocked_url",
            "must be a URL with http:// or https:// and a host; a whole host goes under `hosts:`",
        )
    return normal


def blocked_host(text: str) -> str:
    """A host as `Blocked` wants it. Raises PydanticCustomError, as `blocked_url` does."""
    if "://" in text:
        raise PydanticCustomError("blocked_host", "must be a host, and is a URL: that goes under `urls:`")
    return _host(text)


def blocked_image(text: str) -> str:
    """The sha256 of an image as `Blocked` wants it. Raises PydanticCustomError, as `blocked_url` does."""
    normal = normal_image(text)
    if normal is None:
        raise PydanticCustomError(
            "blocked_image",
            "must be the sha256 of the image's bytes, the image_id: 64 hexadecimal digits; these are {length} characters",
            {"length": len(text.strip())},
        )
    return normal


class BlockedSettings(Settings):
    """What was taken down or opted out, for all entries: gone from every table at its next refresh.

    Attributes:
        urls: of images; compared as `sd_assets.blocked` says.
        hosts: with all their sub-domains.
        images: the sha256 (hex) of images' bytes as they came: their `image_id`.
        file: a UTF-8 text file with more of them, one URL, host or sha256 a line; `#` begins a comment.
        delete_older_versions: kept older versions that hold any of it are deleted, too.
    """

    urls: tuple[Annotated[str, AfterValidator(blocked_url)], ...] = ()
    hosts: tuple[Annotated[str, AfterValidator(blocked_host)], ...] = ()
    images: tuple[Annotated[str, AfterValidator(blocked_image)], ...] = ()
    file: str | None = None
    delete_older_versions: bool = False

    @cached_property
    def list(self) -> Blocked:
        """What is on it; after `sd_assets.catalog` has read the file, that is in it."""
        return Blocked(self.urls, self.hosts, self.images)

    def effects(self) -> dict[str, Any]:
        """How many there are, and a digest: what is blocked is to be shown nowhere."""
        counts = {name: len(getattr(self, name)) for name in ("urls", "hosts", "images")}
        if not self.list:
            return {}
        return {
            "digest": self.list.digest,
            **counts,
            "delete_older_versions": self.delete_older_versions,
        }


# --- entries -----------------------------------------------------------------------------------------------------


NO_SEEDS = "a seed dataset needs `source:` (images), `prompts:`, or both"


class SeedDataset(Settings):
    """One entry, with the defaults merged in: one partition of every asset."""

    description: str = ""
    source: Source | None = None
    prompts: Prompts | None = None
    clip: ClipSettings
    captioner: CaptionerSettings = CaptionerSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    download: DownloadSettings = DownloadSettings()
    checks: CheckSettings = CheckSettings()

    @model_validator(mode="after")
    def _has_seeds(self) -> "SeedDataset":
        if self.source is None and self.prompts is None:
            raise ValueError(NO_SEEDS)
        return self
