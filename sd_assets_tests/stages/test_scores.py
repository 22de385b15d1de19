"""The stages that score images: what they compute anew, and what becomes of a row that an earlier stage could not embed."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sd_assets.compute.run import run_stage
from sd_assets.errors import ErrorCode, ModelError, RowError, TableError
from sd_assets.images import inspect
from sd_assets.models.clip import ClipEncoder
from sd_assets.models.scoring.head import Head
from sd_assets.schemas import (
    AESTHETIC_SCORES,
    NSFW_SCORES,
    TEXT_IMAGE_PAIRS,
    TableSchema,
)
from sd_assets.settings import ClipSettings, ScoreModelSettings
from sd_assets.sources.rows import SourceRow
from sd_assets.stages.alignment import AlignmentStage, captioned_rows
from sd_assets.stages.embed import ImageEmbedStage
from sd_assets.stages.embedded import embedded_rows
from sd_assets.stages.held_out import HeldOutStage
from sd_assets.stages.image_quality import ImageQualityStage
from sd_assets.stages.model_score import HeadStage
from sd_assets.stages.seeds import source_batches
from sd_assets.stages.stage import Stage
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.rows import Rows
from sd_assets.storage.table import Table
from sd_assets_tests.measures.photographs import encoded
from sd_assets_tests.tables import table_of

MODEL = "north and east"


class Encoder(ClipEncoder):
    """Wide images and the text "wide" look east, high ones and "high" north; an image of 13 px a side is no number."""

    def __init__(self) -> None:
        super().__init__(ClipSettings(model="local-dir:toy"))
        self.texts: list[str] = []

    @cached_property
    def identity(self) -> str:
        return MODEL

    @cached_property
    def dim(self) -> int:
        return 2

    def load(self) -> None: ...

    def pixels(self, data: bytes) -> Any:
        info = inspect(data)
        return np.array([info.width, info.height])

    def encode_images(self, pixels: Sequence[Any], failed: Any = None) -> Any:
        vectors = np.array([[size[0] > size[1], size[0] <= size[1]] for size in pixels], np.float32)
        vectors[[place for place, size in enumerate(pixels) if 13 in size]] = np.nan
        return vectors

    def encode_texts(self, texts: Sequence[str], failed: dict[int, RowError] | None = None) -> Any:
        self.texts += texts
        if failed is not None:
            failed.update(
                {n: RowError(ErrorCode.MODEL_FAILED) for n, text in enumerate(texts) if text == "!"}
            )
        known = {"wide": [1, 0], "high": [0, 1], "both": [0.5**0.5, 0.5**0.5]}
        return np.array([known.get(text, [np.nan, np.nan]) for text in texts], np.float32)


def image(width: int, height: int) -> bytes:
    return encoded(Image.new("RGB", (width, height), "teal"), "png")


class Dataset:
    """text_image_pairs in versions, and the tables that stages make of them."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._runs = 0

    def pairs(self, rows: Iterable[Mapping[str, Any]]) -> Table:
        self._runs += 1
        return table_of(self._base / f"pairs-{self._runs}", TEXT_IMAGE_PAIRS, rows)

    def run(self, stage: Stage, rows: Iterable[pa.RecordBatch | Rows]) -> tuple[Table, dict[str, Any]]:
        """The table after the stage has run, and its report."""
        self._runs += 1
        area = Area(LocalFiles(self._base), stage.schema.name, "p")
        staged = run_stage(stage, rows, area, f"run{self._runs}", print)
        return Table(area, staged.commit()), staged.report

    def embedded(self, pairs: Table) -> Table:
        rows = pairs.rows(["image_id", "image", "error"])
        return self.run(ImageEmbedStage(Encoder()), rows)[0]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return Dataset(tmp_path)


PAIRS: list[dict[str, Any]] = [
    {"image_id": "wide", "image": image(40, 20), "captions": ["wide"]},
    {"image_id": "high", "image": image(20, 40), "captions": ["high", "both", "wide"]},
    {"image_id": "broken", "image": b"text", "captions": ["wide"]},
    {"image_id": "odd", "image": image(13, 13), "captions": ["wide"]},
    {"image_id": "failed", "error": "not_found"},
]


def by_id(table: Table) -> dict[str, dict[str, Any]]:
    return {row["image_id"]: row for row in table.read().to_pylist()}


def test_every_image_is_embedded_as_it_is_kept(dataset: Dataset) -> None:
    rows = by_id(dataset.embedded(dataset.pairs(PAIRS)))
    assert list(rows) == ["wide", "high", "broken", "odd"]  # what failed before is skipped
    assert [rows["wide"]["embedding"], rows["high"]["embedding"]] == [[1, 0], [0, 1]]
    assert (rows["wide"]["model"], rows["wide"]["error"]) == (MODEL, None)
    assert [rows[name]["error"] for name in ("broken", "odd")] == ["not_an_image", "not_finite"]
    # The same image, resized to another size, is another one to the model.
    again = by_id(dataset.embedded(dataset.pairs([{**PAIRS[0], "image": image(20, 40)}])))
    assert again["wide"]["embedding"] == [0, 1]


def test_alignment_with_each_caption(dataset: Dataset) -> None:
    pairs = dataset.pairs(PAIRS)
    encoder = Encoder()
    table, _ = dataset.run(
        AlignmentStage(encoder), captioned_rows(pairs, dataset.embedded(pairs), encoder.identity)
    )
    rows = by_id(table)
    assert rows["wide"]["alignments"] == [1] and rows["wide"]["alignment"] == 1
    assert rows["high"]["alignments"] == pytest.approx([1, 0.5**0.5, 0]) and rows["high"]["alignment"] == 0
    # Not embedded, and why; their captions are not encoded.
    assert [rows[name]["error"] for name in ("broken", "odd")] == ["not_an_image", "not_finite"]
    assert encoder.texts == ["wide", "high", "both", "wide"]


@pytest.mark.parametrize(
    ("captions", "error"),
    [(["wide", "!"], "model_failed"), (["wide", "?"], "not_finite"), ([], "empty_caption")],
)
def test_captions_that_cannot_be_scored(dataset: Dataset, captions: list[str], error: str) -> None:
    pairs = dataset.pairs([{**PAIRS[0], "captions": captions}])
    rows = captioned_rows(pairs, dataset.embedded(pairs), MODEL)
    table, _ = dataset.run(AlignmentStage(Encoder()), rows)
    assert [(row["alignment"], row["error"]) for row in table.read().to_pylist()] == [(None, error)]


def test_only_edited_captions_are_scored_anew(dataset: Dataset) -> None:
    embeddings = dataset.embedded(dataset.pairs(PAIRS[:2]))

    def scored(pairs: list[dict[str, Any]]) -> list[str]:
        encoder = Encoder()
        dataset.run(AlignmentStage(encoder), captioned_rows(dataset.pairs(pairs), embeddings, MODEL))
        return encoder.texts

    assert scored(PAIRS[:2]) == ["wide", "high", "both", "wide"]
    assert scored(PAIRS[:2]) == []
    assert scored([{**PAIRS[0], "captions": ["both"]}, PAIRS[1]]) == ["both"]


def test_tables_of_different_runs_are_an_error(dataset: Dataset) -> None:
    pairs = dataset.pairs(PAIRS)
    embeddings = dataset.embedded(pairs)
    for others in (PAIRS[:1], [*PAIRS, {"image_id": "new", "image": image(8, 9), "captions": ["wide"]}]):
        with pytest.raises(TableError, match="materialize image_embeddings again"):
            list(captioned_rows(dataset.pairs(others), embeddings, MODEL))
    with pytest.raises(TableError, match=f"is of {MODEL}, and the entry's CLIP is another now: materialize"):
        list(captioned_rows(pairs, embeddings, "another"))


def test_quality_of_the_image_and_the_size_that_came(dataset: Dataset) -> None:
    framed = Image.new("RGB", (64, 48), "black")
    framed.paste("white", (16, 0, 48, 48))
    large = {"image_id": "shrunk", "image": image(64, 48), "original_width": 640, "original_height": 480}
    pairs = dataset.pairs(
        [
            large,
            {**large, "image_id": "enlarged", "original_width": 10, "original_height": 20},
            {"image_id": "unknown", "image": encoded(framed, "png")},
            *PAIRS[2:3],
        ]
    )
    columns = ["image_id", "image", "original_width", "original_height", "error"]
    table, report = dataset.run(ImageQualityStage(), pairs.rows(columns))
    rows = by_id(table)
    assert [rows[name]["resolution"] for name in ("shrunk", "enlarged", "unknown")] == [48, 10, 48]
    assert [rows[name]["aspect_ratio"] for name in ("shrunk", "enlarged")] == pytest.approx([4 / 3, 2])
    assert (rows["shrunk"]["flat_border"], rows["unknown"]["flat_border"]) == (1, 0.5)
    assert (rows["broken"]["error"], rows["broken"]["sharpness"]) == ("not_an_image", None)
    assert (report["rows_ok"], report["rows_failed"]) == (3, 1)
    # A row whose size alone has changed is measured again, and no other.
    again = dataset.pairs([{**large, "original_height": 320}, *(row for row in pairs.read().to_pylist()[1:])])
    _, report = dataset.run(ImageQualityStage(), again.rows(columns))
    assert (report["rows_computed"], report["rows_ok"]) == (1, 3)


# --- heads ---------------------------------------------------------------------------------------------------------------


def head(
    folder: Path, weight: list[float], schema: TableSchema = AESTHETIC_SCORES, **settings: Any
) -> HeadStage:
    file = folder / "head.safetensors"
    save_file({"weight": torch.tensor([weight])}, file)
    return HeadStage(schema, Head(ScoreModelSettings(head=str(file), **settings), schema.arrow.names[1]))


def test_a_head_scores_what_is_embedded(dataset: Dataset, tmp_path: Path) -> None:
    embeddings = dataset.embedded(dataset.pairs(PAIRS))
    table, report = dataset.run(head(tmp_path, [5, 7]), embedded_rows(embeddings))
    rows = by_id(table)
    assert [rows["wide"]["aesthetic"], rows["high"]["aesthetic"]] == [5, 7]
    assert [rows[name]["error"] for name in ("broken", "odd")] == ["not_an_image", "not_finite"]
    assert report["rows_computed"] == 4
    assert dataset.run(head(tmp_path, [5, 7]), embedded_rows(embeddings))[1]["rows_computed"] == 0
    # Other weights under the same name score everything anew.
    table, report = dataset.run(head(tmp_path, [6, 8]), embedded_rows(embeddings))
    assert report["rows_computed"] == 4 and by_id(table)["wide"]["aesthetic"] == 6


def test_where_nothing_was_embedded_nothing_is_scored(dataset: Dataset, tmp_path: Path) -> None:
    embeddings = dataset.embedded(dataset.pairs(PAIRS[2:]))
    table, _ = dataset.run(head(tmp_path, [5, 7]), embedded_rows(embeddings))
    assert {row["error"] for row in table.read().to_pylist()} == {"not_an_image", "not_finite"}


def test_a_head_of_another_clip_or_of_another_scale_stops(dataset: Dataset, tmp_path: Path) -> None:
    embeddings = dataset.embedded(dataset.pairs(PAIRS))
    with pytest.raises(ModelError, match=f"those of the CLIP {MODEL} have 2"):
        dataset.run(head(tmp_path, [1, 2, 3]), embedded_rows(embeddings))
    table, _ = dataset.run(head(tmp_path, [5, 7], NSFW_SCORES, sigmoid=True), embedded_rows(embeddings))
    assert by_id(table)["wide"]["nsfw"] == pytest.approx(1 / (1 + np.exp(-5)))


def test_logits_are_no_score_from_0_to_1(dataset: Dataset, tmp_path: Path) -> None:
    wide, high = ({**pair, "image_id": f"{n}", "captions": []} for n, pair in enumerate(PAIRS[:2]))
    several = [{**wide, "image_id": f"{n}"} for n in range(5)]
    logits = head(tmp_path, [5, 0.5], NSFW_SCORES)
    embeddings = dataset.embedded(dataset.pairs(several))
    with pytest.raises(ModelError, match="answered 5, and nsfw is a number from 0 to 1: for a head"):
        dataset.run(logits, embedded_rows(embeddings))
    # One image that the model cannot tell ends no run.
    embeddings = dataset.embedded(dataset.pairs([wide, {**high, "image_id": "high"}]))
    rows = by_id(dataset.run(logits, embedded_rows(embeddings))[0])
    assert (rows["0"]["error"], rows["0"]["nsfw"]) == ("model_failed", None)
    assert "answered 5" in rows["0"]["error_detail"]
    assert (rows["high"]["error"], rows["high"]["nsfw"]) == (None, 0.5)


def test_a_hair_beyond_the_bounds_is_the_bound(dataset: Dataset, tmp_path: Path) -> None:
    embeddings = dataset.embedded(dataset.pairs(PAIRS[:2]))
    table, _ = dataset.run(head(tmp_path, [1.01, -0.01], NSFW_SCORES), embedded_rows(embeddings))
    assert [row["nsfw"] for row in table.read().to_pylist()] == [1, 0]
    # A score without bounds is what the model answers.
    table, _ = dataset.run(head(tmp_path, [1.01, -0.01]), embedded_rows(embeddings))
    assert [row["aesthetic"] for row in table.read().to_pylist()] == pytest.approx([1.01, -0.01])


def test_a_head_that_answers_no_number_fails_the_row(dataset: Dataset, tmp_path: Path) -> None:
    embeddings = dataset.embedded(dataset.pairs(PAIRS[:2]))
    table, _ = dataset.run(head(tmp_path, [float("inf"), 1]), embedded_rows(embeddings))
    assert [row["error"] for row in table.read().to_pylist()] == ["not_finite", "not_finite"]


# --- images to keep out --------------------------------------------------------------------------------------------------


def test_images_to_keep_out_are_named_by_where_they_are_now(dataset: Dataset) -> None:
    def held_out(*names: str) -> tuple[Table, dict[str, Any]]:
        rows = [SourceRow(image(40, 20 + n), None, name, None, n) for n, name in enumerate(names)]
        return dataset.run(HeldOutStage(Encoder()), source_batches(rows))

    first, _ = held_out("a.png", "b.png")
    assert held_out("a.png", "b.png")[1]["rows_computed"] == 0
    renamed, report = held_out("a.png", "c.png")
    assert [row["source"] for row in renamed.read().to_pylist()] == ["a.png", "c.png"]
    assert report["rows_computed"] == 1
    # near_duplicates names them, so it is stale.
    assert renamed.manifest.data_version != first.manifest.data_version


def test_images_to_keep_out_are_measured_anew_with_those_of_the_dataset() -> None:
    of_both = (ImageEmbedStage.version, ImageQualityStage.version)
    assert tuple(HeldOutStage.version.split(".")[1:]) == of_both
