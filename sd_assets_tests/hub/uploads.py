"""Writing to the Hub: repositories are created, large files stored by their sha256, and commits made of both kinds of files.

Large files come by the LFS protocol, which every client knows; Xet, which the real Hub prefers, is not spoken here.
"""

import base64
import hashlib
import json
from typing import Any

from sd_assets_tests.hub.repos import Repo, is_large


class Store:
    """Contents of large files by their sha256, as clients have uploaded them. They are in no repository before a commit."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}

    def put(self, oid: str, data: bytes) -> bool:
        """Keep a content; False: it is not what its name says."""
        if hashlib.sha256(data).hexdigest() != oid:
            return False
        self._contents[oid] = data
        return True

    def get(self, oid: str) -> bytes | None:
        return self._contents.get(oid)

    def clear(self) -> None:
        self._contents.clear()


def modes(body: bytes) -> dict[str, Any]:
    """How each of some files is to come: in the commit itself, or before it."""
    files = json.loads(body)["files"]
    mode = {True: "lfs", False: "regular"}
    return {
        "files": [
            {"path": file["path"], "uploadMode": mode[is_large(file["path"])], "shouldIgnore": False}
            for file in files
        ]
    }


def batch(body: bytes, store: Store, address: str) -> dict[str, Any]:
    """Where each of some large files is to be put; those that are there already are not wanted again."""
    objects = []
    for wanted in json.loads(body)["objects"]:
        answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
        if store.get(wanted["oid"]) is None:
            answer["actions"] = {"upload": {"href": f"{address}/upload/{wanted['oid']}"}}
        objects.append(answer)
    return {"transfer": "basic", "objects": objects}


class CommitError(Exception):
    """A commit that the Hub refuses, and its status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def commit(body: bytes, repo: Repo, branch: str, store: Store) -> str:
    """Makes a commit of what a client sent; gives its name. Raises CommitError."""
    head = repo.refs[branch]
    files = dict(repo.commits[head])
    message = ""
    for line in body.splitlines():
        item = json.loads(line)
        value = item["value"]
        match item["key"]:
            case "header":
                if value.get("parentCommit") not in (None, head):
                    raise CommitError(412, "A commit has happened since. Please refresh and try again.")
                message = value["summary"]
            case "file":
                files[value["path"]] = base64.b64decode(value["content"])
            case "lfsFile":
                content = store.get(value["oid"])
                if content is None:
                    raise CommitError(
                        400, f"LFS pointer pointed to a file that does not exist: {value['oid']}"
                    )
                files[value["path"]] = content
            case "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise CommitError(400, f"A file with this name doesn't exist: {value['path']}")
            case other:
                raise CommitError(400, f"not understood: {other}")
    repo.messages.append(message)
    return repo.push(files, branch=branch)
