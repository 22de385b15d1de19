"""The table of failures: counts and examples are those of the rows; nothing else gets into it."""

import json
from pathlib import Path
from typing import Any

import pytest

from sd_assets.schemas import DOWNLOADED_IMAGES, IMAGE_CAPTIONS, SEED_IMAGES, text_id
from sd_assets.views.failures import MAX_BYTES, failures
from sd_assets_tests.tables import table_of
from sd_assets_tests.views.hostile import HOSTILE, SECRETS
from sd_assets_tests.views.seen import cells_in, inline_tokens


def url_row(url: str, error: str | None = None, detail: str | None = None) -> dict[str, Any]:
    return {"url_id": text_id(url), "url": url, "error": error, "error_detail": detail}


def seen(tmp_path: Path, rows: list[dict[str, Any]]) -> str:
    markdown = failures(table_of(tmp_path, DOWNLOADED_IMAGES, rows), DOWNLOADED_IMAGES)
    assert markdown is not None and len(json.dumps(markdown)) <= MAX_BYTES
    return markdown


def test_codes_with_counts_shares_and_examples(tmp_path: Path) -> None:
    rows = [
        *(url_row(f"http://good/{n}.jpg") for n in range(10)),
        *(url_row(f"http://gone/{n}.jpg", "not_found", f"status 404, number {n}") for n in range(9)),
        url_row("http://slow/x.jpg", "timeout", "not done within 5 s"),
    ]
    markdown = seen(tmp_path, rows)
    assert markdown.startswith("10 of 20 rows failed (50.0%)\n")
    key = {n: f"{text_id(f'http://gone/{n}.jpg')[:15]}…" for n in range(9)}
    assert cells_in(markdown) == [
        ["not_found", "9", "45.0%", key[1], "http://gone/1.jpg", "status 404, number 1"],
        ["", "", "", key[4], "http://gone/4.jpg", "status 404, number 4"],
        ["", "", "", key[7], "http://gone/7.jpg", "status 404, number 7"],
        [
            "timeout",
            "1",
            "5.0%",
            f"{text_id('http://slow/x.jpg')[:15]}…",
            "http://slow/x.jpg",
            "not done within 5 s",
        ],
    ]


def test_rows_without_failures_have_no_table(tmp_path: Path) -> None:
    assert failures(table_of(tmp_path, DOWNLOADED_IMAGES, [url_row("http://x/")]), DOWNLOADED_IMAGES) is None
    assert failures(table_of(tmp_path / "b", DOWNLOADED_IMAGES, []), DOWNLOADED_IMAGES) is None


def test_rows_are_named_as_their_table_can(tmp_path: Path) -> None:
    captions = [{"image_id": "abc", "variant": "default", "error": "empty_caption"}]
    assert cells_in(failures(table_of(tmp_path, IMAGE_CAPTIONS, captions), IMAGE_CAPTIONS) or "") == [
        ["empty_caption", "1", "100.0%", "abc, default", "", ""]
    ]
    seeds = [{"source": "lost.jpg", "error": "unreadable", "error_detail": "[Errno 13]"}]
    assert cells_in(failures(table_of(tmp_path, SEED_IMAGES, seeds), SEED_IMAGES) or "") == [
        ["unreadable", "1", "100.0%", "", "lost.jpg", "[Errno 13]"]
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_of_the_web_becomes_markup(tmp_path: Path, text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    markdown = seen(tmp_path, [url_row(f"http://x/{text}", text, text), url_row("http://x/2", "other")])
    assert {token.type for token in inline_tokens(markdown)} == {"text", "code_inline"}
    plain = "".join(token.content for token in inline_tokens(markdown) if token.type == "text")
    assert plain == "2 of 2 rows failed (100.0%)errorrowssharefromdetail150.0%150.0%"
    assert [len(row) for row in cells_in(markdown)] == [6, 6]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_not_shown(tmp_path: Path, text: str, secret: str) -> None:
    markdown = seen(tmp_path, [url_row(text, "not_found", f"{'x' * 100} {text}")])
    assert secret not in markdown and secret[:6] not in markdown


def test_values_of_the_environment_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "correct-horse-battery-staple")
    detail = f"{'x' * 125} correct-horse-battery-staple"
    markdown = seen(tmp_path, [url_row("http://x/correct-horse-battery-staple", "not_found", detail)])
    # Nor the half of one that is cut.
    assert "correct" not in markdown and "http://x/…" in markdown


@pytest.mark.parametrize("letter", ["x", "写", "👩"])
def test_the_limit_holds_for_many_codes_and_long_texts(tmp_path: Path, letter: str) -> None:
    rows = [
        url_row(f"http://{letter * 2000}/{n}", f"{letter * 9}{n % 60:03}", letter * 5000) for n in range(300)
    ]
    markdown = seen(tmp_path, rows)
    assert markdown.startswith("300 of 300 rows failed (100.0%); of 60 error codes the ")
    assert len(cells_in(markdown)) >= 10
    assert cells_in(markdown)[0][:3] == [f"{letter * 9}000", "5", "1.7%"]
