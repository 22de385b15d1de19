"""A server on the loopback that speaks the protocol of OpenAI-compatible endpoints, as vLLM and OpenAI were seen to."""

import io
import json
import threading
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from PIL import Image

from sd_assets_tests.quiet_server import QuietServer

MODEL = "org/vlm"
KEY = "sk-only-for-the-tests-of-captions"

Misbehave = Callable[[BaseHTTPRequestHandler, dict[str, Any]], bool]


@dataclass
class Completions:
    """Says of an image how large it is, in the words of the prompt. `misbehave` may answer instead (and says whether it did).

    Attributes:
        models: that it serves.
        key: that it wants; None: none.
        most_choices: that it answers with, however many are asked for.
        requests: bodies of the requests for captions, in order.
        headers: of all requests.
        times: when each request for a caption came, in seconds of a monotonic clock.
    """

    models: list[str] = field(default_factory=lambda: [MODEL])
    key: str | None = None
    most_choices: int = 128
    misbehave: Misbehave | None = None
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and JSON for a request for captions."""
        if body["model"] not in self.models:
            return _error(404, f"The model `{body['model']}` does not exist.")
        (message,) = body["messages"]
        prompt = next(part["text"] for part in message["content"] if part["type"] == "text")
        image = image_of(body)
        if image is None:
            return _error(400, "cannot identify image file")
        choices = [
            {
                "index": number,
                "finish_reason": "stop",
                "message": {
                    "role": "assistant",
                    "content": f" {prompt}:\n{image.width} x {image.height}, {body.get('seed')} {number}",
                },
            }
            for number in range(min(body.get("n", 1), self.most_choices))
        ]
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        return 200, {"object": "chat.completion", "choices": choices, "usage": usage}

    def texts(self) -> list[str]:
        """The prompts that were asked, in order."""
        return [
            part["text"]
            for body in self.requests
            for part in body["messages"][0]["content"]
            if part["type"] == "text"
        ]


def image_of(body: dict[str, Any]) -> Image.Image | None:
    """The image of a request, if it is one."""
    for part in body["messages"][0]["content"]:
        if part["type"] == "image_url":
            head, _, data = part["image_url"]["url"].partition(",")
            assert head == "data:image/jpeg;base64"
            try:
                return Image.open(io.BytesIO(b64decode(data)))
            except OSError:
                return None
    return None


def say(
    handler: BaseHTTPRequestHandler, status: int, content: Any, headers: dict[str, str] | None = None
) -> bool:
    """Answers with JSON, or with a text as it is; true, so that a `misbehave` may end with it."""
    data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in {
        "Content-Type": "application/json",
        **(headers or {}),
        "Content-Length": str(len(data)),
    }.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(data)
    return True


def choice(content: str | None, **more: Any) -> dict[str, Any]:
    """An answer with one choice."""
    message = {"role": "assistant", "content": content, **more.pop("message", {})}
    return {"choices": [{"index": 0, "finish_reason": "stop", "message": message, **more}]}


def _error(status: int, message: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": {"message": message, "type": "BadRequestError", "code": status}}


@contextmanager
def serving(state: Completions) -> Iterator[Completions]:
    """The server behind a URL of its own, which it then knows."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # else every answer waits 40 ms for an acknowledgement

        def do_GET(self) -> None:
            if self.refused():
                return
            if state.misbehave is None or not state.misbehave(self, {}):
                if self.path == "/v1/models":
                    say(self, 200, {"object": "list", "data": [{"id": name} for name in state.models]})
                else:
                    say(self, 404, {"detail": "Not Found"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.refused():
                return
            with state.lock:
                state.times.append(time.monotonic())
                state.requests.append(body)
                state.at_once += 1
                state.most_at_once = max(state.most_at_once, state.at_once)
            try:
                if state.misbehave is None or not state.misbehave(self, body):
                    if self.path == "/v1/chat/completions":
                        say(self, *state.answer(body))
                    else:
                        say(self, 404, {"detail": "Not Found"})
            finally:
                with state.lock:
                    state.at_once -= 1

        def refused(self) -> bool:
            with state.lock:
                state.headers.append(dict(self.headers))
            if state.key is None or self.headers.get("Authorization") == f"Bearer {state.key}":
                return False
            given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
            return say(self, 401, {"error": {"message": f"Incorrect API key provided: {given}."}})

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = QuietServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
