"""aesthetic_scores and nsfw_scores: the number that a model gives every image, if the entry asks for one."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.errors import ErrorCode, ModelError, RowError
from sd_assets.models.scoring.classifier import ImageClassifier
from sd_assets.models.scoring.head import Head
from sd_assets.schemas import TableSchema
from sd_assets.stages.embedded import embeddings_of
from sd_assets.stages.stage import Stage, failure, or_error, rows_of

VERSION = "2"
# Scores whose numbers mean nothing beyond these.
_BOUNDS = {"nsfw": (0.0, 1.0)}
# By how much a model that was trained to answer such numbers passes them at times.
_TOLERANCE = 0.05
# Of a batch: as many beyond the bounds, and most of it, are of a model that answers something else.
_SEVERAL = 5
_EMBEDDINGS_A_BATCH = 1_024


class _ScoreStage(Stage):
    """What both kinds of models have in common.

    Args:
        schema: a table of `image_id`, the score and `model`.
        model: that gives the number.
    """

    version = VERSION

    def __init__(self, schema: TableSchema, model: Head | ImageClassifier) -> None:
        self._schema = schema
        self._score = schema.arrow.names[1]
        self._model = model

    @property
    def schema(self) -> TableSchema:
        return self._schema

    def settings(self) -> dict[str, Any]:
        return self._model.fingerprint_settings

    def facts(self) -> dict[str, Any]:
        return self._model.facts()

    def open(self) -> None:
        self._model.load()

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        identities = rows.column("image_id").to_pylist()
        scores = self._scores(rows, prepared)
        self._require_scale([it for it in scores if not isinstance(it, RowError)])
        return rows_of(
            self._schema,
            (
                {"image_id": identity, **self._columns(score)}
                for identity, score in zip(identities, scores, strict=True)
            ),
        )

    @abstractmethod
    def _scores(self, rows: pa.RecordBatch, prepared: list[Any]) -> list[float | RowError]:
        """The score of each row, or why it has none."""

    def _columns(self, score: float | RowError) -> dict[str, Any]:
        if isinstance(score, RowError):
            return failure(score)
        if not np.isfinite(score):
            return failure(RowError(ErrorCode.NOT_FINITE, f"{self._model.identity} answered NaN or infinity"))
        if not self._is_within(score):
            return failure(RowError(ErrorCode.MODEL_FAILED, self._beyond(score)))
        return {self._score: float(np.clip(score, *self._bounds)), "model": self._model.identity}

    @property
    def _bounds(self) -> tuple[float, float]:
        return _BOUNDS.get(self._score, (-np.inf, np.inf))

    def _is_within(self, score: float) -> bool:
        low, high = self._bounds
        return low - _TOLERANCE <= score <= high + _TOLERANCE

    def _require_scale(self, scores: Sequence[float]) -> None:
        """
        Raises:
            ModelError: most are no such numbers, as those of a model that answers logits.
        """
        beyond = [score for score in scores if np.isfinite(score) and not self._is_within(score)]
        if len(beyond) >= _SEVERAL and len(beyond) > len(scores) / 2:
            raise ModelError(self._beyond(beyond[0]))

    def _beyond(self, score: float) -> str:
        low, high = self._bounds
        return (
            f"{self._model.identity} answered {score:g}, and {self._score} is a number from {low:g} to {high:g}: for a head that "
            "answers logits set `sigmoid: true`; of a classifier name the `label:` whose probability is the score"
        )


class HeadStage(_ScoreStage):
    """By a head on the embedding. A row whose embedding failed fails with the same code."""

    reads = ("embedding", "embedding_error")
    batch_rows = _EMBEDDINGS_A_BATCH

    def __init__(self, schema: TableSchema, head: Head) -> None:
        super().__init__(schema, head)
        self._head = head

    def _scores(self, rows: pa.RecordBatch, prepared: list[Any]) -> list[float | RowError]:
        embeddings = embeddings_of(rows)
        vectors = [it for it in embeddings if not isinstance(it, RowError)]
        if not vectors:
            return [it for it in embeddings if isinstance(it, RowError)]
        clip = rows.column("model").drop_null()[0].as_py()
        scores = iter(self._head.score(np.stack(vectors), f"the CLIP {clip}").tolist())
        return [it if isinstance(it, RowError) else next(scores) for it in embeddings]


class ClassifierStage(_ScoreStage):
    """By a classifier that sees the image as it is kept."""

    is_spread = True
    uses_device = True
    reads = ("image",)

    def __init__(self, schema: TableSchema, classifier: ImageClassifier) -> None:
        super().__init__(schema, classifier)
        self._classifier = classifier
        self.batch_rows = classifier.batch_size

    def open(self) -> None:
        super().open()
        self.batch_rows, self.processors = self._classifier.batch_size, self._classifier.lanes
        self.on_cpu = self._classifier.on_cpu

    def prepare(self, rows: pa.RecordBatch) -> list[npt.NDArray[Any] | RowError]:
        return [or_error(self._classifier.pixels, image.as_py() or b"") for image in rows.column("image")]

    def _scores(self, rows: pa.RecordBatch, prepared: list[Any]) -> list[float | RowError]:
        pictures = [it for it in prepared if not isinstance(it, RowError)]
        scores = iter(self._classifier.score(pictures))
        return [it if isinstance(it, RowError) else next(scores) for it in prepared]
