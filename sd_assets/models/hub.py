"""What the name of a model means: a folder and a digest of its files, or a commit of the Hub and its files."""

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from sd_assets.errors import ModelError
from sd_assets.views.text import one_line


def folder_digest(folder: Path) -> str:
    """16 hex digits over the names and contents of a model's files, wherever the folder lies.

    Hidden files and Markdown do not count: they change nothing in the model.

    Raises:
        ModelError: there is no such folder, or it holds no files.
    """
    if not folder.is_dir():
        raise ModelError(
            f"the model folder {folder} does not exist: give the folder that holds its weights and config"
        )
    total = hashlib.sha256()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _counts(path.relative_to(folder)))
    if not files:
        raise ModelError(
            f"the model folder {folder} is empty: give the folder that holds its weights and config"
        )
    for path in files:
        status = path.stat()
        digest = _file_digest(str(path), status.st_size, status.st_mtime_ns)
        total.update(f"{path.relative_to(folder).as_posix()}\0{digest}\n".encode("utf-8", "surrogateescape"))
    return total.hexdigest()[:16]


def _counts(path: Path) -> bool:
    return path.suffix.lower() != ".md" and not any(part.startswith(".") for part in path.parts)


def file_digest(file: Path, where: str) -> str:
    """16 hex digits over the content of one file.

    Raises:
        ModelError: there is no such file.
    """
    try:
        status = file.stat()
        return _file_digest(str(file), status.st_size, status.st_mtime_ns)[:16]
    except OSError as error:
        raise ModelError(
            f"{where}: {file} cannot be read ({error.strerror}): give the file that holds its weights"
        ) from error


@lru_cache(maxsize=1024)
def _file_digest(path: str, size: int, modified: int) -> str:
    """Sha256 of a file. Weights are gigabytes: read them again only when size or time of change differ."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class NoSuchFileError(ModelError):
    """A Hub model has no file of this name, as far as can be known."""


@dataclass(frozen=True)
class HubCommit:
    """One state of a model on the Hub.

    Attributes:
        model: its id.
        revision: the name by which it was asked for: a branch, a tag, a commit; None is the branch `main`.
        commit: what that name means.
        online: whether the Hub said so; else its cache on this machine did, and has all there is.
    """

    model: str
    revision: str | None
    commit: str
    online: bool


def hub_commit(model: str, revision: str | None, files: Sequence[str], where: str) -> HubCommit:
    """What `revision` of a Hub model means now.

    Without the Hub, the commit that its cache on this machine knows under that name, if it holds one of `files`.

    Raises:
        ModelError: no such model or revision, gated, private, or neither reachable nor in the cache.
    """
    from huggingface_hub import HfApi, try_to_load_from_cache
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        # Much quicker to fail than a download, which tries for half a minute.
        api = HfApi()
        info = api.model_info(model, revision=revision, timeout=20)
        if info.gated:  # of such a one everybody is told, but not everybody gets its files
            api.auth_check(model)
        return HubCommit(model, revision, str(info.sha), online=True)
    except HFValidationError as error:
        raise ModelError(
            f"{where}: it is neither a Hub id (`org/model`) nor a folder here: {error}"
        ) from error
    except HfHubHTTPError as error:
        if error.response is not None and error.response.status_code < 500:
            raise _refused(error, where, revision) from error
        cause: Exception = error
    except Exception as error:
        cause = error
    for file in files:
        cached = try_to_load_from_cache(model, file, revision=revision)
        if isinstance(cached, str):
            return HubCommit(model, revision, Path(cached).parent.name, online=False)
    raise ModelError(
        f"{where} is not in the Hub's cache on this machine, and the Hub cannot be reached ({one_line(cause)}): check "
        "the network and HF_ENDPOINT, fetch it where there is one (`hf download`), or name a local folder"
    ) from cause


def hub_file(at: HubCommit, filename: str, where: str) -> Path:
    """One small file of a Hub model, from the cache if it is there.

    Raises:
        ModelError: the model has no such file (`NoSuchFileError`), is gated, or the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        if at.online:
            # By the revision's name: so the cache learns what it means, for when the Hub cannot be asked.
            named = Path(hf_hub_download(at.model, filename, revision=at.revision))
            if named.parent.name == at.commit:
                return named
        return Path(hf_hub_download(at.model, filename, revision=at.commit, local_files_only=not at.online))
    except LocalEntryNotFoundError as error:
        raise NoSuchFileError(
            f"{where}: {filename} is not in the cache, and the Hub cannot be reached"
        ) from error
    except EntryNotFoundError as error:
        raise NoSuchFileError(f"{where} has no {filename}: it is not a model of this kind") from error
    except HfHubHTTPError as error:
        raise _refused(error, where, at.revision) from error


def first_hub_file(at: HubCommit, filenames: Sequence[str], where: str) -> Path:
    """Of several small files the first that a Hub model has.

    Raises:
        ModelError: it has none of them (`NoSuchFileError`), is gated, or the Hub cannot be reached.
    """
    for filename in filenames:
        with contextlib.suppress(NoSuchFileError):
            return hub_file(at, filename, where)
    raise NoSuchFileError(f"{where} has neither {' nor '.join(filenames)}: it is not a model of this kind")


def hub_folder(at: HubCommit, patterns: Sequence[str], where: str) -> Path:
    """The files of a Hub model whose names match, as a folder in its cache; those that are there are not fetched again.

    Raises:
        ModelError: gated, or the Hub failed in the middle.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(
            snapshot_download(
                at.model, revision=at.commit, allow_patterns=list(patterns), local_files_only=not at.online
            )
        )
    except HfHubHTTPError as error:
        raise _refused(error, where, at.revision) from error
    except Exception as error:
        raise ModelError(f"{where} could not be fetched: {one_line(error)}. Run it again") from error


def _refused(error: Exception, where: str, revision: str | None) -> ModelError:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        todo = "is gated: accept its terms on its page, then set HF_TOKEN to a token of that account"
    elif isinstance(error, RevisionNotFoundError):
        todo = f"has no revision {revision!r}: name a branch, a tag or a commit of it"
    elif isinstance(error, RepositoryNotFoundError):
        todo = "does not exist on the Hub, or is private: check the id, or set HF_TOKEN to a token that may read it"
    elif getattr(getattr(error, "response", None), "status_code", None) == 401:
        todo = "was refused: the Hub does not accept the token that HF_TOKEN (or `hf auth login`) gives: renew it, or for a public model take it away"
    else:
        todo = f"was refused by the Hub: {one_line(error)}"
    return ModelError(f"{where} {todo}")


def is_folder(model: str) -> bool:
    """Whether a model's name is meant as a folder of this machine, be it there or not."""
    return model.startswith((".", "/", "~", os.sep)) or Path(model).is_dir()
