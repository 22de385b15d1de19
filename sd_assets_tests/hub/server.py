"""The Hub's protocol over HTTP, as far as `huggingface_hub`, `datasets`, `transformers` and open_clip use it."""

import json
import re
import socket
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

from sd_assets_tests.hub.repos import Files, Kind, Repo, entry, etag, is_large, listing
from sd_assets_tests.hub.uploads import CommitError, Store, batch, commit, modes

WRITER = "hf_who_may_read_and_write_everything"
READER = "hf_who_may_read_everything"
STRANGER = "hf_who_may_read_what_is_public"

_API = re.compile(
    r"/api/(?P<kind>datasets|models)/(?P<id>[^/]+(?:/[^/]+)??)"
    r"(?:/(?P<what>revision|tree|paths-info|auth-check|preupload|commit)(?:/(?P<revision>[^/]+)(?:/(?P<path>.*))?)?)?"
)
_FILE = re.compile(
    r"(?P<store>/store)?/(?:(?P<kind>datasets)/)?(?P<id>[^/]+(?:/[^/]+)??)/resolve/(?P<revision>[^/]+)/(?P<path>.+)"
)
_BATCH = re.compile(r"/(?:(?P<kind>datasets)/)?(?P<id>[^/]+/[^/]+)\.git/info/lfs/objects/(?P<what>batch)")
_UPLOAD = re.compile(r"/upload/(?P<path>[0-9a-f]{64})")
_FORMS = (_API, _BATCH, _UPLOAD, _FILE)
_WRITES = frozenset({"create", "preupload", "batch", "commit"})
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass
class Request:
    """One request, for tests to look at.

    Attributes:
        method: of HTTP.
        what: `info`, `tree`, `paths-info`, `auth-check`; `file`; `store` (where large files lie); of what writes `create`,
            `preupload`, `batch`, `upload` (of a large file), `commit`; or "".
        repo: the id of the repository; "" if the address names none.
        revision: as it was asked for.
        path: of the file or folder in the repository.
        token: the bearer token, if one was sent.
        status: of the answer.
        sent: bytes of the body that were sent.
    """

    method: str
    what: str
    repo: str = ""
    revision: str = ""
    path: str = ""
    token: str | None = None
    status: int = 0
    sent: int = 0


@dataclass
class _Fault:
    path: str
    times: int
    status: int | None = None
    cut_after: int | None = None


@dataclass
class _Answer:
    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class Hub:
    """A Hub that serves what it is given, to who may see it.

    Attributes:
        requests: all there were, in order.
    """

    def __init__(self, listener: socket.socket) -> None:
        self.requests: list[Request] = []
        self._repos: dict[tuple[str, str], Repo] = {}
        self._faults: list[_Fault] = []
        self._uploaded = Store()
        self._lock = Lock()
        self._servers = [self._serve(listener)]
        # Large files lie on another host than the Hub's, whose token must not go there.
        self._store = self._serve(loopback())
        self._servers.append(self._store)

    def dataset(self, id: str, files: Files | Path, *, private: bool = False, gated: bool = False) -> Repo:
        """A dataset with one commit."""
        return self._repo("datasets", id, files, private, gated)

    def model(self, id: str, files: Files | Path, *, private: bool = False, gated: bool = False) -> Repo:
        """A model with one commit."""
        return self._repo("models", id, files, private, gated)

    def repo(self, kind: Kind, id: str) -> Repo:
        """A repository that there is."""
        return self._repos[kind, id]

    def fail(self, path: str, status: int, *, times: int = 1) -> None:
        """Answers the next requests for addresses that end in `path` with `status`."""
        self._faults.append(_Fault(path, times, status=status))

    def cut(self, path: str, after: int, *, times: int = 1) -> None:
        """Closes the connection after so many bytes of the next bodies of files that end in `path`."""
        self._faults.append(_Fault(path, times, cut_after=after))

    def asked(self, what: str) -> list[Request]:
        """The requests of one sort."""
        return [request for request in self.requests if request.what == what]

    def reset(self) -> None:
        """Forgets everything."""
        self.requests.clear()
        self._repos.clear()
        self._faults.clear()
        self._uploaded.clear()

    def stop(self) -> None:
        """Closes the ports."""
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def _repo(self, kind: Kind, id: str, files: Files | Path, private: bool, gated: bool) -> Repo:
        repo = self._repos[kind, id] = Repo(kind, id, private, gated)
        repo.push(files)
        return repo

    def _serve(self, listener: socket.socket) -> ThreadingHTTPServer:
        hub = self

        class Handler(_Handler):
            def answer(self) -> None:
                self.send(hub)

        server = _Server(listener.getsockname(), Handler, bind_and_activate=False)
        server.socket.close()
        server.socket = listener
        server.server_activate()
        Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server

    # --- what is answered ----------------------------------------------------------------------------------------

    def answer(self, request: Request, url: SplitResult, headers: Message, body: bytes) -> _Answer:
        """The answer to a request; fills in what of it was understood."""
        kind = _understood(request, url.path, headers)
        fault = self._fault(url.path, status=True)
        if fault is not None:
            return _Answer(fault.status or 500)
        repo = self._repos.get((kind, request.repo))
        if request.what == "store" and repo is not None:
            return _content(repo.commits[request.revision][request.path], headers)
        if request.what == "upload":  # signed addresses: no token goes there
            return _Answer(200 if self._uploaded.put(request.path, body) else 400)
        if url.path == "/api/validate-yaml":
            return _json({"errors": [], "warnings": []})
        refusal = _access(request, repo)
        if refusal is None and request.what in _WRITES:
            return self._written(request, repo, body)
        if refusal is not None or repo is None:
            return refusal or _refusal(404, "", "Sorry, we can't find the page you are looking for.")
        if request.what == "auth-check":
            return _Answer(200)
        commit = repo.commit(request.revision)
        if commit is None:
            return _refusal(404, "RevisionNotFound", f"Invalid rev id: {request.revision}")
        files = repo.commits[commit]
        match request.what:
            case "file":
                return self._file(repo, commit, request.path, headers)
            case "tree" if request.path and entry(request.path, files) is None:
                return _refusal(404, "EntryNotFound", f"{request.path} does not exist on {request.revision}")
            case "tree":
                return _json(listing(request.path, files, recursive="recursive=true" in url.query.lower()))
            case "paths-info":
                asked = parse_qs(body.decode()).get("paths", [])
                return _json([described for path in asked if (described := entry(path, files))])
            case _:
                return _json(_info(repo, commit))

    def _written(self, request: Request, repo: Repo | None, body: bytes) -> _Answer:
        """The answer to a request that may write."""
        if request.what == "create":
            return self._created(json.loads(body))
        assert repo is not None
        if request.what == "preupload":
            return _json(modes(body))
        if request.what == "batch":
            return _json(batch(body, self._uploaded, url_of(self._store.socket)))
        try:
            with self._lock:
                name = commit(body, repo, request.revision, self._uploaded)
        except CommitError as error:
            return _refusal(error.status, "", str(error))
        url = f"{url_of(self._servers[0].socket)}/{repo.kind}/{repo.id}/commit/{name}"
        return _json({"success": True, "commitOid": name, "commitUrl": url})

    def _created(self, wanted: Mapping[str, str]) -> _Answer:
        kind: Kind = "datasets" if wanted.get("type") == "dataset" else "models"
        id = f"{wanted['organization']}/{wanted['name']}"
        if (kind, id) in self._repos:
            return _refusal(409, "", "You already created this repo")
        private = wanted.get("visibility") == "private"
        self._repo(kind, id, {".gitattributes": b"*.parquet filter=lfs\n"}, private, gated=False)
        return _json({"url": f"{url_of(self._servers[0].socket)}/{kind}/{id}", "name": id})

    def _file(self, repo: Repo, commit: str, path: str, headers: Message) -> _Answer:
        known = {"X-Repo-Commit": commit}
        data = repo.commits[commit].get(path)
        if data is None:
            return _refusal(404, "EntryNotFound", "Entry not found", known)
        mark = f'"{etag(path, data)}"'
        if not is_large(path):
            return _content(data, headers, {**known, "ETag": mark})
        kind = "/datasets" if repo.kind == "datasets" else ""
        store = url_of(self._store.socket)
        return _Answer(
            302,
            b"Found. Redirecting to the store",
            {
                **known,
                "ETag": mark,
                "X-Linked-ETag": mark,
                "X-Linked-Size": str(len(data)),
                "Location": f"{store}/store{kind}/{repo.id}/resolve/{commit}/{quote(path)}",
            },
        )

    def _fault(self, path: str, *, status: bool) -> _Fault | None:
        with self._lock:
            for fault in self._faults:
                if (
                    fault.times
                    and (fault.status is not None) is status
                    and unquote(path).endswith(fault.path)
                ):
                    fault.times -= 1
                    return fault
        return None

    def cut_of(self, path: str) -> int | None:
        """After how many bytes the body of this answer is to end, if it is to."""
        fault = self._fault(path, status=False)
        return None if fault is None else fault.cut_after


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement

    def send(self, hub: Hub) -> None:
        body = b"".join(self.body())
        request = Request(self.command, "")
        url = urlsplit(self.path)
        answer = hub.answer(request, url, self.headers, body)
        request.status = answer.status
        hub.requests.append(request)
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = hub.cut_of(url.path) if answer.status in (200, 206) else None
        request.sent = len(answer.body[:cut])
        self.close_connection = cut is not None
        self.wfile.write(answer.body[:cut])

    def body(self) -> Iterator[bytes]:
        """What was sent, in one piece or in chunks."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def answer(self) -> None:
        raise NotImplementedError

    def do_GET(self) -> None:
        self.answer()

    def do_HEAD(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may go away in the middle
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def loopback() -> socket.socket:
    """A port of 127.0.0.1 that is taken, but refuses connections until a `Hub` listens on it."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    return taken


def url_of(listener: socket.socket) -> str:
    """The address of a port."""
    host, port = listener.getsockname()
    return f"http://{host}:{port}"


def _understood(request: Request, path: str, headers: Message) -> str:
    """Fills in what a request is about; gives the kind of the repository."""
    authorization = headers.get("Authorization", "")
    request.token = authorization.removeprefix("Bearer ") if authorization else None
    if path == "/api/repos/create":
        request.what = "create"
    match = next((found for form in _FORMS if (found := form.fullmatch(path))), None)
    if match is None:
        return ""
    if match.re is _UPLOAD:
        request.what, request.path = "upload", match["path"]
        return ""
    named = {name: unquote(text or "") for name, text in match.groupdict().items()}
    what = "store" if named.get("store") else named.get("what", "file")
    request.what = "info" if what in ("", "revision") else what
    request.repo = named["id"]
    request.revision, request.path = named.get("revision") or "main", named.get("path", "")
    return named["kind"] or "models"


def _access(request: Request, repo: Repo | None) -> _Answer | None:
    """Why this request may not have what it asks for, if so."""
    known = request.token is not None
    if not request.repo and request.what not in _WRITES:
        return None
    if request.token not in (None, WRITER, READER, STRANGER):
        return _refusal(401, "", "Invalid credentials in Authorization header")
    reads_all = request.token in (WRITER, READER)
    if request.what != "create" and (repo is None or (repo.private and not reads_all)):
        return _refusal(404 if known else 401, "RepoNotFound", "Repository not found")
    if request.what in _WRITES and request.token != WRITER:
        return _refusal(403 if known else 401, "", "You don't have the rights to write here")
    if repo is not None and repo.gated and not reads_all and request.what in ("file", "auth-check"):
        message = f"Access to {repo.id} is restricted and you are not in the authorized list."
        return _refusal(403 if known else 401, "GatedRepo", message)
    return None


def _json(value: object) -> _Answer:
    return _Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json; charset=utf-8"})


def _refusal(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> _Answer:
    return _Answer(
        status,
        json.dumps({"error": message}).encode(),
        {**(headers or {}), "X-Error-Message": message, **({"X-Error-Code": code} if code else {})},
    )


def _content(data: bytes, headers: Message, more: Mapping[str, str] | None = None) -> _Answer:
    """A file, or the part of it that is asked for."""
    kept = {**(more or {}), "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    asked = _RANGE.fullmatch(headers.get("Range", ""))
    if asked is None:
        return _Answer(HTTPStatus.OK, data, kept)
    start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
    if start >= len(data):
        return _Answer(416, b"", {**kept, "Content-Range": f"bytes */{len(data)}"})
    return _Answer(206, data[start:stop], {**kept, "Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"})


def _info(repo: Repo, commit: str) -> dict[str, object]:
    return {
        "_id": commit[:24],
        "id": repo.id,
        "sha": commit,
        "private": repo.private,
        "gated": "auto" if repo.gated else False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": [],
        "lastModified": "2024-01-01T00:00:00.000Z",
        "createdAt": "2024-01-01T00:00:00.000Z",
        "siblings": [{"rfilename": path} for path in sorted(repo.commits[commit])],
    }
