"""How a service that somebody runs is asked over HTTP, and what of its URL is a secret."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from sd_assets.settings.base import Settings

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|")
# Fields of a request that would be a credential: there is `api_key` for it, which is kept nowhere.
CREDENTIALS = frozenset(
    {
        "access_token",
        "api-key",
        "api_key",
        "apikey",
        "auth",
        "auth_token",
        "authorization",
        "bearer",
        "credentials",
        "key",
        "password",
        "secret",
        "token",
        "x-api-key",
    }
)


def _split(url: str) -> tuple[str, str]:
    """`https://`, and what follows it."""
    start = _SCHEME.match(url)
    place = start.end() if start else 0
    return url[:place], url[place:]


def without_password(url: str) -> str:
    """A URL without the name and password that may stand in it: of what follows the scheme, all up to the last `@`."""
    scheme, rest = _split(url)
    return f"{scheme}{rest.rpartition('@')[2]}"


def _with_readable_user(url: str) -> str:
    # `http://me:pa/ss@host` has the host `me`: it would be asked, and a part of the password shown as the path.
    _, rest = _split(url)
    if "@" in re.sub(r"^[^/?#]*", "", rest):
        raise ValueError(
            "has an `@` behind the first `/`, `?` or `#`, so that a name and password before the host cannot be told from the "
            "path: in a password write %2F for `/`, %3F for `?` and %23 for `#`, in a path %40 for `@`"
        )
    return url


# A URL of which nothing but name and password is secret; these stand before the host, if at all.
ServiceUrl = Annotated[str, AfterValidator(_with_readable_user)]


def _secret(value: Any) -> Any:
    # What pydantic says of another type quotes the value.
    if value is not None and not isinstance(value, str | SecretStr):
        raise ValueError(
            "must be a text: put quotes around it, or better, take it from the environment: ${API_KEY}"
        )
    return value


class ServiceSettings(Settings):
    """How an HTTP service is asked.

    Attributes:
        timeout_s: seconds for one attempt.
        deadline_s: seconds for an answer with all attempts and the waits between them.
        retries: further attempts at what failed in a way that may pass.
        connections: requests in flight at once, at each of the services.
        max_bytes: of one answer, at most.
        api_key: sent with every request; from the environment, `${API_KEY}`. It is shown and kept nowhere.
        api_key_header: the header that it is sent in; in `Authorization` it follows the word `Bearer`.
    """

    WITHOUT_EFFECT = frozenset(
        {"timeout_s", "deadline_s", "retries", "connections", "max_bytes", "api_key", "api_key_header"}
    )

    timeout_s: float = Field(30, gt=0)
    deadline_s: float = Field(300, gt=0)
    retries: int = Field(2, ge=0, le=20)
    connections: int = Field(8, ge=1, le=256)
    max_bytes: int = Field(64_000_000, ge=1)
    api_key: Annotated[SecretStr | None, BeforeValidator(_secret)] = None
    api_key_header: str = Field("Authorization", pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
