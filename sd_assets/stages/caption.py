"""image_captions: what an image shows, in words: the seed's own text, or a captioner's."""

import itertools
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa

from sd_assets.ahead import map_as_done
from sd_assets.errors import ErrorCode, RowError
from sd_assets.images import decode_rgb
from sd_assets.models.caption_model import DEFAULT_VARIANT, CaptionModel
from sd_assets.schemas import IMAGE_CAPTIONS, TableSchema
from sd_assets.stages.stage import PART_ROWS, Refused, Stage, Work, failure, rows_of, together
from sd_assets.storage.rows import Rows
from sd_assets.storage.staging import Judge
from sd_assets.storage.table import Table

Variants = Mapping[str, Mapping[str, Any]]

_ONE_VARIANT: Variants = {DEFAULT_VARIANT: {}}
_IMAGE_ROWS = pa.schema(
    [
        pa.field("image_id", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("variant_settings", pa.string()),  # JSON; null where no model is asked
        pa.field("text", pa.string()),
        pa.field("origin", pa.string()),
        pa.field("error", pa.string()),
    ]
)
# What a model elsewhere may answer better another time.
_MAY_PASS = frozenset(
    {
        ErrorCode.TIMEOUT,
        ErrorCode.CONNECTION_FAILED,
        ErrorCode.SERVER_ERROR,
        ErrorCode.RATE_LIMITED,
        ErrorCode.CAPTION_REFUSED,
    }
)
# See `Stage.run`.
_IDLE_S = 1.0


class CaptionStage(Stage):
    """Captions images that have no text, once for each variant; an image that came with one keeps it, and no model sees it.

    A row is a variant of an image. The captioner is loaded for the first row that needs it: where all images have texts, never.
    """

    version = "2"
    uses_device = True
    # The image too: image_id is of the bytes as they came, and the model sees them resized.
    reads = ("image", "text", "origin", "variant_settings")

    def __init__(self, captioner: CaptionModel) -> None:
        self._captioner = captioner
        self.is_spread = not captioner.remote  # who asks an endpoint only waits
        self._fit_captioner()
        if captioner.remote:
            self.judge = Judge(("error",), _may_reuse)

    @property
    def schema(self) -> TableSchema:
        return IMAGE_CAPTIONS

    def settings(self) -> dict[str, Any]:
        return self._captioner.fingerprint_settings

    def facts(self) -> dict[str, Any]:
        return self._captioner.facts()

    def close(self) -> None:
        self._captioner.close()

    def run(self, missing: Iterator[Work], refused: Refused) -> Generator[Work, None, None]:
        for work in missing:
            if work.rows.column("text").null_count:
                self._captioner.load()
                self._fit_captioner()  # its batches may be of another size on the device that it found
                rest = itertools.chain([work], missing)
                yield from self._as_answered(rest) if self._captioner.remote else super().run(rest, refused)
            else:
                yield self._captioned(work)

    def parts(self, rows: pa.RecordBatch) -> list[int]:
        """Never between the rows of an image, of which only the first has its bytes."""
        identities = rows.column("image_id").to_pylist()
        cuts: list[int] = []
        for place in range(1, len(identities)):
            if identities[place] != identities[place - 1] and place - (cuts or [0])[-1] >= PART_ROWS:
                cuts.append(place)
        return cuts

    def prepare(self, rows: pa.RecordBatch) -> list[Any]:
        """For each row the model's inputs, the same for all rows of an image; why it cannot be read; or None: it has a text."""
        prepared: list[Any] = []
        previous, inputs = None, None
        columns = (rows.column(name) for name in ("image_id", "text", "image"))
        # `as_py` of one image at a time: of all at once they would be in memory twice.
        for identity, text, image in zip(*columns, strict=True):
            if text.as_py():
                prepared.append(None)
                continue
            if image.is_valid or identity.as_py() != previous:  # else it is the image of the row before
                inputs = self._inputs(image.as_py() or b"")
                previous = identity.as_py()
            prepared.append(inputs)
        return prepared

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        listed = rows.select(["image_id", "variant", "text", "origin"]).to_pylist()
        size = self._captioner.batch_size
        captions: dict[int, str | RowError] = {}
        for variant in dict.fromkeys(row["variant"] for row in listed):
            places = [
                place
                for place, row in enumerate(listed)
                if row["variant"] == variant and not (row["text"] or isinstance(prepared[place], RowError))
            ]
            for some in (places[start : start + size] for start in range(0, len(places), size)):
                answered = self._captioner.caption([prepared[place] for place in some], variant)
                captions.update(zip(some, answered, strict=True))
        return rows_of(
            IMAGE_CAPTIONS,
            (
                {**row, **(_own(row["text"]) or self._result(captions.get(place, prepared[place])))}
                for place, row in enumerate(listed)
            ),
        )

    def _fit_captioner(self) -> None:
        self.batch_rows = self._captioner.batch_size * len(self._captioner.variants)
        self.processors = self._captioner.lanes
        self.on_cpu = self._captioner.on_cpu

    def _captioned(self, work: Work) -> Work:
        return work._replace(rows=self.process(work.rows, self.prepare(work.rows)))

    def _as_answered(self, missing: Iterator[Work]) -> Generator[Work, None, None]:
        """Image by image, many at once: none waits for another, and of a model that goes away what it has answered is kept."""
        single = (part for work in missing for part in _image_by_image(work))
        with closing(map_as_done(self._captioned, single, self.processors, _IDLE_S)) as results:
            for done in results:
                yield together(done, self.schema)

    def _inputs(self, image: bytes) -> Any:
        try:
            return self._captioner.preprocess(decode_rgb(image))
        except RowError as error:
            return error

    def _result(self, caption: str | RowError) -> dict[str, Any]:
        if isinstance(caption, RowError):
            return failure(caption)
        if not caption.strip():
            return failure(RowError(ErrorCode.EMPTY_CAPTION, f"{self._captioner.identity} generated no text"))
        return {"caption": caption, "model": self._captioner.identity}


def image_batches(
    seed_images: Table, downloaded_images: Table, variants: Variants = _ONE_VARIANT
) -> Iterator[Rows]:
    """Seed images, then downloaded ones, as the input of `CaptionStage`; of the same image the seed comes first.

    An image without a text of its own has a row for each variant; one with a text has one row, and one that failed, too. Of the
    rows of an image that are fetched together the first has its bytes, and the others have null.

    Args:
        seed_images: with their texts.
        downloaded_images: what was retrieved.
        variants: of the captioner; what they depend on is made from `variants_text(variants)`, too.
    """
    with_text: set[str] = set()
    for rows in seed_images.rows(["image_id", "image", "text", "error"]):
        texts = [text and text.strip() for text in rows.known.column("text").to_pylist()]
        identities = rows.known.column("image_id").to_pylist()
        with_text.update(name for name, text in zip(identities, texts, strict=True) if name and text)
        yield _images(rows, texts, "seed", variants, with_text)
    for rows in downloaded_images.rows(["image_id", "image", "error"]):
        yield _images(rows, [None] * len(rows.known), "retrieved", variants, with_text)


def variants_text(variants: Variants) -> str:
    """The variants and their order as one text, for `made_from`."""
    return json.dumps({name: dict(settings) for name, settings in variants.items()})


def _images(
    rows: Rows, texts: Sequence[str | None], origin: str, variants: Variants, with_text: set[str]
) -> Rows:
    own: dict[str, str | None] = {DEFAULT_VARIANT: None}
    generated: dict[str, str | None] = {
        name: json.dumps(dict(settings), sort_keys=True) for name, settings in variants.items()
    }
    places = []
    listed = []
    for place, (row, text) in enumerate(
        zip(rows.known.select(["image_id", "error"]).to_pylist(), texts, strict=True)
    ):
        # Of a retrieved image whose seed has a text the one row is found to be a duplicate.
        asked = not text and row["error"] is None and row["image_id"] not in with_text
        for variant, settings in (generated if asked else own).items():
            places.append(place)
            told = {"variant": variant, "variant_settings": settings, "text": text or None, "origin": origin}
            listed.append({**row, **told})
    columns = [pa.array([row[field.name] for row in listed], field.type) for field in _IMAGE_ROWS]
    return rows.repeated(places, pa.RecordBatch.from_arrays(columns, schema=_IMAGE_ROWS))


def _own(text: str | None) -> dict[str, Any] | None:
    return {"caption": text} if text else None


def _image_by_image(work: Work) -> Iterator[Work]:
    """The rows of each image by themselves."""
    start = 0
    for _, rows in itertools.groupby(work.rows.column("image_id").to_pylist()):
        end = start + len(list(rows))
        yield Work(work.rows.slice(start, end - start), work.keys[start:end], work.works[start:end])
        start = end


def _may_reuse(rows: pa.RecordBatch) -> list[bool]:
    return [error not in _MAY_PASS for error in rows.column("error").to_pylist()]
