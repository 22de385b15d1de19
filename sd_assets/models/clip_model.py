"""What a CLIP is to us once a library has loaded it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from sd_assets.models.preprocessing import Preprocessing


class ClipModel(ABC):
    """A CLIP on its device.

    Attributes:
        preprocessing: what the model does to a picture before it sees it.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self.preprocessing = preprocessing

    @abstractmethod
    def encode_images(self, pixels: Sequence[Any]) -> Any:
        """A tensor [n, dim] of pictures as `preprocessing` made them; of any float type, not normalised."""

    @abstractmethod
    def encode_texts(self, texts: Sequence[str]) -> Any:
        """The same of texts; what is longer than the model's context is cut."""
