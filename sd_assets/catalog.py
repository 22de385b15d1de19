"""seed_datasets.yaml -> `Catalog`: what is built, from what, with which models.

One entry under `seed_datasets:` is one partition. `defaults:` holds what entries share, `indices:` names the kNN
indices. `${NAME}` and `${NAME:-default}` expand from the environment; relative paths are relative to the file.
`blocked:` lists what was taken down, for all entries. A mistake is one `CatalogError` that lists every wrong field: file,
entry, field, what was given, what is allowed.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import PydanticCustomError

from sd_assets.errors import CatalogError
from sd_assets.mistakes import did_you_mean, explained, of_whole_model, shown
from sd_assets.settings import (
    NO_SEEDS,
    BlockedSettings,
    ClipSettings,
    FaissIndexSettings,
    FolderSource,
    IndexSettings,
    ParquetSource,
    PartitionCorpus,
    RetrievalSettings,
    ScoreModelSettings,
    ScoreSettings,
    SeedDataset,
    ServiceIndexSettings,
    Settings,
    UrlsSource,
    WebDatasetSource,
    blocked_host,
    blocked_image,
    blocked_url,
    limits_by_code,
)
from sd_assets.strict_yaml import read_yaml

CATALOG_VARIABLE = "SD_ASSETS_CATALOG"
_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_SLUG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Catalog(Settings):
    """Everything that `seed_datasets.yaml` says, checked."""

    path: Path
    indices: dict[str, IndexSettings]
    seed_datasets: dict[str, SeedDataset]
    blocked: BlockedSettings = BlockedSettings()

    def entry(self, name: str) -> SeedDataset:
        """The entry `name`.

        Raises:
            CatalogError: there is none.
        """
        try:
            return self.seed_datasets[name]
        except KeyError:
            known = ", ".join(self.seed_datasets)
            hint = did_you_mean(name, self.seed_datasets)
            raise CatalogError(
                f"{self.path}: there is no seed dataset {name!r}; there are: {known}{hint}"
            ) from None

    def sections(self, name: str) -> dict[str, dict[str, Any]]:
        """What the entry `name` says, as JSON, section by section; only what changes what comes out.

        An entry's `retrieval` brings the definition of its index along. `blocked` is the same for all entries.

        Raises:
            CatalogError: there is no such entry.
        """
        entry = self.entry(name)
        index = self.index(entry.retrieval.index)
        source = entry.source.effects() if entry.source else {}
        keep_out = entry.near_duplicates.keep_out
        if isinstance(entry.source, UrlsSource):
            source["download"] = entry.download.fetch_effects()
        return {
            "source": source,
            "prompts": entry.prompts.effects() if entry.prompts else {},
            "clip": entry.clip.effects(),
            "retrieval": {**entry.retrieval.effects(), "index_definition": index.effects()},
            "download": entry.download.effects(),
            "captioner": entry.captioner.effects(),
            "scores": entry.scores.effects(),
            "near_duplicates": entry.near_duplicates.effects(),
            "keep_out": keep_out.effects() if keep_out else {},
            "curation": entry.curation.effects(),
            "exports": entry.exports.effects(),
            "push_to_hub": entry.push_to_hub.effects() if entry.push_to_hub else {},
            "blocked": self.blocked.effects(),
        }

    def index(self, name: str) -> FaissIndexSettings | ServiceIndexSettings:
        """The index `name`; that it exists was checked when the catalogue was read."""
        return self.indices[name]

    def clip_of_corpus(self, name: str) -> ClipSettings | None:
        """The CLIP of the entry whose embeddings the index `name` is built of; None: it is built of no entry's."""
        index = self.indices[name]
        corpus = index.corpus if isinstance(index, FaissIndexSettings) else None
        return self.entry(corpus.partition).clip if isinstance(corpus, PartitionCorpus) else None

    def folder_index(self, name: str) -> FaissIndexSettings:
        """The index `name`, which is a folder: a partition of `knn_index`.

        Raises:
            CatalogError: there is none, or it is a service.
        """
        index = self.indices.get(name)
        if isinstance(index, FaissIndexSettings):
            return index
        folders = [known for known, it in self.indices.items() if isinstance(it, FaissIndexSettings)]
        what = (
            f"the index {name!r} is a service, which is built by those who run it"
            if index
            else f"there is no index {name!r}{did_you_mean(name, folders)}"
        )
        raise CatalogError(f"{self.path}: {what}; of `kind: faiss` there are: {', '.join(folders) or 'none'}")


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
        raw, mistakes = read_yaml(path)
    except FileNotFoundError:
        raise CatalogError(f"{path}: there is no catalogue here; set {CATALOG_VARIABLE} to yours") from None
    except OSError as error:
        raise CatalogError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(raw, path, mistakes)


def parse(raw: Any, path: Path, found: Sequence[str] = ()) -> Catalog:
    """Check a catalogue that was read from `path` already.

    Args:
        raw: what it says.
        path: for messages, and for what is relative to it.
        found: mistakes that reading it has found.

    Raises:
        CatalogError: with every mistake.
    """
    if not isinstance(raw, dict):
        raise CatalogError(f"{path}: must be a mapping with `seed_datasets:`, got {shown(raw)}")
    mistakes = list(found)
    for key in [key for key in raw if key not in _SECTIONS]:
        allowed = f"{', '.join(_SECTIONS)}{did_you_mean(key, _SECTIONS)}"
        mistakes.append(f"{key}: unknown section; allowed: {allowed}")
    sections = {name: _section(raw, name, mistakes) for name in _SECTIONS}
    indices = _indices(sections, path.parent, mistakes)
    entries = _entries(sections, path.parent, mistakes)
    blocked = _blocked(sections["blocked"], path.parent, mistakes)
    if mistakes:
        listed = "\n".join(f"  {mistake}" for mistake in mistakes)
        raise CatalogError(f"{path}: {len(mistakes)} mistake(s):\n{listed}")
    return Catalog(path=path, indices=indices, seed_datasets=entries, blocked=blocked)


_SECTIONS = ("defaults", "indices", "seed_datasets", "blocked")


def _section(raw: Mapping[str, Any], name: str, mistakes: list[str]) -> dict[str, Any]:
    section = raw.get(name) or {}
    if not isinstance(section, dict):
        mistakes.append(f"{name}: must be a mapping, got {shown(section)}")
        return {}
    return {key: _expand(value, f"{name}.{key}", mistakes) for key, value in section.items()}


def _indices(
    sections: Mapping[str, dict[str, Any]], base: Path, mistakes: list[str]
) -> dict[str, FaissIndexSettings | ServiceIndexSettings]:
    indices = {}
    for name, value in sections["indices"].items():
        holder, wrong = _checked(_IndexHolder, {"it": value})
        mistakes += _lines(f"indices.{name}", wrong)
        if not isinstance(name, str):
            mistakes.append(
                f"indices.{name}: the name must be a text; YAML reads it as {shown(name)}: put quotes around it"
            )
        elif "..." in name or not name.isprintable() or not name.strip():
            mistakes.append(
                f"indices.{shown(name)}: the name is a partition key: no `...`, no control characters, and not empty"
            )
        elif holder is not None:
            mistakes += _lines(f"indices.{name}", _unknown_partition(holder.it, sections["seed_datasets"]))
            indices[name] = _resolved(holder.it, base)
    return indices


def _entries(
    sections: Mapping[str, dict[str, Any]], base: Path, mistakes: list[str]
) -> dict[str, SeedDataset]:
    entries: dict[str, SeedDataset] = {}
    defaults = sections["defaults"]
    shared = _mistakes_in_defaults(defaults)
    own: list[str] = []
    for name, value in sections["seed_datasets"].items():
        where = f"seed_datasets.{name}"
        if not isinstance(name, str) or not _SLUG.fullmatch(name) or "..." in name:
            own.append(f"{where}: {_bad_name(name)}")
            continue
        if not isinstance(value, dict):
            own.append(f"{where}: must be a mapping, got {shown(value)}")
            continue
        merged = _merged(defaults, value)
        entry, wrong = _checked(SeedDataset, merged)
        wrong += [it for it in _wrong_as_a_whole(merged, sections["indices"]) if it not in wrong]
        if (
            entry is not None
            and entry.captioner.endpoint is None
            and (model := entry.captioner.model).count("/") > 1
            and not _is_local(model, base)
        ):
            wrong.append(
                ("captioner.model", f"there is no such folder, and a Hub id is org/model; got {shown(model)}")
            )
        # What is wrong in the defaults is said there, once, whatever entries it is merged into.
        shared |= {mistake: None for mistake in wrong if _is_inherited(mistake[0], defaults, value)}
        own += _lines(where, [mistake for mistake in wrong if mistake not in shared])
        if entry is not None:
            entries[name] = _resolved_entry(entry, base)
    own += _wrong_against(entries, sections["seed_datasets"])
    own += _thresholds_on_nothing(entries)
    mistakes += [*_lines("defaults", shared), *own]
    if not sections["seed_datasets"]:
        mistakes.append("seed_datasets: there is no entry; one entry is one partition")
    return entries


def _blocked(section: Mapping[str, Any], base: Path, mistakes: list[str]) -> BlockedSettings:
    """What is blocked, with what its file lists. A file that cannot be read is a mistake: not "nothing is blocked"."""
    settings, wrong = _checked(BlockedSettings, section)
    mistakes += _lines("blocked", wrong)
    settings = settings or BlockedSettings()
    file = section.get("file")
    if not isinstance(file, str):
        return settings
    try:
        path = Path(_resolve(base, require_set(file, "blocked.file")))
        listed, wrong_lines = _listed(path.read_bytes())
    except CatalogError as error:
        mistakes.append(str(error))
    except OSError as error:
        mistakes.append(f"blocked.file: cannot be read: {error.strerror}, got {shown(file)}")
    except UnicodeDecodeError as error:
        mistakes.append(f"blocked.file: {path} is not UTF-8 ({error.reason}): save it as UTF-8")
    else:
        mistakes += [f"blocked.file: {path}, {line}" for line in wrong_lines]
        both = {name: (*getattr(settings, name), *found) for name, found in listed.items()}
        return settings.model_copy(update={**both, "file": str(path)})
    return settings


# Of a file where every line is wrong.
_MAX_WRONG_LINES = 20


@lru_cache(maxsize=2)  # the sensors read the catalogue twice a minute
def _listed(data: bytes) -> tuple[dict[str, list[str]], list[str]]:
    """What a file of blocked URLs, hosts and images lists, by the field it belongs to, and what is wrong with its lines.

    Raises:
        UnicodeDecodeError: it is not UTF-8.
    """
    listed: dict[str, list[str]] = {"urls": [], "hosts": [], "images": []}
    wrong = []
    for number, line in enumerate(data.decode("utf-8-sig").splitlines(), 1):
        # A `#` within a URL is no comment.
        text = re.split(r"(?:^|\s)#", line, maxsplit=1)[0].strip()
        if text:
            field, check = _kind_of(text)
            try:
                listed[field].append(check(text))
            except PydanticCustomError as error:
                wrong.append(f"line {number}: {error.message()}, got {shown(text)}")
    if len(wrong) > _MAX_WRONG_LINES:
        wrong = [*wrong[:_MAX_WRONG_LINES], f"and {len(wrong) - _MAX_WRONG_LINES} more lines"]
    return listed, wrong


def _kind_of(line: str) -> tuple[str, Callable[[str], str]]:
    """The field that a line of the file belongs to, and what checks it."""
    if "://" in line:
        return "urls", blocked_url
    # No name of a host is one long word of such digits: a hash, whole or not.
    return ("images", blocked_image) if re.fullmatch(r"[0-9A-Fa-f]{33,}", line) else ("hosts", blocked_host)


class _IndexHolder(Settings):
    it: IndexSettings


T = TypeVar("T", bound=BaseModel)
# (field, what is wrong with it)
Mistake = tuple[str, str]


def _checked(model: type[T], value: Any) -> tuple[T | None, list[Mistake]]:
    """`value` as a `model`, or None and what is wrong with it."""
    try:
        return model.model_validate(value), []
    except ValidationError as error:
        return None, explained(error, model, skip="it")


def _lines(where: str, mistakes: Iterable[Mistake]) -> list[str]:
    return [f"{where}.{field}: {what}" if field else f"{where}: {what}" for field, what in mistakes]


def _mistakes_in_defaults(defaults: Mapping[str, Any]) -> dict[Mistake, None]:
    """Wrong fields of the defaults; what is missing in them, or fits only the whole entry, is left to the entries."""
    # An entry needs seeds.
    sample = {"prompts": {"texts": ["-"]}, **defaults}
    try:
        SeedDataset.model_validate(sample)
    except ValidationError as error:
        mistakes = zip(error.errors(), explained(error, SeedDataset), strict=True)
        return {mistake: None for item, mistake in mistakes if not of_whole_model(item)}
    return {}


def _is_inherited(field: str, defaults: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether an entry has a field from the defaults alone."""
    section, _, name = field.partition(".")
    if section not in defaults:
        return False
    own, shared = entry.get(section), defaults[section]
    if section not in entry:
        return not name or (isinstance(shared, Mapping) and name.partition(".")[0] in shared)
    return (
        bool(name)
        and isinstance(own, Mapping)
        and isinstance(shared, Mapping)
        and name in shared.keys() - own.keys()
    )


def _bad_name(name: Any) -> str:
    """What is wrong with the name of an entry, and a name that would do."""
    message = "the name is a folder and a partition key: letters, digits, `_`, `-`, `.` only"
    if not isinstance(name, str):
        return f"{message}; YAML reads it as {shown(name)}: put quotes around it, or take another name"
    better = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")
    return f"{message}, got {shown(name)}" + (f"; {better!r} would do" if better else "")


def _wrong_as_a_whole(merged: Mapping[str, Any], indices: Iterable[str]) -> Iterator[Mistake]:
    """What is seen of an entry whether or not its fields are right."""
    if merged.get("source") is None and merged.get("prompts") is None:
        yield "", NO_SEEDS
    retrieval = merged.get("retrieval", {})
    name = retrieval.get("index", RetrievalSettings().index) if isinstance(retrieval, Mapping) else None
    if isinstance(name, str) and name not in indices:
        listed = ", ".join(map(str, indices)) or "none"
        yield (
            "retrieval.index",
            f"there is no index {name!r} under `indices:`; there are: {listed}{did_you_mean(name, map(str, indices))}",
        )


def _wrong_against(entries: Mapping[str, SeedDataset], known: Iterable[str]) -> Iterator[str]:
    """Of `near_duplicates.against`: entries that are not there, and circles, in which every image would lose to another."""
    names = {name: {*entry.near_duplicates.against} - {name} for name, entry in entries.items()}
    for name, others in names.items():
        where = f"seed_datasets.{name}.near_duplicates.against"
        for other in sorted(others.difference(known)):
            listed = ", ".join(map(str, known))
            hint = did_you_mean(other, map(str, known))
            yield f"{where}: there is no seed dataset {other!r}; there are: {listed}{hint}"
        reached, todo = set[str](), [*others]
        while todo:
            if (other := todo.pop()) not in reached:
                reached.add(other)
                todo += names.get(other, ())
        if name in reached:
            yield f"{where}: it leads back to {name}, so that images of both would lose to each other: take one of the names away"


def _thresholds_on_nothing(entries: Mapping[str, SeedDataset]) -> Iterator[str]:
    """Thresholds on scores whose model an entry does not name: all of its pairs would have them unknown."""
    for name, entry in entries.items():
        for field in ("min", "max", "unknown_passes"):
            for score in ScoreSettings.model_fields:
                if score in getattr(entry.curation, field) and getattr(entry.scores, score) is None:
                    yield (
                        f"seed_datasets.{name}.curation.{field}: {score} is asked for, and nothing gives that score: name a model under "
                        f"`scores: {{{score}: ...}}`, or take it away here"
                    )


def _unknown_partition(
    index: FaissIndexSettings | ServiceIndexSettings, entries: Iterable[str]
) -> Iterator[Mistake]:
    """Of an index of embeddings of ours: entries that it names and that are not there."""
    corpus = index.corpus if isinstance(index, FaissIndexSettings) else None
    if not isinstance(corpus, PartitionCorpus):
        return
    for field in ("partition", "downloads_of"):
        name = getattr(corpus, field)
        if name is not None and name not in entries:
            listed = ", ".join(map(str, entries)) or "none"
            yield (
                f"corpus.{field}",
                f"there is no seed dataset {name!r}; there are: {listed}{did_you_mean(name, map(str, entries))}",
            )


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
            merged[key] = _over(kept, value)
        else:
            merged[key] = value
    return merged


def _over(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """`own` over `shared`, mapping in mapping: the limits of `checks`, see `limits_by_code`, and `filters` of `retrieval`."""
    merged = {**shared, **own}
    for name in shared.keys() & own.keys():
        if isinstance(shared[name], Mapping) or isinstance(own[name], Mapping):
            below, above = limits_by_code(shared[name]), limits_by_code(own[name])
            if isinstance(below, Mapping) and isinstance(above, Mapping):
                merged[name] = _over(below, above)
    return merged


# --- the environment and paths -----------------------------------------------------------------------------------


class _Expanded(str):
    """A text whose variables were expanded. Mistakes quote it as it was written: a value may be secret."""

    written: str

    def __new__(cls, text: str, written: str) -> "_Expanded":
        expanded = super().__new__(cls, text)
        expanded.written = written
        return expanded

    def __repr__(self) -> str:
        return repr(self.written)


def _expand(value: Any, where: str, mistakes: list[str]) -> Any:
    """`${NAME}` and `${NAME:-default}` in every text; an unset name without a default stays, see `require_set`."""
    if isinstance(value, str):
        if "${" in _VARIABLE.sub("", value):
            mistakes.append(
                f"{where}: a `${{` that begins no variable: write ${{NAME}} or ${{NAME:-default}}, got {shown(value)}"
            )
        expanded = _VARIABLE.sub(
            lambda match: (
                os.environ.get(match["name"])
                or (match["default"] if match["default"] is not None else match[0])
            ),
            value,
        )
        return value if expanded == value else _Expanded(expanded, value)
    if isinstance(value, list):
        return [_expand(item, f"{where}.{place}", mistakes) for place, item in enumerate(value)]
    if isinstance(value, dict):
        return {key: _expand(item, f"{where}.{key}", mistakes) for key, item in value.items()}
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


def require_secret_set(secret: SecretStr | None, where: str) -> None:
    """The same of a secret: the message quotes the variable that is not set, and nothing that may stand beside it.

    Raises:
        CatalogError: see `require_set`.
    """
    unset = secret.get_secret_value().partition("${")[2].partition("}")[0] if secret is not None else ""
    require_set(f"${{{unset}}}" if unset else "", where)


def _resolve(base: Path, text: str) -> str:
    return text if _VARIABLE.search(text) else str((base / Path(text).expanduser()).resolve())


def _resolved(
    index: FaissIndexSettings | ServiceIndexSettings, base: Path
) -> FaissIndexSettings | ServiceIndexSettings:
    """The index with every local path absolute."""
    update: dict[str, Any] = {}
    if index.clip is not None:
        update["clip"] = _resolved_clip(index.clip, base)
    if isinstance(index, FaissIndexSettings):
        update["path"] = _resolve(base, index.path)
        if index.aesthetic_embeddings is not None:
            update["aesthetic_embeddings"] = _resolve(base, index.aesthetic_embeddings)
        path = getattr(index.corpus, "path", None)
        if index.corpus is not None and path is not None:
            update["corpus"] = index.corpus.model_copy(update={"path": _resolve(base, path)})
    return index.model_copy(update=update)


def _resolved_clip(clip: ClipSettings, base: Path) -> ClipSettings:
    if clip.folder is None:
        return clip
    return clip.model_copy(update={"model": f"local-dir:{_resolve(base, clip.folder)}"})


def _is_local(model: str, base: Path) -> bool:
    """Whether a captioner is named by a folder: what starts with a dot or a slash, or is there. A Hub id is `org/model`."""
    return model.startswith((".", "/", "~", "${")) or (base / model).is_dir()


def _resolved_entry(entry: SeedDataset, base: Path) -> SeedDataset:
    """The entry with every local path absolute."""
    update: dict[str, Any] = {}
    path = getattr(entry.source, "path", None)
    if entry.source and path is not None:
        update["source"] = entry.source.model_copy(update={"path": _resolve(base, path)})
    if entry.prompts and entry.prompts.file:
        update["prompts"] = entry.prompts.model_copy(update={"file": _resolve(base, entry.prompts.file)})
    update["clip"] = _resolved_clip(entry.clip, base)
    if entry.exports.path is not None and not entry.exports.path.startswith("s3://"):
        update["exports"] = entry.exports.model_copy(update={"path": _resolve(base, entry.exports.path)})
    captioner = entry.captioner.model
    if entry.captioner.endpoint is None and _is_local(captioner, base):
        update["captioner"] = entry.captioner.model_copy(update={"model": _resolve(base, captioner)})
    keep_out = entry.near_duplicates.keep_out
    if isinstance(keep_out, FolderSource | ParquetSource | WebDatasetSource):
        kept_out = keep_out.model_copy(update={"path": _resolve(base, keep_out.path)})
        update["near_duplicates"] = entry.near_duplicates.model_copy(update={"keep_out": kept_out})
    update["scores"] = _resolved_scores(entry.scores, base)
    return entry.model_copy(update=update)


def _resolved_scores(scores: ScoreSettings, base: Path) -> ScoreSettings:
    def resolved(model: ScoreModelSettings | None) -> ScoreModelSettings | None:
        if model is not None and model.head is not None and model.hub_file is None:
            return model.model_copy(update={"head": _resolve(base, model.head)})
        if model is not None and model.model is not None and _is_local(model.model, base):
            return model.model_copy(update={"model": _resolve(base, model.model)})
        return model

    return ScoreSettings(aesthetic=resolved(scores.aesthetic), nsfw=resolved(scores.nsfw))
