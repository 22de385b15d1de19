"""A dataset repository of the Hub as the folder of an export: it is read as its newest commit, and what a run writes is one more."""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from sd_assets.errors import HubError
from sd_assets.exports.folder import ExportFolder, Pieces
from sd_assets.views.text import one_line

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd

RECORD: Final = "sd_assets.json"
# What the Hub puts into a repository that is new.
_OF_THE_HUB: Final = frozenset({".gitattributes"})
_TIMEOUT_S: Final = 30
# Where the files of an export lie.
DATA: Final = "data"


class DatasetRepository:
    """The newest commit of the branch `main`, and the changes that the next one will make.

    Large files are uploaded when they are put: what a run that was killed has uploaded need not be sent again. They belong to
    the repository with the commit, and until then nobody sees them. The token is `HF_TOKEN`, or that of `hf auth login`.

    Args:
        repo_id: `owner/name`.
        private: whether it is to be private, and made so if it is not there.
        create: whether it is made if it is not there; else it is then like one that is empty.

    Raises:
        HubError: no access, or it is public and must not be; says what to do.
    """

    def __init__(self, repo_id: str, *, private: bool, create: bool = True) -> None:
        from huggingface_hub import HfApi, RepoFile
        from huggingface_hub.errors import RepositoryNotFoundError
        from huggingface_hub.utils.tqdm import disable_progress_bars

        disable_progress_bars()  # in the log of a run they are noise
        self.repo_id = repo_id
        self._api = HfApi()
        self._head = ""
        self._sizes: dict[str, int] = {}
        self._put: dict[str, CommitOperationAdd] = {}
        self._deleted: set[str] = set()
        with self._explained():
            try:
                info = self._api.dataset_info(repo_id, timeout=_TIMEOUT_S)
            except RepositoryNotFoundError:
                if not create:
                    return
                self._api.create_repo(repo_id, repo_type="dataset", private=private)
                info = self._api.dataset_info(repo_id, timeout=_TIMEOUT_S)
            self._head = str(info.sha)
            listed = self._api.list_repo_tree(
                repo_id, recursive=True, revision=self._head, repo_type="dataset"
            )
            self._sizes = {it.path: it.size for it in listed if isinstance(it, RepoFile)}
        if private and not info.private:
            raise HubError(
                f"{self}: it is public, and `push_to_hub:` has `private: true`: make it private in its settings on the Hub, "
                "or set `private: false`"
            )

    def __str__(self) -> str:
        return f"the Hub dataset {self.repo_id!r}"

    @property
    def uri(self) -> str:
        """As `pandas` and DuckDB read it."""
        return f"hf://datasets/{self.repo_id}"

    @property
    def url(self) -> str:
        """Its page on the Hub."""
        return f"{self._api.endpoint}/datasets/{self.repo_id}"

    @property
    def head(self) -> str:
        """The newest commit."""
        return self._head

    @property
    def files(self) -> list[str]:
        """The files of the newest commit besides those that the Hub puts into a new repository; sorted."""
        return sorted(self._sizes.keys() - _OF_THE_HUB)

    def names(self, folder: str) -> list[str]:
        """The names of the files directly in a folder, after the changes; sorted."""
        paths = (self._sizes.keys() | self._put.keys()) - self._deleted
        there = (path.rpartition("/") for path in paths)
        return sorted(name for parent, _, name in there if parent == folder)

    def sizes(self, folder: str) -> dict[str, int]:
        """The names of the files directly in a folder, after the changes, and the bytes of each; sorted."""
        put = {path: addition.upload_info.size for path, addition in self._put.items()}
        return {name: (self._sizes | put)[f"{folder}/{name}"] for name in self.names(folder)}

    def get(self, path: str) -> bytes | None:
        """A small file of the newest commit; None: there is none. What was put is not seen."""
        if path not in self._sizes:
            return None
        with self._explained():
            file = self._api.hf_hub_download(self.repo_id, path, repo_type="dataset", revision=self._head)
        return Path(file).read_bytes()

    def put(self, path: str, data: bytes) -> None:
        """Let the next commit have a file. Raises HubError if it cannot be uploaded."""
        from huggingface_hub import CommitOperationAdd

        addition = CommitOperationAdd(path, data)
        with self._explained():
            # Forgets what it has uploaded: a file at a time is held.
            self._api.preupload_lfs_files(self.repo_id, [addition], repo_type="dataset")
        self._put[path] = addition
        self._deleted.discard(path)

    def delete(self, path: str) -> None:
        """Let the next commit not have a file."""
        self._put.pop(path, None)
        if path in self._sizes:
            self._deleted.add(path)

    def commit(self, message: str) -> str:
        """Commit all changes at once; the new commit.

        Raises:
            HubError: somebody else has committed since this was opened, or the Hub failed.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        operations: list[CommitOperationAdd | CommitOperationDelete] = [
            *self._put.values(),
            *(CommitOperationDelete(path) for path in sorted(self._deleted)),
        ]
        with self._explained():
            made = self._api.create_commit(
                self.repo_id,
                operations,
                commit_message=message,
                repo_type="dataset",
                parent_commit=self._head,
            )
        self._head = str(made.oid)
        return self._head

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Whatever the client raises as a HubError that says what to do."""
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError

        try:
            yield
        except HFValidationError as error:
            raise HubError(f"{self}: `push_to_hub: repo_id:` is no name of one: {one_line(error)}") from error
        except HfHubHTTPError as error:
            raise HubError(f"{self} {_refusal(error)}") from error
        except Exception as error:
            raise HubError(
                f"{self} cannot be written: {one_line(error)}. Check the network and HF_ENDPOINT, and run again: what was "
                "uploaded is not uploaded again"
            ) from error


def _refusal(error: Any) -> str:
    match error.response.status_code:
        case 401 | 403 | 404:
            return (
                f"cannot be written to ({error.response.status_code}): set HF_TOKEN to a token that may write to it, and check "
                "`push_to_hub: repo_id:`, whose owner must be you or an organization of yours"
            )
        case 409:
            return (
                "is there, but not for the token that HF_TOKEN gives: set it to one that may write to it, or name another "
                "dataset as `push_to_hub: repo_id:`"
            )
        case 412:
            return (
                "was changed by somebody else meanwhile: run again, what was uploaded is not uploaded again"
            )
        case _:
            return f"refused: {one_line(error)}. Run again: what was uploaded is not uploaded again"


class RepositoryFolder(ExportFolder):
    """A repository as the folder of an export: `data/train`, `data/validation`, and the record at the top.

    Args:
        repository: that is written to.
        partition: of the seed dataset.
    """

    def __init__(self, repository: DatasetRepository, partition: str) -> None:
        self._repository = repository
        self.layout = "parquet"
        self.partition = partition

    @property
    def uri(self) -> str:
        return self._repository.uri

    def names(self, split: str = "") -> list[str]:
        return self._repository.names(_at(split))

    def sizes(self, split: str) -> dict[str, int]:
        return self._repository.sizes(_at(split))

    def get(self, split: str, name: str) -> bytes | None:
        return self._repository.get(_at(split, name))

    def put_if_other(self, split: str, name: str, data: Pieces) -> bool:
        whole = b"".join(data)
        if self.get(split, name) == whole:
            return False
        self._repository.put(_at(split, name), whole)
        return True

    def put(self, split: str, name: str, data: Iterable[bytes | pa.Buffer]) -> None:
        self._repository.put(_at(split, name), b"".join(data))

    def delete(self, split: str, name: str) -> None:
        self._repository.delete(_at(split, name))

    def record(self) -> dict[str, Any]:
        """What the last push left; empty: there was none, or what is there is damaged, or no record of ours."""
        try:
            record = json.loads(self._repository.get(RECORD) or b"{}")
        except ValueError:
            return {}
        ours = isinstance(record, dict) and record.get("layout") == self.layout
        return record if ours and isinstance(record.get("partition"), str) else {}

    def put_record(self, record: dict[str, Any]) -> None:
        self._repository.put(RECORD, json.dumps(record, indent=1).encode())

    def sweep(self) -> None:
        """Nothing is ever half-written here."""


def _at(*parts: str) -> str:
    return "/".join([DATA, *(part for part in parts if part)])
