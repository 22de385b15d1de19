"""Our definitions with toy models, their steps in the process of the run: what Dagster loads for `project.Project`."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import numpy as np

from sd_assets.definitions import build_definitions
from sd_assets.images import decode_rgb
from sd_assets.models.caption_model import CaptionModel


class ToyEncoder:
    """Texts and images as vectors, without a model."""

    identity = "toy"
    dim = 2
    batch_size = 32
    lanes = 1
    on_cpu = False
    fingerprint_settings: dict[str, Any] = {"model": "toy"}  # noqa: RUF012

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def load(self) -> None: ...

    def facts(self) -> dict[str, Any]:
        return {"model": "toy"}

    def pixels(self, data: bytes) -> Any:
        return np.asarray(decode_rgb(data))

    def encode_images(self, images: Sequence[Any], failed: Any = None) -> Any:
        return _of_length_1([[image.mean(), 1.0] for image in images])

    def encode_texts(self, texts: Sequence[str], failed: Any = None) -> Any:
        return _of_length_1([[len(text), 1.0] for text in texts])


class ToyCaptioner(CaptionModel):
    """Says how large a picture is."""

    identity = "toy"

    def caption(self, inputs: Sequence[Any], variant: str) -> list[str]:
        return [f"a picture {image.width} wide" for image in inputs]


class ToyClip(dg.ConfigurableResource["ToyClip"]):
    def encoder(self, settings: Any) -> ToyEncoder:
        return ToyEncoder(settings)


class ToyCaptioners(dg.ConfigurableResource["ToyCaptioners"]):
    def captioner(self, settings: Any) -> ToyCaptioner:
        return ToyCaptioner()


def _of_length_1(vectors: list[list[float]]) -> Any:
    rows = np.array(vectors, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


_OURS = build_definitions({"clip": ToyClip(), "captioner": ToyCaptioners()})
defs = dg.Definitions(
    assets=_OURS.assets,
    asset_checks=_OURS.asset_checks,
    jobs=_OURS.jobs,
    schedules=_OURS.schedules,
    sensors=_OURS.sensors,
    resources=_OURS.resources,
    executor=dg.in_process_executor,
)
