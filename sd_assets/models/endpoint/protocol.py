"""The protocol of OpenAI-compatible endpoints, as far as captions need it: what is sent, and what an answer says."""

from base64 import b64encode
from collections.abc import Mapping
from typing import Any

from PIL import Image

from sd_assets.errors import ErrorCode, RowError
from sd_assets.images import encode
from sd_assets.models.caption_model import DEFAULT_PROMPT
from sd_assets.settings import CaptionSettings

_SHOWN = 200  # characters of an answer that a message quotes


class ProtocolError(Exception):
    """An answer that no endpoint of this kind gives."""


def data_url(image: Image.Image, max_side: int, quality: int) -> str:
    """A picture (RGB) as a JPEG in a URL; its longer side has at most `max_side` pixels.

    Raises:
        RowError: it cannot be encoded.
    """
    if max(image.size) > max_side:
        image = image.copy()
        image.thumbnail((max_side, max_side), Image.Resampling.LANCZOS)
    return f"data:image/jpeg;base64,{b64encode(encode(image, 'jpg', quality)).decode()}"


def request(
    model: str, picture: str, kind: CaptionSettings, more: Mapping[str, Any], *, had: int = 0
) -> dict[str, Any]:
    """The body of `POST /chat/completions`.

    Args:
        model: as it is named there.
        picture: its data URL.
        kind: what the caption is to be like; a greedy one has the temperature 0.
        more: further fields; null takes one of ours away.
        had: of its `count` captions so many are there already.
    """
    content = [
        {"type": "image_url", "image_url": {"url": picture}},
        {"type": "text", "text": kind.prompt or DEFAULT_PROMPT},
    ]
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": content}],
        "max_tokens": kind.max_new_tokens,
        "temperature": (kind.temperature or 1.0) if kind.samples else 0,
    }
    if kind.min_new_tokens:
        body["min_tokens"] = kind.min_new_tokens  # not of OpenAI's own; vLLM and SGLang know it
    if kind.top_p is not None:
        body["top_p"] = kind.top_p
    if kind.samples:
        body["seed"] = kind.seed + had
    if kind.count - had > 1:
        body["n"] = kind.count - had
    return {name: value for name, value in {**body, **more}.items() if value is not None}


def captions(answer: Any) -> list[str | RowError]:
    """The choices of an answer, on one line each; a RowError for one that the model, or a filter, refused.

    Raises:
        ProtocolError: it is no answer of such an endpoint.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not choices:
        raise ProtocolError(f"the answer has no `choices`: {str(answer)[:_SHOWN]}")
    return [_caption(choice) for choice in choices]


def tokens(answer: Any) -> dict[str, int]:
    """What an answer cost: `prompt_tokens` and `completion_tokens`, as far as it says."""
    usage = answer.get("usage") if isinstance(answer, dict) else None
    costs = usage.items() if isinstance(usage, dict) else ()
    return {
        name: cost
        for name, cost in costs
        if name in ("prompt_tokens", "completion_tokens") and isinstance(cost, int)
    }


def served_models(answer: Any) -> list[str]:
    """The models that `GET /models` lists.

    Raises:
        ProtocolError: it is no answer of such an endpoint.
    """
    listed = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(listed, list):
        raise ProtocolError(f"the answer has no list `data` of models: {str(answer)[:_SHOWN]}")
    return [entry["id"] for entry in listed if isinstance(entry, dict) and isinstance(entry.get("id"), str)]


def _caption(choice: Any) -> str | RowError:
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ProtocolError(f"a choice has no `message`: {str(choice)[:_SHOWN]}")
    if refusal := message.get("refusal"):
        return RowError(ErrorCode.CAPTION_REFUSED, f"the model refused: {str(refusal)[:_SHOWN]}")
    if choice.get("finish_reason") == "content_filter":
        return RowError(ErrorCode.CAPTION_REFUSED, "a content filter of the endpoint ended the caption")
    content = message.get("content")
    if isinstance(content, list):  # in parts
        content = " ".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if not isinstance(content, str | None):
        raise ProtocolError(f"the content of a message is no text: {str(content)[:_SHOWN]}")
    return " ".join((content or "").split())
