"""CLIP, captioners and the models behind scores as resources. All load lazily: building one costs nothing."""

import dagster as dg

from sd_assets.models.caption_model import CaptionModel
from sd_assets.models.captioner import Captioner
from sd_assets.models.clip import ClipEncoder
from sd_assets.models.scoring.classifier import ImageClassifier
from sd_assets.models.scoring.head import Head
from sd_assets.settings import CaptionerSettings, ClipSettings, ScoreModelSettings


class _ModelResource(dg.ConfigurableResource["_ModelResource"]):
    """Where models run.

    Attributes:
        device: `cuda`, `cuda:1`, `mps`, `cpu`, or `auto`: the first of these that there is.
        precision: `float32`, `bfloat16`, `float16`, or `auto`: what is right for the device.
    """

    device: str = "auto"
    precision: str = "auto"


class ClipResource(_ModelResource):
    """CLIP encoders, by open_clip or transformers."""

    def encoder(self, settings: ClipSettings) -> ClipEncoder:
        """The encoder that an entry names; not loaded yet."""
        return ClipEncoder(settings, device=self.device, precision=self.precision)


class CaptionerResource(_ModelResource):
    """Image-to-text models, by transformers or behind an endpoint."""

    def captioner(self, settings: CaptionerSettings) -> CaptionModel:
        """The captioner that an entry names; not loaded yet."""
        if settings.endpoint is not None:
            from sd_assets.models.endpoint import EndpointCaptioner

            return EndpointCaptioner(settings)
        return Captioner(settings, device=self.device, precision=self.precision)


class ScoreModelResource(_ModelResource):
    """Models that give an image a number: heads on its embedding, which take no device, and image classifiers."""

    def model(self, settings: ScoreModelSettings, score: str) -> Head | ImageClassifier:
        """The model that an entry names under `scores:`; not loaded yet.

        Args:
            settings: which.
            score: the name of its field there.
        """
        if settings.head is not None:
            return Head(settings, score)
        return ImageClassifier(settings, score, device=self.device, precision=self.precision)
