"""alignment_scores: how well the captions of an image say what it shows, as the entry's CLIP sees it."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sd_assets.errors import ErrorCode, RowError, TableError
from sd_assets.models.clip import ClipEncoder
from sd_assets.schemas import ALIGNMENT_SCORES, TableSchema
from sd_assets.stages.embedded import embedded_rows, embeddings_of
from sd_assets.stages.stage import Stage, failure, rows_of
from sd_assets.storage.table import Table

Vector = npt.NDArray[np.float32]

# Texts are much quicker to encode than images.
_ROWS_A_BATCH = 4


class AlignmentStage(Stage):
    """The cosine of an image's embedding with that of each of its captions, by the text tower of the same CLIP.

    A row whose embedding failed fails with the same code.
    """

    version = "1"
    is_spread = True
    uses_device = True
    reads = ("captions", "embedding", "embedding_error")

    def __init__(self, encoder: ClipEncoder) -> None:
        self._encoder = encoder
        self._fit_encoder()

    @property
    def schema(self) -> TableSchema:
        return ALIGNMENT_SCORES

    def settings(self) -> dict[str, Any]:
        return self._encoder.fingerprint_settings

    def open(self) -> None:
        self._encoder.load()
        self._fit_encoder()
        self.processors, self.on_cpu = self._encoder.lanes, self._encoder.on_cpu

    def facts(self) -> dict[str, Any]:
        return self._encoder.facts()

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        identities, images = rows.column("image_id").to_pylist(), embeddings_of(rows)
        # Of an image without an embedding no caption is encoded.
        captions = [
            [] if isinstance(image, RowError) else listed or []
            for image, listed in zip(images, rows.column("captions").to_pylist(), strict=True)
        ]
        texts = iter(self._encoded([text for listed in captions for text in listed]))
        return rows_of(
            ALIGNMENT_SCORES,
            (
                {"image_id": identity, **self._result(image, [next(texts) for _ in listed])}
                for identity, image, listed in zip(identities, images, captions, strict=True)
            ),
        )

    def _fit_encoder(self) -> None:
        self.batch_rows = _ROWS_A_BATCH * self._encoder.batch_size

    def _encoded(self, texts: Sequence[str]) -> list[Vector | RowError]:
        """Of each text its vector, or why there is none."""
        if not texts:
            return []
        failed: dict[int, RowError] = {}
        vectors = self._encoder.encode_texts(texts, failed)
        return [failed.get(number, vector) for number, vector in enumerate(vectors)]

    def _result(self, image: Vector | RowError, texts: list[Vector | RowError]) -> dict[str, Any]:
        """The columns of a row, of the vectors of the image and of its captions, or of why they have none."""
        if isinstance(image, RowError):
            return failure(image)
        if not texts:
            return failure(RowError(ErrorCode.EMPTY_CAPTION, "the pair has no caption"))
        cosines = []
        for text in texts:
            if isinstance(text, RowError):
                return failure(text)
            cosines.append(float(np.clip(image @ text, -1, 1)))
        if not np.isfinite(cosines).all():
            return failure(
                RowError(
                    ErrorCode.NOT_FINITE, f"{self._encoder.identity} answered NaN or infinity for a caption"
                )
            )
        return {"alignments": cosines, "alignment": min(cosines), "model": self._encoder.identity}


def captioned_rows(text_image_pairs: Table, image_embeddings: Table, model: str) -> Iterator[pa.RecordBatch]:
    """The rows of image_embeddings with the captions of their images, as the input of `AlignmentStage`.

    What is held are the captions; no image is read.

    Args:
        text_image_pairs: has the captions.
        image_embeddings: was made from it.
        model: the identity of the CLIP that encodes the captions.

    Raises:
        TableError: the two are not of the same run; or the embeddings are another model's.
    """
    captions: dict[str, list[str]] = {}
    for batch in text_image_pairs.batches(["image_id", "captions", "error"]):
        fine = batch.filter(batch.column("error").is_null())
        captions.update(
            zip(fine.column("image_id").to_pylist(), fine.column("captions").to_pylist(), strict=True)
        )
    seen = 0
    for batch in embedded_rows(image_embeddings):
        if others := set(batch.column("model").to_pylist()) - {model, None}:
            raise TableError(
                f"{image_embeddings.uri} is of {', '.join(sorted(others))}, and the entry's CLIP is {model} now: materialize "
                "image_embeddings again"
            )
        identities = batch.column("image_id").to_pylist()
        seen += len(identities)
        if not captions.keys() >= set(identities):
            raise _of_another_version(text_image_pairs, image_embeddings)
        listed = pa.array([captions[identity] for identity in identities], pa.list_(pa.string()))
        yield batch.append_column("captions", listed)
    if seen != len(captions):
        raise _of_another_version(text_image_pairs, image_embeddings)


def _of_another_version(text_image_pairs: Table, image_embeddings: Table) -> TableError:
    return TableError(
        f"{image_embeddings.uri} was made from another version of {text_image_pairs.uri}: materialize image_embeddings again"
    )
