"""What an entry of the catalogue may say: one pydantic model per section, with its defaults, limits and meaning.

How a file is read, merged and expanded, and how its mistakes are reported, is in `sd_assets.catalog`.
"""

import ipaddress
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Settings(BaseModel):
    """Knows its fields and refuses others; does not change.

    Attributes:
        WITHOUT_EFFECT: fields that say how to work, not what comes out: timeouts, retries, batch sizes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset()

    def effects(self) -> dict[str, Any]:
        """The fields that change what comes out, as JSON."""
        return self.model_dump(mode="json", exclude=set(self.WITHOUT_EFFECT))


# --- where the seeds come from -----------------------------------------------------------------------------------


class FolderSource(Settings):
    """A folder of images, read by `datasets` as an imagefolder, with or without `metadata.jsonl`.

    Attributes:
        path: the folder; sub-folders are read too.
        text_column: the column of `metadata.jsonl` that holds the image's text; `text` if there is one.
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
        text_column: the column that holds the image's text, if any.
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


Source = Annotated[FolderSource | HubSource, Field(discriminator="kind")]


class Prompts(Settings):
    """Seed prompts: a template with lists, a plain list, a text file; any of them together, in this order.

    Attributes:
        template: a text with `{name}` fields; every other key of the mapping is the list of one field, and every
            combination of them is a prompt, the last field varying fastest.
        texts: a plain list of prompts.
        file: a UTF-8 text file, one prompt a line; blank lines are passed over.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

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
            raise ValueError(f"the list `{name}:` is used nowhere in the template {self.template!r}")
        if self.template is None and not self.texts and self.file is None:
            raise ValueError("give `template:` with its lists, `texts:` or `file:`")
        return self


# --- models, retrieval, download ---------------------------------------------------------------------------------


class ClipSettings(Settings):
    """Which CLIP embeds the seeds; it must be the one that made the index.

    Attributes:
        model: an open_clip name (`ViT-L-14`), `hf-hub:org/model` or `local-dir:path`.
        pretrained: the tag of the weights of an open_clip name (`openai`); none for the other two.
        batch_size: images or texts a forward pass; changes results in their last bits at most.
    """

    WITHOUT_EFFECT = frozenset({"batch_size"})

    model: str = "ViT-L-14"
    pretrained: str | None = None
    batch_size: int = Field(32, ge=1)

    @model_validator(mode="after")
    def _weights_are_named(self) -> "ClipSettings":
        prefixed = self.model.startswith(("hf-hub:", "local-dir:"))
        if prefixed and self.pretrained:
            raise ValueError(f"model {self.model!r} names its own weights: take `pretrained` away")
        if not prefixed and not self.pretrained:
            raise ValueError(
                f"model {self.model!r} has no weights: add `pretrained:` (for ViT-L-14, for example, openai), "
                "or use hf-hub:org/model or local-dir:path"
            )
        return self


class CaptionerSettings(Settings):
    """Which image-to-text model captions the images.

    Attributes:
        model: a Hub id (`org/model`) or a local folder.
        revision: a branch, tag or commit of the model's repository.
        max_new_tokens: the most tokens of a caption.
        prompt: a text that the caption continues (conditional captioning).
        batch_size: images a forward pass; changes what the model computes in the last bits at most.
    """

    WITHOUT_EFFECT = frozenset({"batch_size"})

    model: str = "Salesforce/blip-image-captioning-base"
    revision: str | None = None
    max_new_tokens: int = Field(50, ge=1, le=1000)
    prompt: str | None = None
    batch_size: int = Field(16, ge=1)


class RetrievalSettings(Settings):
    """How many images a query brings, and from which index.

    Attributes:
        index: a name under `indices:`.
        images_per_query: hits a query, at most.
        aesthetic_score: 0 to 9: pull the results towards images rated so (clip-retrieval services only).
        aesthetic_weight: how strongly.
    """

    index: str = "laion"
    images_per_query: int = Field(20, ge=1, le=100_000)
    aesthetic_score: int | None = Field(None, ge=0, le=9)
    aesthetic_weight: float | None = Field(None, ge=0)


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
        max_redirects: redirects followed, at most.
        connections: images in flight at once.
        user_agent: how the downloader introduces itself.
        allow_addresses: private or loopback networks that may be fetched from all the same: `127.0.0.1`,
            `10.0.0.0/8`, `[::1]`, each optionally with `:port`.
    """

    # Only what may pass, or is looked at again, could come out otherwise; a longer timeout must not fetch all anew.
    WITHOUT_EFFECT = frozenset(
        {"timeout_s", "retries", "retry_failed_after_h", "max_redirects", "connections", "user_agent"}
    )

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
    max_redirects: int = Field(5, ge=0, le=20)
    connections: int = Field(64, ge=1, le=4096)
    user_agent: str = "sd_assets/0.1"
    allow_addresses: tuple[str, ...] = ()

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


class FaissIndexSettings(Settings):
    """A local index in clip-retrieval's layout: `image.index` and `metadata/*.parquet`."""

    kind: Literal["faiss"]
    path: str


class ServiceIndexSettings(Settings):
    """A clip-retrieval back end that somebody runs.

    Attributes:
        url: of the server, with or without `/knn-service`.
        indice_name: which of its indices; null is the first.
        timeout_s: seconds for one query.
        retries: further attempts for a query that failed in a way that may pass.
        connections: queries in flight at once.
    """

    WITHOUT_EFFECT = frozenset({"timeout_s", "retries", "connections"})

    kind: Literal["clip-retrieval"]
    url: str
    indice_name: str | None = None
    timeout_s: float = Field(30, gt=0)
    retries: int = Field(2, ge=0, le=20)
    connections: int = Field(8, ge=1, le=256)


IndexSettings = Annotated[FaissIndexSettings | ServiceIndexSettings, Field(discriminator="kind")]


# --- entries -----------------------------------------------------------------------------------------------------


class SeedDataset(Settings):
    """One entry, with the defaults merged in: one partition of every asset."""

    description: str = ""
    source: Source | None = None
    prompts: Prompts | None = None
    clip: ClipSettings
    captioner: CaptionerSettings = CaptionerSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    download: DownloadSettings = DownloadSettings()

    @model_validator(mode="after")
    def _has_seeds(self) -> "SeedDataset":
        if self.source is None and self.prompts is None:
            raise ValueError("a seed dataset needs `source:` (images), `prompts:`, or both")
        return self
