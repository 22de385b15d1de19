"""What all tests share."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from sd_assets_tests.hub.environment import point_clients_at
from sd_assets_tests.hub.server import Hub, loopback, url_of

if TYPE_CHECKING:
    from sd_assets_tests.s3 import S3Server
    from sd_assets_tests.s3_faults import FaultProxy

# A noisy machine must not fail a property: no deadlines, no complaints about slow generation.
settings.register_profile(
    "sd_assets", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=50
)
settings.load_profile("sd_assets")

# Here, before a test module imports one of the Hub's clients. No test asks the real Hub, or finds a user's cache.
_HUB = loopback()
_HOME = tempfile.TemporaryDirectory(prefix="sd_assets-hub-")
point_clients_at(url_of(_HUB), Path(_HOME.name))


@pytest.fixture(scope="session")
def _hub() -> Iterator[Hub]:
    hub = Hub(_HUB)
    yield hub
    hub.stop()


@pytest.fixture
def hub(_hub: Hub) -> Iterator[Hub]:
    """A Hub that holds nothing yet, and that every client takes for the real one."""
    from huggingface_hub import HfFileSystem

    # What clients remember of repositories of the same name, in memory and on disk.
    HfFileSystem.clear_instance_cache()
    for kept in Path(_HOME.name).iterdir():
        shutil.rmtree(kept) if kept.is_dir() else kept.unlink()
    yield _hub
    _hub.reset()


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Hub answers."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of the Hub that try again at once, and do not wait for seconds first."""
    hurried = SimpleNamespace(**{**vars(time), "sleep": lambda seconds: None})
    for module in (
        "huggingface_hub.utils._http",
        "huggingface_hub.file_download",
        "datasets.utils.file_utils",
    ):
        monkeypatch.setattr(f"{module}.time", hurried)


@pytest.fixture(scope="module")
def s3() -> "Iterator[S3Server]":
    """A real S3 protocol server."""
    from sd_assets_tests.s3 import s3_server

    with s3_server() as s3:
        yield s3


@pytest.fixture
def proxy(s3: "S3Server") -> "Iterator[FaultProxy]":
    """Stands before that server, and makes what a test wants go wrong."""
    from sd_assets_tests.s3_faults import fault_proxy

    with fault_proxy(s3) as proxy:
        yield proxy
