"""What captioning asks of a model, whatever runs it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from PIL import Image

from sd_assets.errors import RowError

# The variant of a model that has one, and of an image's own text.
DEFAULT_VARIANT: Final = "default"

# What a model that has to be asked is asked without a `prompt:`.
DEFAULT_PROMPT: Final = "Describe this image in one sentence."


class CaptionModel(ABC):
    """A picture in, a text out. `captioner.Captioner` is ours; one of your own subclasses this (docs/own_stage.md).

    A model may have several captions for a picture, its variants: a short and a long one, or several samples.

    Attributes:
        remote: somebody else's machine answers: it is asked of one picture at a time in each thread, and what of it failed
            in a way that may pass (`timeout`, `rate_limited` ...) is asked again by the next run.
    """

    remote: ClassVar[bool] = False

    @property
    @abstractmethod
    def identity(self) -> str:
        """Names the model and its version: with another one, images are captioned anew."""

    @property
    def on_cpu(self) -> bool:
        """Whether `caption` keeps all cores of this machine busy."""
        return False

    @property
    def batch_size(self) -> int:
        """Images that `caption` gets at once, at most."""
        return 16

    @property
    def lanes(self) -> int:
        """Threads that may call `caption` at once; asked once more after `load`."""
        return 1

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        """The captions of a picture by name, in order, each with what of its settings changes it, as JSON.

        With other settings, the captions of that variant are made anew, and those of the others are not.
        """
        return {DEFAULT_VARIANT: {}}

    @property
    def fingerprint_settings(self) -> dict[str, Any]:
        """What changes the captions of every variant, as JSON."""
        return {"model": self.identity}

    def facts(self) -> dict[str, Any]:
        """What was used, for the metadata of the run."""
        return {"model": self.identity}

    def load(self) -> None:  # noqa: B027 - many models load when they are first called
        """Makes all ready, before the first picture. Raises `ModelError`, which says what to do, if that cannot be."""

    def preprocess(self, image: Image.Image) -> Any:
        """A picture (RGB, of any size) as `caption` takes it. Called ahead, from several threads, once a picture.

        Raises:
            RowError: this picture cannot be captioned; the others can.
        """
        return image

    @abstractmethod
    def caption(self, inputs: Sequence[Any], variant: str) -> Sequence[str | RowError]:
        """A caption for each of what `preprocess` made, in order.

        Args:
            inputs: at most `batch_size`; with several variants, the same objects come once for each.
            variant: a name of `variants`.

        Returns:
            for each its text, empty where the model said nothing; or why that picture has none.
        """

    def close(self) -> None:  # noqa: B027 - most models hold nothing that must be given back
        """Gives back what the model took, connections for example; a run then asks for nothing but `facts`."""
