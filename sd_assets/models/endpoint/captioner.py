"""A captioner whose model runs elsewhere."""

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from PIL import Image
from pydantic import SecretStr

from sd_assets.catalog import require_secret_set, require_set
from sd_assets.errors import RowError
from sd_assets.models.caption_model import CaptionModel
from sd_assets.models.cleaning import cleaner_of
from sd_assets.models.endpoint.client import EndpointClient, base_of
from sd_assets.models.endpoint.protocol import data_url
from sd_assets.settings import CaptionerSettings, NumberedCaption, without_password


@dataclass
class _Picture:
    """A picture as it is sent, and the captions of each kind once they have come; of one thread at a time."""

    url: str
    captions: dict[str, list[str | RowError]] = field(default_factory=dict)


class EndpointCaptioner(CaptionModel):
    """A model behind `POST /chat/completions`. For as many threads at once as there are `connections`.

    Connections are kept from `load()`, or the first caption, to `close()`.

    Args:
        settings: of the captioner, with an `endpoint`.

    Raises:
        ModelError: the URL cannot be one of an endpoint.
        CatalogError: a variable of the environment is not set.
    """

    remote: ClassVar[bool] = True

    def __init__(self, settings: CaptionerSettings) -> None:
        if settings.endpoint is None:
            raise ValueError("these settings have no endpoint")
        self._model = require_set(settings.model, "captioner.model")
        self._settings = settings
        self._endpoint = settings.endpoint
        require_secret_set(settings.endpoint.api_key, "captioner.endpoint.api_key")
        # There may be a password beside the variable that is not set.
        require_secret_set(SecretStr(settings.endpoint.url), "captioner.endpoint.url")
        self._base = base_of(settings.endpoint.url)
        self._clean = cleaner_of(settings)
        self._variants = settings.numbered
        self._counts: Counter[str] = Counter()
        self._opening = threading.Lock()
        self._client: EndpointClient | None = None
        self._closed = False

    @property
    def identity(self) -> str:
        """The URL, without a password, and the name of the model there."""
        return f"{without_password(self._base)}#{self._model}"

    @property
    def batch_size(self) -> int:
        """As many images are read at once as are asked for."""
        return self._endpoint.connections

    @property
    def lanes(self) -> int:
        return self._endpoint.connections

    @cached_property
    def variants(self) -> dict[str, dict[str, Any]]:
        return {name: _effects(variant) for name, variant in self._variants.items()}

    @property
    def fingerprint_settings(self) -> dict[str, Any]:
        """What changes the captions of every variant."""
        return {
            "model": self.identity,
            "artefacts": self._clean.artefacts if self._clean else None,
            "max_side": self._endpoint.max_side,
            "quality": self._endpoint.quality,
            "body": self._endpoint.body,
        }

    def facts(self) -> dict[str, Any]:
        """The model; how many requests this run made, how many of them again, and what they cost in tokens."""
        return {"model": self.identity, **dict(sorted(self._counts.items()))}

    def load(self) -> None:
        """Asks the endpoint for its models.

        Raises:
            ModelError: it cannot be reached, wants another key, or does not serve the model.
        """
        self._closed = False
        self._opened().probe()

    def preprocess(self, image: Image.Image) -> _Picture:
        """A picture (RGB, of any size) as it is sent."""
        return _Picture(data_url(image, self._endpoint.max_side, self._endpoint.quality))

    def caption(self, inputs: Sequence[_Picture], variant: str) -> list[str | RowError]:
        """A caption for each picture, one after the other. All of a `count` are asked for with the first.

        Raises:
            ModelError: the endpoint fails every picture, or will fail every one.
            RuntimeError: it was closed meanwhile.
        """
        asked = self._variants[variant]
        client = self._opened()
        for picture in inputs:
            if asked.kind not in picture.captions:
                picture.captions[asked.kind] = client.captions(picture.url, asked.settings)
        return [self._cleaned(picture.captions[asked.kind][asked.number]) for picture in inputs]

    def close(self) -> None:
        """Give up what is under way, and close the connections."""
        with self._opening:
            self._closed = True
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _cleaned(self, caption: str | RowError) -> str | RowError:
        return caption if isinstance(caption, RowError) or self._clean is None else self._clean(caption)

    def _opened(self) -> EndpointClient:
        with self._opening:
            if self._closed:  # also for a thread that asks on while the others were stopped
                raise RuntimeError(f"the captioner {self.identity} is closed")
            if self._client is None:
                self._client = EndpointClient(self._base, self._model, self._endpoint, self._counts)
            return self._client


def _effects(variant: NumberedCaption) -> dict[str, Any]:
    """What changes a caption: not how many others there are of its kind, nor a seed of which nothing is drawn."""
    kind = variant.settings
    effects = kind.model_dump(mode="json", exclude={"count", "num_beams", "seed"})
    return {**effects, "seed": kind.seed, "number": variant.number} if kind.samples else effects
