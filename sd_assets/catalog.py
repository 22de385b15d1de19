"""seed_datasets.yaml -> `Catalog`: what is built, from what, with which models.

One entry under `seed_datasets:` is one partition. `defaults:` holds what entries share, `indices:` names the kNN
indices. `${NAME}` and `${NAME:-default}` expand from the environment; relative paths are relative to the file.
A mistake is one `CatalogError` that lists every wrong field: file, entry, field, what was given, what is allowed.
"""

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from sd_assets.errors import CatalogError

CATALOG_VARIABLE = "SD_ASSETS_CATALOG"
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


# --- where the seeds come from -----------------------------------------------------------------------------------


class FolderSource(_Settings):
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


class HubSource(_Settings):
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


class Prompts(_Settings):
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


class ClipSettings(_Settings):
    """Which CLIP embeds the seeds; it must be the one that made the index.

    Attributes:
        model: an open_clip name (`ViT-L-14`), `hf-hub:org/model` or `local-dir:path`.
        pretrained: the tag of the weights of an open_clip name (`openai`); none for the other two.
        batch_size: images or texts a forward pass; does not change the result.
    """

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


class CaptionerSettings(_Settings):
    """Which image-to-text model captions the images.

    Attributes:
        model: a Hub id (`org/model`) or a local folder.
        revision: a branch, tag or commit of the model's repository.
        max_new_tokens: the most tokens of a caption.
        prompt: a text that the caption continues (conditional captioning).
        batch_size: images a forward pass; does not change the result.
    """

    model: str = "Salesforce/blip-image-captioning-base"
    revision: str | None = None
    max_new_tokens: int = Field(50, ge=1, le=1000)
    prompt: str | None = None
    batch_size: int = Field(16, ge=1)


class RetrievalSettings(_Settings):
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


class DownloadSettings(_Settings):
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


class FaissIndexSettings(_Settings):
    """A local index in clip-retrieval's layout: `image.index` and `metadata/*.parquet`."""

    kind: Literal["faiss"]
    path: str


class ServiceIndexSettings(_Settings):
    """A clip-retrieval back end that somebody runs.

    Attributes:
        url: of the server, with or without `/knn-service`.
        indice_name: which of its indices; null is the first.
        timeout_s: seconds for one query.
        retries: further attempts for a query that failed in a way that may pass.
        connections: queries in flight at once.
    """

    kind: Literal["clip-retrieval"]
    url: str
    indice_name: str | None = None
    timeout_s: float = Field(30, gt=0)
    retries: int = Field(2, ge=0, le=20)
    connections: int = Field(8, ge=1, le=256)


IndexSettings = Annotated[FaissIndexSettings | ServiceIndexSettings, Field(discriminator="kind")]


# --- entries -----------------------------------------------------------------------------------------------------


class SeedDataset(_Settings):
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


class Catalog(_Settings):
    """Everything that `seed_datasets.yaml` says, checked."""

    path: Path
    indices: dict[str, IndexSettings]
    seed_datasets: dict[str, SeedDataset]

    def entry(self, name: str) -> SeedDataset:
        """The entry `name`.

        Raises:
            CatalogError: there is none.
        """
        try:
            return self.seed_datasets[name]
        except KeyError:
            known = ", ".join(self.seed_datasets)
            raise CatalogError(
                f"{self.path}: there is no seed dataset {name!r}; there are: {known}"
            ) from None

    def index(self, name: str) -> FaissIndexSettings | ServiceIndexSettings:
        """The index `name`; that it exists was checked when the catalogue was read."""
        return self.indices[name]


def default_path() -> Path:
    """The catalogue that `SD_ASSETS_CATALOG` names, or `seed_datasets.yaml` at the top of the project."""
    named = os.environ.get(CATALOG_VARIABLE)
    return Path(named) if named else Path(__file__).parent.parent / "seed_datasets.yaml"


def load(path: Path | None = None) -> Catalog:
    """Read and check a catalogue.

    Raises:
        CatalogError: with every mistake of the file.
    """
    path = (path or default_path()).resolve()
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        raise CatalogError(f"{path}: there is no catalogue here; set {CATALOG_VARIABLE} to yours") from None
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise CatalogError(f"{path}: cannot be read as YAML: {error}") from error
    return parse(raw, path)


def parse(raw: Any, path: Path) -> Catalog:
    """Check a catalogue that was read from `path` already. Raises `CatalogError`."""
    if not isinstance(raw, dict):
        raise CatalogError(f"{path}: must be a mapping with `seed_datasets:`, got {_shown(raw)}")
    mistakes = [
        f"{key}: unknown section; allowed: defaults, indices, seed_datasets"
        for key in raw
        if key not in _SECTIONS
    ]
    sections: dict[str, dict[str, Any]] = {}
    for name in _SECTIONS:
        section = raw.get(name) or {}
        if not isinstance(section, dict):
            mistakes.append(f"{name}: must be a mapping, got {_shown(section)}")
            section = {}
        sections[name] = _expand(section)
    base = path.parent
    indices: dict[str, FaissIndexSettings | ServiceIndexSettings] = {}
    for name, value in sections["indices"].items():
        index = _checked(_IndexHolder, {"it": value}, f"indices.{name}", mistakes)
        if index is not None:
            indices[name] = _resolved(index.it, base)
    entries: dict[str, SeedDataset] = {}
    for name, value in sections["seed_datasets"].items():
        where = f"seed_datasets.{name}"
        if not isinstance(name, str) or not _SLUG.fullmatch(name) or "..." in name:
            mistakes.append(
                f"{where}: the name is a folder and a partition key: letters, digits, `_`, `-`, `.` only"
            )
            continue
        if not isinstance(value, dict):
            mistakes.append(f"{where}: must be a mapping, got {_shown(value)}")
            continue
        entry = _checked(SeedDataset, _merged(sections["defaults"], value), where, mistakes)
        if entry is None:
            continue
        if entry.retrieval.index not in sections["indices"]:
            known = ", ".join(sections["indices"]) or "none"
            mistakes.append(
                f"{where}.retrieval.index: there is no index {entry.retrieval.index!r} under `indices:`; there are: {known}"
            )
        entries[name] = _resolved_entry(entry, base)
    if not sections["seed_datasets"]:
        mistakes.append("seed_datasets: there is no entry; one entry is one partition")
    if mistakes:
        listed = "\n".join(f"  {mistake}" for mistake in mistakes)
        raise CatalogError(f"{path}: {len(mistakes)} mistake(s):\n{listed}")
    return Catalog(path=path, indices=indices, seed_datasets=entries)


_SECTIONS = ("defaults", "indices", "seed_datasets")


class _IndexHolder(_Settings):
    it: IndexSettings


T = TypeVar("T", bound=BaseModel)


def _checked(model: type[T], value: Any, where: str, mistakes: list[str]) -> T | None:
    """`value` as a `model`, or None and one line a wrong field added to `mistakes`."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for item in error.errors():
            steps = [str(step) for step in item["loc"] if step not in _INTERNAL_STEPS]
            given = "" if item["type"] in ("missing", "value_error") else f", got {_shown(item['input'])}"
            message = _MESSAGES.get(item["type"], item["msg"].removeprefix("Value error, "))
            mistakes.append(
                f"{'.'.join([where, *steps])}: {message}{_allowed(model, item['type'], item['loc'])}{given}"
            )
        return None


# pydantic puts the tag of a union and our holder's field into the location; a reader of the YAML knows neither.
_INTERNAL_STEPS = ("it", "folder", "hub", "faiss", "clip-retrieval")
_MESSAGES = {"extra_forbidden": "unknown field", "missing": "this field is required"}


def _allowed(model: type[BaseModel], kind: str, location: tuple[int | str, ...]) -> str:
    """For an unknown field: which there are at that place."""
    if kind != "extra_forbidden":
        return ""
    fields = _fields_at(model, location[:-1])
    return f"; allowed: {', '.join(fields)}" if fields else ""


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    here: list[type[BaseModel]] = [model]
    for step in location:
        found: list[type[BaseModel]] = []
        for candidate in here:
            tag = candidate.model_fields.get("kind")
            if tag is not None and step in get_args(tag.annotation):
                found = [candidate]
                break
            field = candidate.model_fields.get(str(step))
            if field is not None:
                found.extend(_models_in(field.annotation))
        here = found
    return sorted({name for candidate in here for name in candidate.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _merged(defaults: Mapping[str, Any], entry: Mapping[str, Any]) -> dict[str, Any]:
    """The entry over the defaults, mapping by mapping. A `clip` that names another model drops the default weights."""
    merged = dict(defaults)
    for key, value in entry.items():
        shared = merged.get(key)
        if isinstance(shared, Mapping) and isinstance(value, Mapping):
            kept = {
                name: it
                for name, it in shared.items()
                if not (name in ("pretrained", "revision") and "model" in value)
            }
            merged[key] = {**kept, **value}
        else:
            merged[key] = value
    return merged


# --- the environment and paths -----------------------------------------------------------------------------------


def _expand(value: Any) -> Any:
    """`${NAME}` and `${NAME:-default}` in every text; an unset name without a default stays, see `require_set`."""
    if isinstance(value, str):
        return _VARIABLE.sub(
            lambda match: (
                os.environ.get(match["name"])
                or (match["default"] if match["default"] is not None else match[0])
            ),
            value,
        )
    if isinstance(value, list):
        return [_expand(item) for item in value]
    if isinstance(value, dict):
        return {key: _expand(item) for key, item in value.items()}
    return value


def require_set(text: str, where: str) -> str:
    """`text`, unless it holds a variable that is not set. An entry whose variables are unset hurts nobody until it is used.

    Raises:
        CatalogError: names the variable, and where it is used.
    """
    match = _VARIABLE.search(text)
    if match:
        raise CatalogError(
            f"{where} is {text!r}, and the environment variable {match['name']} is not set: export {match['name']}=..."
        )
    return text


def _resolve(base: Path, text: str) -> str:
    return text if _VARIABLE.search(text) else str((base / Path(text).expanduser()).resolve())


def _resolved(
    index: FaissIndexSettings | ServiceIndexSettings, base: Path
) -> FaissIndexSettings | ServiceIndexSettings:
    if isinstance(index, FaissIndexSettings):
        return index.model_copy(update={"path": _resolve(base, index.path)})
    return index


def _resolved_entry(entry: SeedDataset, base: Path) -> SeedDataset:
    """The entry with every local path absolute."""
    update: dict[str, Any] = {}
    if isinstance(entry.source, FolderSource):
        update["source"] = entry.source.model_copy(update={"path": _resolve(base, entry.source.path)})
    if entry.prompts and entry.prompts.file:
        update["prompts"] = entry.prompts.model_copy(update={"file": _resolve(base, entry.prompts.file)})
    prefix, _, folder = entry.clip.model.partition("local-dir:")
    if not prefix and folder:
        update["clip"] = entry.clip.model_copy(update={"model": f"local-dir:{_resolve(base, folder)}"})
    # A Hub id is `name` or `org/name`; what starts with a dot or a slash, or is there, is a folder.
    captioner = entry.captioner.model
    if captioner.startswith((".", "/", "~")) or (base / captioner).is_dir():
        update["captioner"] = entry.captioner.model_copy(update={"model": _resolve(base, captioner)})
    return entry.model_copy(update=update)
