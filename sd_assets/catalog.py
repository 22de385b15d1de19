"""seed_datasets.yaml -> `Catalog`: what is built, from what, with which models.

One entry under `seed_datasets:` is one partition. `defaults:` holds what entries share, `indices:` names the kNN
indices. `${NAME}` and `${NAME:-default}` expand from the environment; relative paths are relative to the file.
A mistake is one `CatalogError` that lists every wrong field: file, entry, field, what was given, what is allowed.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from sd_assets.errors import CatalogError
from sd_assets.settings import (
    FaissIndexSettings,
    FolderSource,
    IndexSettings,
    SeedDataset,
    ServiceIndexSettings,
    Settings,
)

CATALOG_VARIABLE = "SD_ASSETS_CATALOG"
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Catalog(Settings):
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

    def sections(self, name: str) -> dict[str, dict[str, Any]]:
        """What the entry `name` says, as JSON, section by section; only what changes what comes out.

        An entry's `retrieval` brings the definition of its index along.

        Raises:
            CatalogError: there is no such entry.
        """
        entry = self.entry(name)
        index = self.index(entry.retrieval.index)
        return {
            "source": entry.source.effects() if entry.source else {},
            "prompts": entry.prompts.effects() if entry.prompts else {},
            "clip": entry.clip.effects(),
            "retrieval": {**entry.retrieval.effects(), "index_definition": index.effects()},
            "download": entry.download.effects(),
            "captioner": entry.captioner.effects(),
        }

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
    shared = _mistakes_in_defaults(sections["defaults"])
    mistakes.extend(f"defaults.{mistake}" for mistake in sorted(shared))
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
        own: list[str] = []
        entry = _checked(SeedDataset, _merged(sections["defaults"], value), where, own)
        # What is wrong in the defaults is said there, once.
        mistakes.extend(mistake for mistake in own if mistake.removeprefix(f"{where}.") not in shared)
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


class _IndexHolder(Settings):
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
            if item["type"] == "union_tag_invalid":
                message = f"there is no kind {item['ctx']['tag']!r}; allowed: {item['ctx']['expected_tags']}"
            mistakes.append(
                f"{'.'.join([where, *steps])}: {message}{_allowed(model, item['type'], item['loc'])}{given}"
            )
        return None


# pydantic puts the tag of a union and our holder's field into the location; a reader of the YAML knows neither.
_INTERNAL_STEPS = ("it", "folder", "hub", "faiss", "clip-retrieval")
_MESSAGES = {
    "extra_forbidden": "unknown field",
    "missing": "this field is required",
    "union_tag_not_found": "`kind:` is required",
}


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


def _mistakes_in_defaults(defaults: Mapping[str, Any]) -> set[str]:
    """Wrong fields of the defaults; what is missing in them, or fits only the whole entry, is left to the entries."""
    # An entry needs seeds.
    sample = {"prompts": {"texts": ["-"]}, **defaults}
    try:
        SeedDataset.model_validate(sample)
    except ValidationError as error:
        mistakes: list[str] = []
        _checked(SeedDataset, sample, "", mistakes)
        kept = [item["type"] not in ("missing", "value_error") for item in error.errors()]
        return {mistake.removeprefix(".") for mistake, keep in zip(mistakes, kept, strict=True) if keep}
    return set()


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
