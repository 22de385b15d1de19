"""Texts fit to be shown."""

from collections.abc import Callable

import pytest

from sd_assets.views.text import public, shortened
from sd_assets_tests.views.hostile import SECRETS


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_not_shown(text: str, secret: str) -> None:
    assert secret in text
    assert secret not in public(text)
    assert secret not in public(f"could not fetch {text}, gave up")


@pytest.mark.parametrize("case", [str, str.upper, str.lower, str.title], ids=lambda case: case.__name__)
def test_what_is_passed_over_holds_nothing(case: Callable[[str], str]) -> None:
    words = "token secret passwd password signature credential api-key access_key session-id sig auth pwd authorization"
    named = [f"my {word}: 5ec2e7" for word in words.split()]
    begins = [
        "hf_",
        "AKIA",
        "ASIA",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "sk-",
        "xoxb-",
        "AIza",
        "glpat-",
        "eyJ",
    ]
    tokens = [f"a {begin}{'0' * (16 if begin.endswith('IA') else 20)}.5ec2e7" for begin in begins]
    assert all(public(token) != token for token in tokens)
    for text in map(case, (*(text for text, _ in SECRETS), *named, *tokens)):
        # With a letter that is not ASCII nothing is passed over.
        assert f"{public(text)} é" == public(f"{text} é")


@pytest.mark.parametrize(
    "text",
    [
        "https://example.org:8080/a/b-1_x.jpg",
        "http://[::1]:80/a.jpg",
        "https://medium.com/@somebody/a.jpg",
        "//cdn.example.org/a.jpg",
        "a red sofa, by design: made of oak (50%)",
        "Authorised at 10:30; signal=weak, significant=yes",
        "status 401 Unauthorized",
        "the content begins with b'<!DOCTYPE html>'",
        "https://例え.jp/写真.jpg",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert public(text) == text


def test_what_is_left_of_a_url() -> None:
    assert public("see http://me:pw@host:81/a.jpg?sig=1#x now") == "see http://host:81/a.jpg?… now"


def test_values_of_secret_variables_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "correct horse/battery")
    monkeypatch.setenv("MY_SECRET_SWITCH", "true")
    assert public("a correct horse/battery staple") == "a … staple"
    assert public("path/correct%20horse%2Fbattery/x") == "path/…/x"
    monkeypatch.setenv("SD_ASSETS_ALERT_WEBHOOK", "https://hooks.slack.com/services/T0/B0/xyz")
    assert public("to https://hooks.slack.com/services/T0/B0/xyz: 404") == "to …: 404"
    # What is that short is no secret.
    assert public("it is true") == "it is true"


def test_a_line_is_short_and_visible() -> None:
    assert shortened("a\n\n b\tc\u202e\x07d", 20) == "a b c d"
    assert shortened("x" * 50, 10) == "x" * 9 + "…"
    assert shortened("y" * 10, 10) == "y" * 10
    # Persian and emoji need their joiners.
    assert shortened("می\u200cخواهم 👩\u200d🍳", 20) == "می\u200cخواهم 👩\u200d🍳"


@pytest.mark.parametrize("piece", ["x", "x:", "?", "//", "token", "eyJ-", "a@", "http://", "sig= "])
def test_no_text_keeps_us_busy(piece: str) -> None:
    # Were it read more than once a character, this would never end.
    assert len(public(piece * 1_000_000)) <= 2_001
