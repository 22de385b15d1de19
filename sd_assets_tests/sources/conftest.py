"""Photographs and what else lies in a user's folder."""

import io
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
from PIL import Image


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def picture(number: int, format: str = "JPEG") -> bytes:
    """A small picture, another one for each number."""
    return encoded(Image.new("RGB", (16, 12), (number * 37 % 256, number * 91 % 256, number % 256)), format)


@pytest.fixture(scope="session")
def photographs() -> dict[str, bytes]:
    """Photographs of scikit-image and scikit-learn, and forms of them that are harder to read."""
    astronaut = Image.fromarray(skimage.data.astronaut()).resize((256, 256))
    china, flower = (Image.fromarray(image) for image in sklearn.datasets.load_sample_images().images)
    frames = [astronaut.rotate(angle) for angle in (90, 180)]
    deep = Image.fromarray((np.asarray(skimage.data.camera(), np.uint16) << 8)[::2, ::2])
    return {
        "astronaut.png": encoded(astronaut, "PNG"),
        "china.jpg": encoded(china, "JPEG"),
        "flower.webp": encoded(flower, "WEBP"),
        "camera.JPEG": encoded(Image.fromarray(skimage.data.camera()), "JPEG"),
        "animated.gif": encoded(astronaut, "GIF", save_all=True, append_images=frames),
        "cmyk.jpg": encoded(china.convert("CMYK"), "JPEG"),
        "sixteen_bit.png": encoded(deep, "PNG"),
        "chelsea.avif": encoded(Image.fromarray(skimage.data.chelsea()), "AVIF"),
    }


@pytest.fixture
def refusing_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A Hub on the loopback that answers 404 with the error code in the list."""
    codes = ["RepoNotFound"]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802
            self.send_response(404)
            self.send_header("X-Error-Code", codes[0])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    yield codes
    server.shutdown()
    server.server_close()
    thread.join()
