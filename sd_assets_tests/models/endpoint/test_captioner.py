"""A captioner behind an OpenAI-compatible endpoint: what it is asked, what becomes of its answers, and of its failures."""

import gc
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd_assets import catalog
from sd_assets.errors import CatalogError, ErrorCode, ModelError, RowError
from sd_assets.models.cleaning import ARTEFACTS
from sd_assets.models.endpoint import EndpointCaptioner
from sd_assets.models.endpoint.client import FAILED_IN_A_ROW
from sd_assets.services import backoff
from sd_assets.settings import CaptionerSettings
from sd_assets_tests.models.endpoint.server import KEY, MODEL, Completions, choice, image_of, say, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Completions]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(backoff, "BACKOFF_S", 0.01)
    with serving(Completions()) as state:
        yield state


@pytest.fixture
def opened() -> Iterator[list[EndpointCaptioner]]:
    """Captioners that are closed at the end."""
    made: list[EndpointCaptioner] = []
    yield made
    for captioner in made:
        captioner.close()


@pytest.fixture
def captioner(server: Completions, opened: list[EndpointCaptioner]) -> Any:
    def make(endpoint: dict[str, Any] | None = None, **settings: Any) -> EndpointCaptioner:
        given = {"model": MODEL, "endpoint": {"url": server.url, **(endpoint or {})}, **settings}
        opened.append(EndpointCaptioner(CaptionerSettings.model_validate(given)))
        return opened[-1]

    return make


def picture(width: int = 40, height: int = 30) -> Image.Image:
    return Image.new("RGB", (width, height), (200, 30, 30))


def caption(captioner: EndpointCaptioner, *pictures: Image.Image, variant: str = "default") -> list[Any]:
    return captioner.caption([captioner.preprocess(it) for it in pictures or [picture()]], variant)


# --- what is asked ---------------------------------------------------------------------------------------------------


def test_a_caption(server: Completions, captioner: Any) -> None:
    model = captioner()
    model.load()
    assert caption(model, picture(), picture(50, 20)) == [
        "Describe this image in one sentence.: 40 x 30, None 0",
        "Describe this image in one sentence.: 50 x 20, None 0",
    ]
    body = server.requests[0]
    assert {name: value for name, value in body.items() if name != "messages"} == {
        "model": MODEL,
        "max_tokens": 50,
        "temperature": 0,
    }
    assert model.facts() == {
        "model": f"{server.url}#{MODEL}",
        "requests": 3,
        "prompt_tokens": 200,
        "completion_tokens": 20,
    }


def test_what_variants_ask(server: Completions, captioner: Any) -> None:
    model = captioner(
        prompt="Caption this.",
        variants={
            "short": {"max_new_tokens": 12},
            "long": {
                "prompt": "Everything.",
                "min_new_tokens": 20,
                "temperature": 0.5,
                "top_p": 0.9,
                "seed": 7,
            },
        },
    )
    picture_sent = model.preprocess(picture())
    assert list(model.variants) == ["short", "long"]
    assert [model.caption([picture_sent], name) for name in model.variants] == [
        ["Caption this.: 40 x 30, None 0"],
        ["Everything.: 40 x 30, 7 0"],
    ]
    short, long = ({k: v for k, v in it.items() if k not in ("messages", "model")} for it in server.requests)
    assert short == {"max_tokens": 12, "temperature": 0}
    assert long == {"max_tokens": 50, "min_tokens": 20, "temperature": 0.5, "top_p": 0.9, "seed": 7}


def test_large_pictures_are_sent_smaller_and_small_ones_as_they_are(
    server: Completions, captioner: Any
) -> None:
    model = captioner({"max_side": 64})
    caption(model, picture(640, 320), picture(1, 10_000), picture(64, 63), picture(1, 1))
    sizes = [image.size for body in server.requests if (image := image_of(body))]
    assert sizes == [(64, 32), (1, 64), (64, 63), (1, 1)]


def test_further_fields_and_fields_taken_away(server: Completions, captioner: Any) -> None:
    body = {
        "max_tokens": None,
        "max_completion_tokens": 9,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    caption(captioner({"body": body}))
    sent = server.requests[0]
    assert "max_tokens" not in sent and sent["max_completion_tokens"] == 9
    assert sent["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("most_choices", [128, 2, 1])
def test_several_captions_are_asked_for_together(
    server: Completions, captioner: Any, most_choices: int
) -> None:
    server.most_choices = most_choices  # some servers answer with one, however many they are asked for
    model = captioner(variants={"some": {"count": 3, "top_p": 0.9, "seed": 5}, "one": {}})
    assert list(model.variants) == ["some-1", "some-2", "some-3", "one"]
    sent = [model.preprocess(picture())]
    found = [model.caption(sent, name)[0] for name in model.variants]
    assert len({*found}) == 4
    asked = [(body.get("n", 1), body.get("seed")) for body in server.requests]
    assert (
        asked
        == {
            128: [(3, 5), (1, None)],
            2: [(3, 5), (1, 7), (1, None)],
            1: [(3, 5), (2, 6), (1, 7), (1, None)],
        }[most_choices]
    )


def test_captions_are_cleaned_unless_that_is_off(server: Completions, captioner: Any) -> None:
    server.misbehave = lambda handler, body: (
        say(handler, 200, choice("an arafed man on a sofa")) if body else False
    )
    assert caption(captioner()) == ["a man on a sofa"]
    assert caption(captioner(clean=False)) == ["an arafed man on a sofa"]
    assert caption(captioner(artefacts=["on a sofa"])) == ["an arafed man"]
    prints = [captioner(**more).fingerprint_settings for more in ({}, {"clean": False}, {"artefacts": ["x"]})]
    # The list that is used: an edit of ours captions anew, too, but not where nothing is cleaned.
    assert [print_["artefacts"] for print_ in prints] == [list(ARTEFACTS), None, ["x"]]


def test_what_changes_captions_is_known(captioner: Any) -> None:
    plain = captioner(max_new_tokens=5)
    assert captioner({"timeout_s": 3, "connections": 2, "api_key": KEY}, max_new_tokens=5).identity == (
        plain.identity
    )
    for other in (captioner({"max_side": 64}), captioner({"quality": 50}), captioner({"body": {"a": 1}})):
        assert other.fingerprint_settings != plain.fingerprint_settings
    assert captioner(max_new_tokens=6).fingerprint_settings == plain.fingerprint_settings
    assert captioner(max_new_tokens=6).variants != plain.variants
    two, three = (captioner(count=count, top_p=0.9) for count in (2, 3))
    assert dict(list(three.variants.items())[:2]) == two.variants


def test_many_at_once(server: Completions, captioner: Any) -> None:
    model = captioner({"connections": 4})
    assert model.lanes == 4
    barrier = threading.Barrier(4, timeout=20)

    def together(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if body:
            barrier.wait()  # breaks, unless all four are there
        return False

    server.misbehave = together
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.extend(caption(model))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and server.most_at_once == 4


# --- what fails and passes --------------------------------------------------------------------------------------------


def fails(times: int, status: int, headers: dict[str, str] | None = None) -> Any:
    """Of the requests for captions the first ones fail."""
    left = [times]

    def misbehave(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        if not body or not left[0]:
            return False
        left[0] -= 1
        return say(handler, status, {"error": {"message": "not now"}}, headers)

    return misbehave


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 529])
def test_what_may_pass_is_asked_again(server: Completions, captioner: Any, status: int) -> None:
    server.misbehave = fails(2, status)
    model = captioner()
    assert caption(model) == ["Describe this image in one sentence.: 40 x 30, None 0"]
    assert len(server.requests) == 3 and model.facts()["requests_retried"] == 2


def test_the_server_says_how_long_to_wait(server: Completions, captioner: Any) -> None:
    server.misbehave = fails(1, 429, {"Retry-After": "1"})
    assert caption(captioner())[0].startswith("Describe")
    assert server.times[1] - server.times[0] >= 1
    server.misbehave = fails(9, 429, {"Retry-After": "3600"})
    server.requests.clear()
    (failed,) = caption(captioner())
    assert isinstance(failed, RowError) and failed.code == ErrorCode.RATE_LIMITED
    assert len(server.requests) == 1  # there is no time to wait for that


@pytest.mark.parametrize(
    ("status", "code"),
    [(400, "caption_refused"), (422, "caption_refused"), (429, "rate_limited"), (500, "server_error")],
)
def test_what_fails_for_one_picture_is_its_own_row(
    server: Completions, captioner: Any, status: int, code: str
) -> None:
    def misbehave(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        image = image_of(body) if body else None
        return image is not None and image.width == 13 and say(handler, status, {"error": "no 13"})

    server.misbehave = misbehave
    first, bad, last = caption(captioner({"retries": 1}), picture(), picture(13, 13), picture())
    assert first == last == "Describe this image in one sentence.: 40 x 30, None 0"
    assert bad.code == code and f"HTTP {status}" in bad.detail and "no 13" in bad.detail


@pytest.mark.parametrize(
    ("answer", "code", "detail"),
    [
        (choice(None, message={"refusal": "I cannot help."}), "caption_refused", "I cannot help"),
        (choice("an im", finish_reason="content_filter"), "caption_refused", "content filter"),
        ({"choices": []}, "server_error", "no `choices`"),
        ({"choices": [{"text": "a"}]}, "server_error", "no `message`"),
        (choice(None, message={"content": 5}), "server_error", "no text"),
        ("<html>hello</html>", "server_error", "no JSON"),
    ],
)
def test_answers_without_a_caption(
    server: Completions, captioner: Any, answer: Any, code: str, detail: str
) -> None:
    server.misbehave = lambda handler, body: say(handler, 200, answer) if body else False
    (failed,) = caption(captioner())
    assert failed.code == code and detail in failed.detail


def test_other_forms_of_a_caption(server: Completions, captioner: Any) -> None:
    answers = iter(
        [
            choice(None),
            choice(None, message={"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}),
        ]
    )
    server.misbehave = lambda handler, body: say(handler, 200, next(answers)) if body else False
    assert caption(captioner(), picture(), picture()) == ["", "a b"]


def test_an_answer_that_does_not_come(server: Completions, captioner: Any) -> None:
    ends = threading.Event()
    server.misbehave = lambda handler, body: bool(body) and not ends.wait(20)
    (late,) = caption(captioner({"timeout_s": 0.2, "retries": 0}))
    ends.set()
    assert late.code == ErrorCode.TIMEOUT

    def hang_up(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        handler.close_connection = True
        return bool(body)

    server.misbehave = hang_up
    (cut,) = caption(captioner({"retries": 0}))
    assert cut.code == ErrorCode.CONNECTION_FAILED


# --- what ends the asset ----------------------------------------------------------------------------------------------


def test_when_all_fail_it_stops(server: Completions, captioner: Any) -> None:
    model = captioner({"retries": 0})
    caption(model)
    server.misbehave = fails(1_000, 400)
    failed = [caption(model)[0] for _ in range(FAILED_IN_A_ROW - 1)]
    assert {row.code for row in failed} == {"caption_refused"}
    with pytest.raises(ModelError, match=rf"{FAILED_IN_A_ROW} images in a row failed.*HTTP 400.*is kept"):
        caption(model)
    server.requests.clear()
    with pytest.raises(ModelError, match="in a row failed"):
        caption(model)
    assert not server.requests


def test_a_success_in_between_goes_on(server: Completions, captioner: Any) -> None:
    model = captioner({"retries": 0})
    for _ in range(3):
        server.misbehave = fails(FAILED_IN_A_ROW - 1, 400)
        assert [type(caption(model)[0]) for _ in range(FAILED_IN_A_ROW)][-1] is str


def test_a_model_that_is_not_served(server: Completions, captioner: Any) -> None:
    server.models = ["org/other", "llava:7b"]
    with pytest.raises(
        ModelError, match=rf"'{MODEL}' at {server.url}: the endpoint does not serve it; it"
    ) as e:
        captioner().load()
    assert "llava:7b, org/other" in str(e.value) and "`captioner: model:`" in str(e.value)
    captioner(model="llava").load()  # Ollama's names need no tag


def test_a_server_without_a_list_of_its_models(server: Completions, captioner: Any) -> None:
    server.misbehave = lambda handler, body: not body and say(handler, 404, {"detail": "Not Found"})
    model = captioner()
    model.load()
    assert caption(model)[0].startswith("Describe")
    wrong = captioner(model="other")
    wrong.load()
    with pytest.raises(
        ModelError, match=r"no OpenAI-compatible endpoint that serves this model .*does not exist"
    ):
        caption(wrong)


def test_keys(server: Completions, captioner: Any) -> None:
    server.key = KEY
    with pytest.raises(ModelError, match=r"wants a key .*Set `captioner: endpoint: api_key: \$\{API_KEY\}`"):
        captioner().load()
    wrong = "sk-a-wrong-key-for-this"
    model = captioner({"api_key": wrong})
    with pytest.raises(ModelError, match="does not take the key that it was given") as error:
        model.load()
    assert wrong not in str(error.value)  # though the server says it
    with pytest.raises(ModelError, match="does not take the key"):
        caption(model)
    right = captioner({"api_key": KEY})
    right.load()
    assert caption(right)[0].startswith("Describe")
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    for shown in (right.identity, right.facts(), right.fingerprint_settings, right.variants):
        assert KEY not in str(shown)
    with pytest.raises(ModelError, match="characters that no HTTP header may"):
        captioner({"api_key": f"{KEY}\n"}).load()


@pytest.mark.parametrize("worked", [False, True])
def test_a_403_is_of_the_key_at_first_and_of_the_picture_later(
    server: Completions, captioner: Any, worked: bool
) -> None:
    model = captioner()
    if worked:
        caption(model)
    server.misbehave = fails(1, 403)
    if worked:
        assert caption(model)[0].code == ErrorCode.CAPTION_REFUSED
    else:
        with pytest.raises(ModelError, match="wants a key"):
            caption(model)


def test_places_where_there_is_none(server: Completions, captioner: Any) -> None:
    with pytest.raises(
        ModelError, match=r"does not answer .*: start it, or correct `captioner: endpoint: url:`"
    ):
        captioner({"url": "http://127.0.0.1:9/v1", "retries": 1}).load()
    elsewhere = server.url.removesuffix("/v1") + "/v2"
    model = captioner({"url": elsewhere})
    model.load()  # as it may be one without a list
    with pytest.raises(ModelError, match="ends in /v1 for most"):
        caption(model)
    server.misbehave = lambda handler, body: say(handler, 200, "<html>A page</html>")
    with pytest.raises(ModelError, match="is no OpenAI-compatible endpoint"):
        captioner().load()
    server.misbehave = lambda handler, body: say(handler, 301, "", {"Location": "https://there/v1/models"})
    with pytest.raises(ModelError, match=r"a redirect to https://there/v1/models: give that URL instead"):
        captioner().load()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("localhost:8000/v1", "must look like https://host/v1"),
        ("https://host/v1?key=5ec2e7", "a key is given as `api_key"),
        ("ftp://user:5ec2e7@host/v1", "must look like"),
    ],
)
def test_urls_that_are_none(captioner: Any, url: str, message: str) -> None:
    with pytest.raises(ModelError, match=message) as error:
        captioner({"url": url})
    assert "5ec2e7" not in str(error.value)


def test_a_password_beside_a_variable_that_is_not_set(
    captioner: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(CatalogError, match="NOT_SET_ANYWHERE") as error:
        captioner({"url": "https://me:5ec2e7@${NOT_SET_ANYWHERE}/v1"})
    assert "5ec2e7" not in str(error.value)


def test_spellings_of_the_url(server: Completions, captioner: Any) -> None:
    for url in (f"{server.url}/", f"{server.url}/chat/completions"):
        assert captioner({"url": url}).identity == captioner().identity
    assert captioner({"url": "https://me:5ec2e7@host/v1"}).identity == f"https://host/v1#{MODEL}"


def test_who_forgets_to_close_leaves_no_thread_behind(server: Completions) -> None:
    settings = CaptionerSettings.model_validate({"model": MODEL, "endpoint": {"url": server.url}})
    caption(EndpointCaptioner(settings))
    gc.collect()
    assert not [thread for thread in threading.enumerate() if thread.name == "sd-assets-captioner"]


def test_closed_while_it_is_asked(server: Completions, captioner: Any) -> None:
    asked, ends = threading.Event(), threading.Event()

    def misbehave(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> bool:
        asked.set()
        return ends.wait(20)

    server.misbehave = misbehave
    model = captioner()
    found: list[str] = []

    def ask() -> None:
        try:
            caption(model)
        except RuntimeError as error:
            found.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    assert asked.wait(20)
    model.close()
    thread.join(20)
    ends.set()
    assert found and "was closed while it was asked" in found[0]
    with pytest.raises(RuntimeError, match="is closed"):
        caption(model)


# --- the catalogue ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`endpoint` needs `model:`"),
        ({"model": "a", "revision": "v1"}, "take `revision` away"),
        ({"model": "a", "num_beams": 3}, "searches with no beams"),
        ({"model": "a", "variants": {"b": {"num_beams": 2}}}, "searches with no beams"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CaptionerSettings.model_validate({"endpoint": {"url": "https://host/v1"}, **settings})


def test_an_entry_of_the_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "catalog.yaml"
    path.write_text(
        """
indices: {mine: {kind: faiss, path: index}}
seed_datasets:
  rooms:
    prompts: {texts: [a]}
    clip: {model: a, pretrained: b}
    retrieval: {index: mine}
    captioner:
      model: fireworks/models/large/vlm
      endpoint: {url: "https://me:5ec2e7@host/v1", api_key: "${VLM_KEY}"}
"""
    )
    (tmp_path / "fireworks/models/large/vlm").mkdir(parents=True)  # no folder of this name is meant
    monkeypatch.delenv("VLM_KEY", raising=False)
    unset = catalog.load(path).entry("rooms").captioner
    with pytest.raises(CatalogError, match="VLM_KEY is not set: export VLM_KEY="):
        EndpointCaptioner(unset)
    monkeypatch.setenv("VLM_KEY", KEY)
    read = catalog.load(path)
    settings = read.entry("rooms").captioner
    assert EndpointCaptioner(settings).identity == "https://host/v1#fireworks/models/large/vlm"
    for shown in (repr(read), str(settings), str(read.sections("rooms"))):
        assert KEY not in shown
    section = read.sections("rooms")["captioner"]
    assert section["endpoint"] == {"url": "https://host/v1", "max_side": 768, "quality": 90, "body": {}}
