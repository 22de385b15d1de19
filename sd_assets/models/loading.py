"""What CLIP encoders and captioners share: lazy loading, device and precision, identity, files of the Hub."""

import hashlib
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, TypeVar

from sd_assets.errors import ModelError
from sd_assets.views.text import one_line

PRECISIONS = ("float32", "float16", "bfloat16")

Parts = TypeVar("Parts")


class LazyModel(ABC, Generic[Parts]):
    """A model that is loaded once, at its first use, whichever thread comes first.

    Attributes:
        device: before `load()` what was asked for, after it what is used: `cuda`, `cuda:1`, `mps`, `cpu`.
        precision: likewise: `float32`, `float16` or `bfloat16`.
    """

    def __init__(self, device: str, precision: str) -> None:
        if precision not in ("auto", *PRECISIONS):
            raise ModelError(f"precision {precision!r} is unknown; there are: auto, {', '.join(PRECISIONS)}")
        self.device = device
        self.precision = precision
        self._asked = (device, precision)
        self._parts: Parts | None = None
        self._lock = threading.Lock()

    @property
    def precision_asked(self) -> str:
        """`auto`, or what was asked for."""
        return self._asked[1]

    @property
    @abstractmethod
    def identity(self) -> str:
        """Names the model and its weights."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The model as the catalogue names it."""

    def facts(self) -> dict[str, Any]:
        """What is used, for metadata: the model; where and how it runs, once it is loaded."""
        running = {} if self._parts is None else {"device": self.device, "precision": self.precision}
        # The identity of a folder is a digest, which tells nobody which model that is.
        model = self.identity if self.name in self.identity else f"{self.name} ({self.identity})"
        return {"model": model, **running}

    def load(self) -> None:
        """Loads the model; does nothing if it is there.

        Raises:
            ModelError: what is wrong with the model and what to do.
        """
        self._loaded()

    def _loaded(self) -> Parts:
        if self._parts is None:
            with self._lock:
                if self._parts is None:
                    device = pick_device(self.device)
                    precision = pick_precision(device, self.precision)
                    self._parts = self._load(device, precision)
                    self.device, self.precision = device, precision
        return self._parts

    @abstractmethod
    def _load(self, device: str, precision: str) -> Parts:
        """The model and what it needs, on the device."""

    def __getstate__(self) -> dict[str, Any]:
        # A worker on another machine has its own device and loads the weights itself.
        kept = {name: value for name, value in self.__dict__.items() if name not in ("_parts", "_lock")}
        kept["device"], kept["precision"] = self._asked
        return kept

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._parts = None
        self._lock = threading.Lock()


def pick_device(asked: str) -> str:
    """`asked`, or for `auto` the best there is: cuda, mps, cpu.

    Raises:
        ModelError: this machine has no such device.
    """
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if asked == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    kind = asked.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise ModelError(f"device {asked!r} is unknown; there are: auto, cpu, cuda, cuda:N, mps")
    if (kind == "cuda" and not cuda) or (kind == "mps" and not mps):
        raise ModelError(f"device {asked!r} was asked for, but torch finds none here: use `auto` or `cpu`")
    return asked


def pick_precision(device: str, asked: str) -> str:
    """`asked`, or for `auto` what is right for the device: half precision on cuda, float32 elsewhere.

    On cuda that is bfloat16 where the hardware has it (compute capability 8 and up), else float16.
    """
    if asked != "auto":
        return asked
    if not device.startswith("cuda"):
        return "float32"
    import torch

    return "bfloat16" if torch.cuda.get_device_capability(device)[0] >= 8 else "float16"


def padded_batches(items: Sequence[Any], size: int) -> Iterator[tuple[list[Any], int]]:
    """(items of one batch, how many of them count): a batch is filled up with its last item.

    To a multiple of 16, whatever `size` is: for other sizes some kernels treat the last rows in another way, and a
    row's bytes would depend on its place. Batches of one size take the same path through the kernels, so that a row's bytes do not depend on how many came
    with it. The filling is a copy of a real item, which ends its caption when that does.
    """
    for start in range(0, len(items), size):
        batch = list(items[start : start + size])
        count = len(batch)
        yield batch + [batch[-1]] * (-(-size // 16) * 16 - count), count


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


@lru_cache(maxsize=1024)
def _file_digest(path: str, size: int, modified: int) -> str:
    """Sha256 of a file. Weights are gigabytes: read them again only when size or time of change differ."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        ModelError: the model has no such file, is gated, or the Hub cannot be reached.
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
        raise ModelError(f"{where}: {filename} is not in the cache, and the Hub cannot be reached") from error
    except EntryNotFoundError as error:
        raise ModelError(f"{where} has no {filename}: it is not a model of this kind") from error
    except HfHubHTTPError as error:
        raise _refused(error, where, at.revision) from error


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
