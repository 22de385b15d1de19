"""What a Hub holds: repositories of datasets and models, with commits, branches and tags."""

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Kind = Literal["datasets", "models"]
Files = Mapping[str, bytes]

# Commits have names that never come again, so that no cache of a client mistakes one for another.
_COMMITS = itertools.count()
# Kept outside git by the real Hub, which sends clients elsewhere for them.
_LARGE = frozenset({".parquet", ".safetensors", ".bin", ".tar", ".jpg", ".jpeg", ".png", ".webp"})


@dataclass
class Repo:
    """One repository.

    Attributes:
        kind: as its addresses say it.
        id: `owner/name`, or `name` alone.
        private: who may not read it is told that it does not exist.
        gated: everybody sees that it is there and what files it has; only who may reads them.
        commits: commit -> all its files, by their paths.
        refs: branch or tag -> commit.
        messages: of the commits that clients made, in order.
    """

    kind: Kind
    id: str
    private: bool = False
    gated: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def push(self, files: Files | Path, *, branch: str = "main") -> str:
        """A commit on a branch. `files` are all that it holds: contents by path, or a folder; they are copied."""
        commit = hashlib.sha1(f"{self.id} {next(_COMMITS)}".encode()).hexdigest()
        self.commits[commit] = files_of(files) if isinstance(files, Path) else dict(files)
        self.refs[branch] = commit
        return commit

    def tag(self, name: str, commit: str) -> None:
        """Names a commit."""
        self.refs[name] = commit

    def commit(self, revision: str) -> str | None:
        """The commit that a branch, a tag or a commit means, if there is such a one."""
        commit = self.refs.get(revision, revision)
        return commit if commit in self.commits else None


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, by its path in it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def is_large(path: str) -> bool:
    """Whether the Hub keeps a file outside git (LFS)."""
    return Path(path).suffix in _LARGE


def git_id(data: bytes) -> str:
    """The id of a file in git."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def etag(path: str, data: bytes) -> str:
    """What the Hub calls a content: its sha256 if it is kept outside git, else its id there."""
    return hashlib.sha256(data).hexdigest() if is_large(path) else git_id(data)


def entry(path: str, files: Files) -> dict[str, object] | None:
    """A file or folder as listings describe it; None if there is no such path."""
    if path in files:
        data = files[path]
        described: dict[str, object] = {
            "type": "file",
            "oid": git_id(data),
            "size": len(data),
            "path": path,
        }
        if is_large(path):
            described["lfs"] = {"oid": etag(path, data), "size": len(data), "pointerSize": 130}
        return described
    if any(name.startswith(f"{path}/") for name in files):
        return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    return None


def listing(folder: str, files: Files, *, recursive: bool) -> list[dict[str, object]]:
    """What is in a folder ("" is the top), folders too, in order."""
    top = f"{folder}/" if folder else ""
    paths: set[str] = set()
    for name in files:
        if not name.startswith(top):
            continue
        steps = name.removeprefix(top).split("/")
        depth = len(steps) if recursive else 1
        paths.update(top + "/".join(steps[: number + 1]) for number in range(depth))
    return [described for path in sorted(paths) if (described := entry(path, files))]
