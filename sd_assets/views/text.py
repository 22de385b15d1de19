"""Texts of the web and of errors, made fit to be shown: no passwords, signatures, tokens; nothing that cannot be seen."""

import functools
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

HIDDEN = "…"
# Not visible themselves, but they shape what is: Indic and Persian script, emoji.
_JOINERS = "\u200c\u200d"

# Environment variables whose values are secrets, by their names. A value that is short is none: `1`, `true`.
_SECRET_VARIABLE = re.compile(
    r"TOKEN|SECRET|PASSW|CREDENTIAL|AUTH|_KEY(?:_ID)?$|APIKEY|WEBHOOK", re.IGNORECASE
)
_LEAST_SECRET = 8

# Texts may be written to keep us busy: each pattern begins where the one before cannot have been, and sees so much.
_MAX_LENGTH = 2_000
_MAX_ITEMS = 20
_URL = re.compile(r"((?<![a-zA-Z0-9+.-])[a-zA-Z][a-zA-Z0-9+.-]*:)?//[^\s\"'<>`]+")
_AUTHORITY = re.compile(r"(\[[^\]]*\]|[^:@\[\]]*)(:\d*)?")
_QUERY = re.compile(r"\?[^\s\"'<>`?=]*=[^\s\"'<>`]*")
_USER = re.compile(r"(?<![^\s/:@\"'<>`])[^\s/:@\"'<>`]+:[^\s/@\"'<>`]+@")
_NAMED = re.compile(
    r"((?:token|secret|passw(?:or)?d|signature|credential|api[-_]?key|access[-_]?key|session[-_]?id"
    r"|(?<![a-z])(?:sig|auth|pwd|authorization)(?![a-z]))[\w.-]*[\"']?\s*(?:[:=]|%3D)\s*[\"']?)[^\s\"'&;,)<>]+",
    re.IGNORECASE,
)
_SCHEME = re.compile(r"\b(bearer|basic)\s+[^\s\"',;<>]{6,}", re.IGNORECASE)
# Of the Hugging Face Hub, AWS, GitHub, OpenAI, Slack, Google, GitLab; and a JSON web token.
_TOKEN = re.compile(
    r"\b(hf_\w{16,}|A[KS]IA[0-9A-Z]{16}|gh[pousr]_\w{20,}|sk-[\w-]{16,}|xox[abprs]-[\w-]{10,}|AIza[\w-]{20,}"
    r"|glpat-[\w-]{16,}|eyJ[\w-]{10,}\.[\w.-]+)"
)


def public(text: str) -> str:
    """The text without secrets; the first 2,000 characters of it.

    Of a URL the user, the query and the fragment go: signatures are in there. What looks like a token, stands after a name
    like `password=`, or is the value of an environment variable named like `HF_TOKEN`, is replaced by `…`. A secret in the
    path of a URL is not recognised.
    """
    return publisher()(text)


def publisher() -> Callable[[str], str]:
    """`public`, for many texts: the environment is looked through once, now."""
    return functools.partial(_public, _secrets())


def _public(secrets: Sequence[str], text: str) -> str:
    for value in secrets:
        text = text.replace(value, HIDDEN)
    if len(text) > _MAX_LENGTH:
        text = text[:_MAX_LENGTH] + HIDDEN
    plain = text.isascii()  # of others more is equal than what `lower` makes so: `ſ` and `s`
    for pattern, instead, hints in _PATTERNS:
        lowered = text.lower()
        if not plain or any(hint in lowered for hint in hints):
            text = pattern.sub(instead, text)
    return text


def public_json(value: Any) -> Any:
    """A JSON value with all its texts made `public`, and of lists the first 20 items: small enough for an event."""
    if isinstance(value, str):
        return public(value)
    if isinstance(value, Mapping):
        return {public(str(name)): public_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        more = [f"and {len(value) - _MAX_ITEMS} more"] if len(value) > _MAX_ITEMS else []
        return [*map(public_json, value[:_MAX_ITEMS]), *more]
    return value


def visible(text: str) -> str:
    """The text with a space for each control character, mark of direction, line break, and half of a surrogate pair."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in _JOINERS else " " for char in text)


def one_line(error: BaseException) -> str:
    """What an exception says, as one line of at most 300 characters, `public`."""
    return shortened(public(str(error)), 300) or type(error).__name__


def shortened(text: str, length: int) -> str:
    """One line of visible characters, at most `length` of them."""
    line = " ".join(visible(text[: 8 * length]).split())
    return line if len(line) <= length else line[: length - 1].rstrip() + HIDDEN


def _public_url(match: re.Match[str]) -> str:
    scheme, _, rest = match[0].partition("//")
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    path, mark, _ = (rest[len(authority) :]).replace("#", "?").partition("?")
    host = authority.rpartition("@")[2]
    if not _AUTHORITY.fullmatch(host):
        return f"{scheme}//{HIDDEN}"  # a password with a slash in it, or worse
    return f"{scheme}//{host}{path}" + (f"?{HIDDEN}" if mark else "")


def _secrets() -> list[str]:
    values = {
        form
        for name, value in os.environ.items()
        if _SECRET_VARIABLE.search(name) and len(value) >= _LEAST_SECRET
        for form in (value, quote(value, safe=""))
    }
    return sorted(values, key=len, reverse=True)


# What is looked for, in this order; what it is replaced by; and texts of which one is in whatever is found, in lower case: most
# texts have none, and to look for these takes a tenth of the time.
_PATTERNS: Final[
    tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str], tuple[str, ...]], ...]
] = (
    (_URL, _public_url, ("//",)),
    (_USER, f"{HIDDEN}@", ("@",)),
    (_QUERY, f"?{HIDDEN}", ("?",)),
    (_SCHEME, rf"\1 {HIDDEN}", ("bearer", "basic")),
    (
        _NAMED,
        rf"\1{HIDDEN}",
        ("token", "secret", "passw", "credential", "key", "session", "sig", "auth", "pwd"),
    ),
    (_TOKEN, HIDDEN, ("hf_", "akia", "asia", "gh", "sk-", "xox", "aiza", "glpat-", "eyj")),
)
