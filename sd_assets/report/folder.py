"""The folder of a report: files that are named by what is in them, and the page that names them, written last."""

import hashlib
import json
import re
from collections.abc import Collection
from typing import Any

from sd_assets.storage.files import Files

PAGE = "index.html"
STATE = "state.json"  # of the last report, for the next one
# Of files that we name; others are not ours, and stay.
_OURS = re.compile(r"(?:thumbnails|pairs)-[0-9a-f]{24}\.js")


class ReportFolder:
    """`<base>/reports/<partition>/`.

    Whoever has the page open sees the files that it names, or none; a run that is killed leaves the older report whole, and files that the
    next one takes over or sweeps.

    Args:
        files: the base.
        partition: whose report it is.
    """

    def __init__(self, files: Files, partition: str) -> None:
        self._files = files
        self._folder = f"reports/{partition}"
        self._there = set(files.names(self._folder))
        self._named: set[str] = set()
        self.written = 0  # bytes

    @property
    def page_uri(self) -> str:
        """What one opens."""
        return f"{self._files.uri}/{self._folder}/{PAGE}"

    def has_all(self, names: Collection[str]) -> bool:
        """Whether all of these files are there; if so, the report names them, and nothing else, from now on."""
        found = self._there.issuperset(names)
        if found:
            self._named = set(names)
        return found

    def has(self, name: str) -> bool:
        """Whether there is a file of this name; the report names it from now on."""
        self._named.add(name)
        return name in self._there

    def put(self, name: str, data: bytes) -> None:
        """Write a file whole. Raises WriteError."""
        self._files.put(f"{self._folder}/{name}", data)
        self._named.add(name)
        self._there.add(name)
        self.written += len(data)

    def put_new(self, kind: str, data: bytes) -> str:
        """Write a file unless it is there. Returns its name, which is that of its content. Raises WriteError."""
        name = content_name(kind, data)
        if not self.has(name):
            self.put(name, data)
        return name

    def state(self) -> dict[str, Any]:
        """What the last report left for this one; empty before the first, and where it is damaged."""
        try:
            state: dict[str, Any] = json.loads(self._files.get(f"{self._folder}/{STATE}"))
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def sweep(self) -> None:
        """Delete files of ours that the report does not name any more."""
        for name in sorted(self._there - self._named):
            if _OURS.fullmatch(name):
                self._files.delete(f"{self._folder}/{name}")
        self._there &= self._named

    def size(self) -> int:
        """Bytes of all files."""
        return self._files.usage(self._folder)


def content_name(kind: str, *content: bytes) -> str:
    """The name of a script of a kind (`thumbnails`, `pairs`) by what it is made of."""
    digest = hashlib.blake2b(digest_size=12)
    for part in content:
        digest.update(len(part).to_bytes(8, "little") + part)
    return f"{kind}-{digest.hexdigest()}.js"
