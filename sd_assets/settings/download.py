"""How images are fetched, judged, resized and encoded."""

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from sd_assets.settings.base import Settings

ResizeMode = Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"]


class DownloadSettings(Settings):
    """How images are fetched, judged, resized and encoded.

    Attributes:
        image_size: pixels of the side that `resize_mode` speaks of.
        resize_mode: with img2dataset's meaning. `no`: as it is; `border`: the whole image in a white square;
            `keep_ratio`: the smaller side becomes image_size; `keep_ratio_largest`: the larger side does;
            `center_crop`: like keep_ratio, then the middle square.
        resize_only_if_bigger: leave images alone that are smaller than image_size.
        image_format: of the images in the table.
        quality: of the encoder, 1 to 100.
        min_image_size: pixels of the smaller side, at least.
        max_aspect_ratio: larger side over smaller side, at most.
        max_pixels: pixels of the original, at most; judged from the header, before decoding.
        max_bytes: bytes of the original, at most.
        timeout_s: seconds for one attempt, from connecting to the last byte.
        retries: further attempts after a failure that may pass.
        retry_failed_after_h: hours after which a later run tries again what failed in a way that may pass.
        give_up_after_d: days after the first failure of a URL. If an attempt fails so late, the failure counts as permanent.
        retry_permanent_after_d: days after which a later run asks again for what failed otherwise, or was given up.
        refetch_after_d: days after which a later run asks whether an image has changed (by ETag and Last-Modified,
            where the server gave them); null: never.
        max_redirects: redirects followed, at most.
        connections: images in flight at once.
        connections_per_host: of these, from one host.
        host_failures: failures in a row (no connection, or no whole answer in time) after which a host is left alone for the
            rest of the run; null: never. A time-out after redirects that used up more than half of the time does not count.
        user_agent: how the downloader introduces itself; robots.txt and X-Robots-Tag may name what stands before its `/`.
        contact: a mail address or a URL for those who run the servers; sent with the user_agent.
        robots_txt: whether a host's robots.txt is obeyed.
        x_robots_tag: whether an answer's X-Robots-Tag of noai, noimageai, noindex or noimageindex is obeyed.
        ports: that may be connected to at public addresses.
        allow_addresses: private or loopback networks that may be fetched from all the same: `127.0.0.1`,
            `10.0.0.0/8`, `[::1]`, each optionally with `:port`.
    """

    # Only what may pass, or is looked at again, could come out otherwise; a longer timeout must not fetch all anew.
    WITHOUT_EFFECT = frozenset(
        {
            "timeout_s",
            "retries",
            "retry_failed_after_h",
            "give_up_after_d",
            "retry_permanent_after_d",
            "refetch_after_d",
            "max_redirects",
            "connections",
            "connections_per_host",
            "host_failures",
            "user_agent",
            "contact",
            "robots_txt",
            "x_robots_tag",
        }
    )

    def fetch_effects(self) -> dict[str, Any]:
        """Those of the `effects` that decide what may be fetched at all, whatever is made of it then."""
        return self.model_dump(mode="json", include={"max_bytes", "allow_addresses", "ports"})

    image_size: int = Field(512, ge=1, le=16_384)
    resize_mode: ResizeMode = "center_crop"
    resize_only_if_bigger: bool = False
    image_format: Literal["jpg", "png", "webp"] = "jpg"
    quality: int = Field(95, ge=1, le=100)
    min_image_size: int = Field(0, ge=0)
    max_aspect_ratio: float | None = Field(None, ge=1)
    max_pixels: int = Field(100_000_000, ge=1)
    max_bytes: int = Field(50_000_000, ge=1)
    timeout_s: float = Field(10, gt=0)
    retries: int = Field(2, ge=0, le=20)
    retry_failed_after_h: float = Field(24, ge=0)
    give_up_after_d: float = Field(60, ge=0)
    retry_permanent_after_d: float = Field(90, ge=0)
    refetch_after_d: float | None = Field(None, ge=0)
    max_redirects: int = Field(5, ge=0, le=20)
    connections: int = Field(64, ge=1, le=4096)
    connections_per_host: int = Field(6, ge=1, le=4096)
    host_failures: int | None = Field(20, ge=1)
    user_agent: str = "sd_assets/0.1"
    contact: str | None = None
    robots_txt: bool = True
    x_robots_tag: bool = True
    ports: tuple[Annotated[int, Field(ge=1, le=65_535)], ...] = (80, 443)
    allow_addresses: tuple[str, ...] = ()

    @field_validator("user_agent")
    @classmethod
    def _names_itself(cls, value: str) -> str:
        if not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
            raise ValueError(
                f"{value!r} can be no User-Agent: write a name and a version in plain ASCII, such as sd_assets/0.1"
            )
        return value

    @field_validator("contact")
    @classmethod
    def _can_be_written_to(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"https?://[!-~]+|(mailto:)?[!-~]+@[!-~]+", value):
            raise ValueError(
                f"{value!r} is no contact: write a mail address (who@example.org) or a URL (https://example.org/bot)"
            )
        return value

    @field_validator("allow_addresses")
    @classmethod
    def _addresses_parse(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            parse_allowed_address(text)
        return value


def parse_allowed_address(text: str) -> tuple[str, int | None]:
    """`10.0.0.0/8`, `127.0.0.1:8000`, `[::1]:8000` -> (network, port or None).

    Raises:
        ValueError: the text is no address or network.
    """
    match = re.fullmatch(r"(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[\d./]+))(?::(?P<port>\d+))?", text)
    bare = (match["v6"] or match["v4"]) if match else text
    try:
        network = str(ipaddress.ip_network(bare, strict=False))
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no address or network: write 127.0.0.1, 10.0.0.0/8, 127.0.0.1:8000 or [::1]:8000"
        ) from error
    port = match and match["port"]
    return network, int(port) if port else None
