"""Clients of the services, quick to try again, and closed at the end."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sd_assets.errors import ErrorCode, RowError
from sd_assets.retrieval import KnnIndex, open_index
from sd_assets.services import backoff
from sd_assets.settings import RetrievalSettings, ServiceIndexSettings
from sd_assets_tests.retrieval.answers import Hit

MakeClient = Callable[..., KnnIndex]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "BACKOFF_S", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def client() -> Iterator[MakeClient]:
    """Makes the index `laion` at a URL, or several, with further settings."""
    made: list[KnnIndex] = []

    def make(url: str | list[str], retrieval: RetrievalSettings | None = None, **settings: Any) -> KnnIndex:
        given = {"kind": "clip-retrieval", "url": url, "timeout_s": 5, **settings}
        checked = ServiceIndexSettings.model_validate(given)
        made.append(open_index("laion", checked, retrieval or RetrievalSettings()))
        return made[-1]

    yield make
    for index in made:
        index.close()


def hits(answer: list[Hit] | RowError) -> list[Hit]:
    assert isinstance(answer, list), answer
    return answer


def failure(answer: list[Hit] | RowError) -> str:
    assert isinstance(answer, RowError)
    assert answer.code is ErrorCode.QUERY_FAILED
    return answer.detail
