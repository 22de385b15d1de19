"""What counts as the same URL, host and image, one at a time and in whole tables."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sd_assets.blocked import NOTHING, Blocked, entry, normal_host, normal_image, normal_url, texts_in
from sd_assets.schemas import TABLES, text_id
from sd_assets.stages.stage import rows_of

IMAGE, OTHER = text_id("an image"), text_id("another")


def blocked(urls: tuple[str, ...] = (), hosts: tuple[str, ...] = (), images: tuple[str, ...] = ()) -> Blocked:
    return Blocked(
        (normal_url(url) or pytest.fail(url) for url in urls),
        (normal_host(host) or pytest.fail(host) for host in hosts),
        images,
    )


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("HTTP://Example.ORG:80/A?b=1#c", "http://example.org/A?b=1"),
        (" https://me:secret@example.org:443 ", "https://example.org/"),
        ("https://example.org:8443/a", "https://example.org:8443/a"),
        ("http://b\u00fccher.example./\u00e4 b", "http://xn--bcher-kva.example/%C3%A4%20b"),
        ("http://example.org/%7euser/%c3%a4", "http://example.org/~user/%C3%A4"),
        ("http://example.org/a/../b/./c", "http://example.org/b/c"),
        ("http://2130706433/a", "http://127.0.0.1/a"),
        ("http://[0:0::1]:80/a", "http://[::1]/a"),
        ("ftp://example.org/a", None),
        ("example.org/a", None),
        ("http:///a", None),
        ("http://example.org:99999/", None),
        ("", None),
    ],
)
def test_urls_in_their_normal_form(text: str, normal: str | None) -> None:
    assert normal_url(text) == normal


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("Example.ORG.", "example.org"),
        ("B\u00fccher.example", "xn--bcher-kva.example"),
        ("b\u00fccher\u3002example", "xn--bcher-kva.example"),
        ("_dmarc.example.org", "_dmarc.example.org"),
        ("0x7f.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("*.example.org", None),
        ("example.org:80", None),
        ("example..org", None),
        ("an example", None),
        ("", None),
    ],
)
def test_hosts_in_their_normal_form(text: str, normal: str | None) -> None:
    assert normal_host(text) == normal


def test_hashes_in_their_normal_form() -> None:
    assert normal_image(f" {IMAGE.upper()} ") == IMAGE
    assert normal_image(IMAGE[1:]) is None
    assert normal_image("g" + IMAGE[1:]) is None


def test_a_url_is_blocked_however_it_is_written() -> None:
    found = blocked(urls=("http://Example.org/a.jpg?x=1",))
    for same in (
        "http://example.org/a.jpg?x=1",
        "HTTP://EXAMPLE.ORG:80/a.jpg?x=1#top",
        "  http://user:word@example.org/b/../a.jpg?x=1",
        "http://example.org./%61.jpg?x=1",
    ):
        assert found.url(same) == entry("http://example.org/a.jpg?x=1")
    for other in (
        "https://example.org/a.jpg?x=1",
        "http://example.org/A.jpg?x=1",
        "http://example.org/a.jpg?x=2",
        "http://example.org/a.jpg",
        "http://example.org:81/a.jpg?x=1",
        "http://www.example.org/a.jpg?x=1",
        "a.jpg",
        None,
    ):
        assert found.url(other) is None


def test_a_host_stands_for_its_sub_domains() -> None:
    found = blocked(hosts=("evil.example", "127.0.0.1", "b\u00fccher.example"))
    for url in (
        "http://evil.example",
        "https://a.b.EVIL.example:8443/x",
        "ftp://evil.example./x",
        "http://good.example@evil.example/x",
        "http://2130706433/x",
        "http://www.b\u00fccher.example/",
        "http://xn--bcher-kva.example/",
    ):
        assert found.url(url), url
    for url in (
        "http://notevil.example/",
        "http://evil.example.org/",
        "http://example/evil.example",
        "http://evil.example@good.example/",
        "http://1.127.0.0.1.example/",
        "http://127.0.0.11/",
        "/folder/evil.example/x.jpg",
        "evil.example",
    ):
        assert found.url(url) is None, url


def test_what_a_text_quotes() -> None:
    found = blocked(("http://a.example/x.jpg",), ("evil.example",), (IMAGE,))
    assert found.text("redirect to 'http://a.example/x.jpg': refused")
    assert found.text("www.evil.example: Name or service not known")
    assert found.text(f"like {IMAGE}.")
    assert not found.text("redirect to 'http://a.example/y.jpg': status 404")
    assert not found.text("not done within 5 s")
    assert not found.text(None)


def test_an_empty_list_blocks_nothing_and_a_change_changes_the_digest() -> None:
    assert not NOTHING
    assert NOTHING.url("http://a.example/") is None
    assert NOTHING.image(IMAGE) is None
    one, other = blocked(hosts=("a.example", "b.example")), blocked(hosts=("b.example", "a.example"))
    assert one.digest == other.digest
    assert len({one.digest, NOTHING.digest, blocked(hosts=("a.example",)).digest}) == 3
    assert one.digest != blocked(urls=("http://a.example/",), hosts=("b.example",)).digest


def test_entries_tell_nothing_and_are_known_while_they_are_on_the_list() -> None:
    found = blocked(images=(IMAGE,))
    name = found.image(IMAGE.upper())
    assert name is not None and name not in IMAGE
    assert found.still([name]) and found.still(None)
    assert not NOTHING.still([name])


# --- tables ------------------------------------------------------------------------------------------------------

URL = "http://evil.example/a.jpg"
LISTS: dict[str, Any] = {
    "seed_images": [{"image_id": OTHER, "source": URL}, {"image_id": IMAGE}],
    "seed_embeddings": [{"query_id": IMAGE}],
    "retrieval_hits": [
        {"query_id": IMAGE, "hits": []},
        {"query_id": "q", "hits": [{"url": "http://x.example/", "sha256": OTHER}, {"url": URL}]},
        {"query_id": "q", "hits": [{"url": "http://x.example/", "sha256": IMAGE}]},
    ],
    "retrieved_image_urls": [
        {"url": URL},
        {"url": "http://x.example/", "sha256": IMAGE},
        {"url": "http://x.example/", "hits": [{"query_id": "q"}, {"query_id": IMAGE}]},
        # Another URL of the same image, by which a query found it.
        {"url": "http://x.example/", "hits": [{"query_id": "q"}, {"query_id": "q", "url": URL}]},
    ],
    "downloaded_images": [
        {"url": URL},
        {"url": "http://x.example/", "image_id": IMAGE},
        {"url": "http://x.example/", "redirected_to": URL},
        {"url": "http://x.example/", "error_detail": "redirect to 'http://evil.example/b'"},
    ],
    "image_captions": [{"image_id": IMAGE, "variant": "default"}],
    "text_image_pairs": [
        {"image_id": IMAGE},
        {"image_id": OTHER, "url": URL},
        {"image_id": OTHER, "query_ids": ["q", IMAGE]},
    ],
    "held_out_images": [{"image_id": IMAGE}, {"image_id": OTHER, "source": URL}],
    "near_duplicates": [
        {"cluster": IMAGE},
        {"nearest": IMAGE},
        {"image_id": OTHER, "elsewhere": [f"rooms/{OTHER}", f"rooms/{IMAGE}"]},
    ],
    "curated_pairs": [{"image_id": OTHER, "cluster": IMAGE}],
}


@pytest.mark.parametrize("schema", TABLES, ids=lambda schema: schema.name)
def test_rows_of_every_table(schema: Any) -> None:
    found = blocked(hosts=("evil.example",), images=(IMAGE,))
    held = LISTS.get(schema.name, [])
    fine = {
        "image_id": OTHER,
        "query_id": OTHER,
        "url": "http://x.example/evil.example",
        "source": "evil.example/a.jpg",
        "hits": [{"url": "http://x.example/", "query_id": OTHER, "sha256": OTHER}, None],
        "query_ids": [OTHER],
        "cluster": OTHER,
        "elsewhere": [f"rooms/{OTHER}", f"{IMAGE}/{OTHER}"],
    }
    rows = [{}, *(row for each in held for row in (each, fine)), fine]
    batch = rows_of(schema, rows)
    expected = [False, *(it for _ in held for it in (True, False)), False]
    assert found.rows(batch).tolist() == expected
    # A part of a batch has offsets of its own.
    assert found.rows(batch.slice(1)).tolist() == expected[1:]
    assert found.rows(batch.select(found.columns(schema.arrow))).tolist() == expected
    assert not NOTHING.rows(batch).any()


def test_images_that_go_with_urls_of_the_list() -> None:
    found = blocked(urls=("http://a.example/",)).with_images([entry(IMAGE)])
    batch = pa.record_batch({"image_id": [IMAGE, OTHER, None]})
    assert found.rows(batch).tolist() == [True, False, False]
    assert found.image(IMAGE) is None


HOSTS = st.sampled_from(
    ["a.example", "A.example.", "www.a.example", "b.example", "[::1]", "b\u00fccher.example", ""]
)
URLS = st.builds(
    "{}{}{}/{}{}".format,
    st.sampled_from(["http://", "https://", " HTTP://", "ftp://", ""]),
    st.sampled_from(["", "me@", "a.example@"]),
    HOSTS,
    st.sampled_from(["", "x", "%78", "y/../x", "X"]),
    st.sampled_from(["", "#f", "?q"]),
)


@given(st.lists(URLS | st.none()), st.lists(URLS, max_size=3), st.lists(HOSTS, max_size=1))
def test_a_column_is_judged_as_its_values_are(
    column: list[str | None], urls: list[str], hosts: list[str]
) -> None:
    found = Blocked(filter(None, map(normal_url, urls)), filter(None, map(normal_host, hosts)))
    one_by_one = [found.url(url) is not None for url in column]
    assert found.urls(pa.array(column, pa.string())).tolist() == one_by_one


def test_long_lists_and_tables() -> None:
    count = 100_000
    found = Blocked(
        (f"http://host{number % 1_000}.example/{number}" for number in range(count)),
        (f"evil{number}.example" for number in range(count)),
        (f"{number:064x}" for number in range(count)),
    )
    numbers = np.arange(0, 2 * count, 2)
    urls = pa.array([f"http://host{number % 1_000}.example/{number}" for number in numbers.tolist()])
    batch = pa.record_batch(
        {"url": urls, "image_id": [f"{number:064x}" for number in (numbers + 1).tolist()]}
    )
    assert found.rows(batch).sum() == count // 2


def test_texts_in_json() -> None:
    value = json.loads('{"a": ["b", {"c": 1, "d": null}], "e": "f"}')
    assert list(texts_in(value)) == ["a", "b", "c", "d", "e", "f"]


def test_what_no_parser_takes_is_no_url() -> None:
    assert normal_url("http://[::1]@/") is None
