"""What captioning asks of a model, whatever runs it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from PIL import Image


class CaptionModel(ABC):
    """A picture in, a text out. `captioner.Captioner` is ours; one of your own subclasses this (docs/own_stage.md)."""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Names the model and its version: with another one, images are captioned anew."""

    @property
    def batch_size(self) -> int:
        """Images that `caption` gets at once, at most."""
        return 16

    @property
    def fingerprint_settings(self) -> dict[str, Any]:
        """What changes the captions, as JSON."""
        return {"model": self.identity}

    def facts(self) -> dict[str, Any]:
        """What was used, for the metadata of the run."""
        return {"model": self.identity}

    def preprocess(self, image: Image.Image) -> Any:
        """A picture (RGB, of any size) as `caption` takes it. Called ahead, from several threads.

        Raises:
            RowError: this picture cannot be captioned; the others can.
        """
        return image

    @abstractmethod
    def caption(self, inputs: Sequence[Any]) -> list[str]:
        """A caption for each of what `preprocess` made, in order; empty: the model said nothing."""
