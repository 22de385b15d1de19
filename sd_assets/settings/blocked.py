"""What was taken down."""

from functools import cached_property
from typing import Annotated, Any

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from sd_assets.blocked import Blocked, normal_image, normal_url
from sd_assets.settings.base import Settings, host_name


def blocked_url(text: str) -> str:
    """A URL as `Blocked` wants it.

    Raises:
        PydanticCustomError: it is none; says what is allowed.
    """
    normal = normal_url(text)
    if normal is None:
        raise PydanticCustomError(
            "blocked_url",
            "must be a URL with http:// or https:// and a host; a whole host goes under `hosts:`",
        )
    return normal


def blocked_host(text: str) -> str:
    """A host as `Blocked` wants it. Raises PydanticCustomError, as `blocked_url` does."""
    if "://" in text:
        raise PydanticCustomError("blocked_host", "must be a host, and is a URL: that goes under `urls:`")
    return host_name(text)


def blocked_image(text: str) -> str:
    """The sha256 of an image as `Blocked` wants it. Raises PydanticCustomError, as `blocked_url` does."""
    normal = normal_image(text)
    if normal is None:
        raise PydanticCustomError(
            "blocked_image",
            "must be the sha256 of the image's bytes, the image_id: 64 hexadecimal digits; these are {length} characters",
            {"length": len(text.strip())},
        )
    return normal


class BlockedSettings(Settings):
    """What was taken down or opted out, for all entries: gone from every table at its next refresh.

    Attributes:
        urls: of images; compared as `sd_assets.blocked` says.
        hosts: with all their sub-domains.
        images: the sha256 (hex) of images' bytes as they came: their `image_id`.
        file: a UTF-8 text file with more of them, one URL, host or sha256 a line; `#` begins a comment.
        delete_older_versions: kept older versions that hold any of it are deleted, too.
    """

    urls: tuple[Annotated[str, AfterValidator(blocked_url)], ...] = ()
    hosts: tuple[Annotated[str, AfterValidator(blocked_host)], ...] = ()
    images: tuple[Annotated[str, AfterValidator(blocked_image)], ...] = ()
    file: str | None = None
    delete_older_versions: bool = False

    @cached_property
    def list(self) -> Blocked:
        """What is on it; after `sd_assets.catalog` has read the file, that is in it."""
        return Blocked(self.urls, self.hosts, self.images)

    def effects(self) -> dict[str, Any]:
        """How many there are, and a digest: what is blocked is to be shown nowhere."""
        counts = {name: len(getattr(self, name)) for name in ("urls", "hosts", "images")}
        if not self.list:
            return {}
        return {
            "digest": self.list.digest,
            **counts,
            "delete_older_versions": self.delete_older_versions,
        }
