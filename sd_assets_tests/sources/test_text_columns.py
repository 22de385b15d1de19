"""Which column is the text, where none is named: the same in every kind of source; what is passed over is said."""

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.settings import ParquetSource, UrlsSource
from sd_assets.sources.images import read_images
from sd_assets.sources.rows import pick_text_column
from sd_assets.sources.url_list import read_list
from sd_assets_tests.sources.conftest import picture


@pytest.mark.parametrize(
    ("columns", "taken"),
    [
        ({"caption": "of it"}, "of it"),
        ({"TEXT": "of it", "title": "no"}, "of it"),
        ({"prompt": "of it", "stars": 5, "id": "7", "image_url": "http://x"}, "of it"),
        ({"captions": ["of it", "no"]}, "of it"),
        ({"stars": 5}, None),
    ],
)
def test_of_parquet(tmp_path: Path, columns: dict[str, object], taken: str | None) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"picture": [picture(1)], **{name: [it] for name, it in columns.items()}}), path)
    (row,) = read_images(ParquetSource(kind="parquet", path=str(path)))
    assert row.text == taken


@pytest.mark.parametrize(
    ("head", "taken"),
    [("url,caption", "a"), ("URL,TEXT", "a"), ("url,similarity", None), ("url,width,alt_text", "b")],
)
def test_of_a_list_of_urls(tmp_path: Path, head: str, taken: str | None) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        f"{head}\nhttp://x/1.jpg,a,b\n" if head.count(",") == 2 else f"{head}\nhttp://x/1.jpg,a\n"
    )
    _, lines = read_list(UrlsSource(kind="urls", path=str(path)))
    assert [line.text for line in lines] == [taken]


def test_several_are_said_and_none_is_taken(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sd_assets"):
        assert pick_text_column(["title", "caption", "n"], ["title", "caption"], None, "here") is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "here: the columns title, caption look like texts" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.INFO, "sd_assets"):
        assert pick_text_column(["title", "n"], ["title"], None, "here") == "title"
        assert pick_text_column(["title", "n"], ["title"], "", "here") is None
    assert [record.levelno for record in caplog.records] == [logging.INFO]
