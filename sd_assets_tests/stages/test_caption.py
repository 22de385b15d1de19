"""image_captions from its tables: a row for each variant of an image, own texts, and what is captioned anew; with a toy model."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sd_assets.compute.run import run_stage
from sd_assets.errors import ErrorCode, RowError
from sd_assets.models.caption_model import CaptionModel
from sd_assets.schemas import DOWNLOADED_IMAGES, SEED_IMAGES
from sd_assets.stages.caption import CaptionStage, image_batches, variants_text
from sd_assets.storage.area import Area
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table
from sd_assets_tests.tables import table_of

Rows = list[dict[str, Any]]


class ToyCaptioner(CaptionModel):
    """Says how wide a picture is, and with which settings; nothing of one that is 13 wide, and not even that of one that is 17.

    Attributes:
        asked: (variant, widths) of every call.
        prepared: pictures that were preprocessed.
    """

    identity = "toy"
    batch_size = 3

    def __init__(self, variants: Mapping[str, Mapping[str, Any]] | None = None) -> None:
        self._variants = variants
        self.asked: list[tuple[str, list[int]]] = []
        self.prepared = 0
        self.loaded = self.closed = False

    @property
    def variants(self) -> Mapping[str, Mapping[str, Any]]:
        return self._variants or super().variants

    def load(self) -> None:
        self.loaded = True

    def preprocess(self, image: Image.Image) -> list[int]:
        assert self.loaded
        self.prepared += 1
        return [image.width]

    def caption(self, inputs: Sequence[list[int]], variant: str) -> list[str | RowError]:
        self.asked.append((variant, [width for (width,) in inputs]))
        return [self._caption(width, variant) for (width,) in inputs]

    def _caption(self, width: int, variant: str) -> str | RowError:
        if width == 17:
            return RowError(ErrorCode.NOT_FINITE, "17")
        return "" if width == 13 else f"{width} {variant} {dict(self.variants[variant])}"

    def close(self) -> None:
        self.closed = True

    @property
    def images_asked(self) -> list[int]:
        return sorted(width for _, widths in self.asked for width in widths)


class RemoteCaptioner(ToyCaptioner):
    """The same elsewhere: there 99 comes too late."""

    remote = True
    lanes = 4

    def _caption(self, width: int, variant: str) -> str | RowError:
        return RowError(ErrorCode.TIMEOUT) if width == 99 else super()._caption(width, variant)


class Partition:
    """Seeds and downloads, and the captions of them, run after run."""

    def __init__(self, base: Path, seeds: Rows, downloads: Rows | None = None) -> None:
        self.seeds = table_of(base, SEED_IMAGES, seeds)
        self.downloads = table_of(base, DOWNLOADED_IMAGES, downloads or [])
        self._area = Area(LocalFiles(base), "image_captions", "p")
        self._runs = 0
        self.report: dict[str, Any] = {}

    def captions(self, model: CaptionModel) -> Rows:
        """All rows after another run."""
        self._runs += 1
        staged = run_stage(
            CaptionStage(model),
            image_batches(self.seeds, self.downloads, model.variants),
            self._area,
            f"run{self._runs}",
            print,
            [self.seeds, self.downloads, variants_text(model.variants)],
        )
        self.report = staged.report
        rows: Rows = Table(self._area, staged.commit()).read().to_pylist()
        return rows


def png(width: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (width, 8)).save(out, "PNG")
    return out.getvalue()


def images(*widths: int) -> Rows:
    return [{"image_id": f"{width}", "image": png(width)} for width in widths]


SHORT_AND_LONG: dict[str, dict[str, Any]] = {"short": {"tokens": 5}, "long": {"tokens": 50}}


@pytest.fixture(params=[ToyCaptioner, RemoteCaptioner])
def kind(request: pytest.FixtureRequest) -> type[ToyCaptioner]:
    made: type[ToyCaptioner] = request.param
    return made


def test_a_row_for_each_variant_in_their_order(tmp_path: Path, kind: type[ToyCaptioner]) -> None:
    model = kind(SHORT_AND_LONG)
    rows = Partition(tmp_path, images(*range(20, 30))).captions(model)
    assert [(row["image_id"], row["variant"]) for row in rows] == [
        (f"{width}", variant) for width in range(20, 30) for variant in ("short", "long")
    ]
    assert rows[1]["caption"] == "20 long {'tokens': 50}"
    assert {row["model"] for row in rows} == {"toy"} and {row["origin"] for row in rows} == {"seed"}
    assert model.images_asked == sorted([*range(20, 30)] * 2)
    assert max(len(widths) for _, widths in model.asked) <= model.batch_size
    assert model.prepared == 10  # each is decoded and resized once, for all its variants
    assert model.closed


def test_batches_are_of_one_variant_and_full(tmp_path: Path) -> None:
    model = ToyCaptioner(SHORT_AND_LONG)
    Partition(tmp_path, images(*range(20, 26))).captions(model)
    assert model.asked == [
        (variant, widths) for widths in ([20, 21, 22], [23, 24, 25]) for variant in ("short", "long")
    ]


def test_an_image_with_a_text_has_one_row_and_no_model_sees_it(tmp_path: Path) -> None:
    seeds = [{**row, "text": f" own {row['image_id']} "} for row in images(20, 21)] + images(22)
    found: Rows = [
        {"url_id": "0", "image_id": "20", "image": png(40)},  # with a text as a seed
        {"url_id": "1", "image_id": "22", "image": png(44)},  # without one
        {"url_id": "2", "image_id": "50", "image": png(50)},
        {"url_id": "3", "error": "not_found"},
    ]
    partition = Partition(tmp_path, seeds, found)
    model = ToyCaptioner(SHORT_AND_LONG)
    rows = partition.captions(model)
    assert [
        (row["image_id"], row["variant"], row["caption"][:6], row["model"], row["origin"]) for row in rows
    ] == [
        ("20", "default", "own 20", None, "seed"),
        ("21", "default", "own 21", None, "seed"),
        ("22", "short", "22 sho", "toy", "seed"),
        ("22", "long", "22 lon", "toy", "seed"),
        ("50", "short", "50 sho", "toy", "retrieved"),
        ("50", "long", "50 lon", "toy", "retrieved"),
    ]
    assert model.images_asked == [22, 22, 50, 50]
    report = partition.report
    assert (report["rows_ok"], report["rows_duplicate"], report["rows_skipped"]) == (6, 3, 1)


def test_where_all_have_texts_no_model_is_loaded(tmp_path: Path) -> None:
    model = ToyCaptioner(SHORT_AND_LONG)
    seeds = [{**row, "text": "own"} for row in images(*range(20, 40))]
    assert len(Partition(tmp_path, seeds).captions(model)) == 20
    assert not model.loaded and not model.asked


def test_only_what_an_edit_of_the_variants_touches_is_captioned_anew(
    tmp_path: Path, kind: type[ToyCaptioner]
) -> None:
    partition = Partition(tmp_path, images(*range(20, 30)))
    before = partition.captions(kind(SHORT_AND_LONG))

    edited = kind({**SHORT_AND_LONG, "short": {"tokens": 6}})
    after = partition.captions(edited)
    assert edited.images_asked == list(range(20, 30))
    assert {variant for variant, _ in edited.asked} == {"short"}
    # However many rows of one variant a batch has, no call gets more than it takes.
    assert max(len(widths) for _, widths in edited.asked) <= edited.batch_size
    assert [row for row in after if row["variant"] == "long"] == [
        row for row in before if row["variant"] == "long"
    ]
    assert after[0]["caption"] == "20 short {'tokens': 6}"

    turned = kind({"long": {"tokens": 50}, "short": {"tokens": 6}})
    assert [row["variant"] for row in partition.captions(turned)] == ["long", "short"] * 10
    more = kind({"long": {"tokens": 50}, "third": {}})
    assert [row["variant"] for row in partition.captions(more)] == ["long", "third"] * 10
    assert not turned.asked and {variant for variant, _ in more.asked} == {"third"}

    same = kind({"long": {"tokens": 50}, "third": {}})
    assert len(partition.captions(same)) == 20
    assert not same.loaded and partition.report["rows_reused"] == 20


def test_what_fails_costs_its_own_row(tmp_path: Path, kind: type[ToyCaptioner]) -> None:
    seeds = [*images(13, 17, 20), {"image_id": "broken", "image": png(21)[:45]}, *images(22)]
    rows = Partition(tmp_path, seeds).captions(kind(SHORT_AND_LONG))
    failed = {(row["image_id"], row["variant"]): row["error"] for row in rows if row["error"]}
    assert failed == {
        (name, variant): error
        for name, error in (("13", "empty_caption"), ("17", "not_finite"), ("broken", "corrupt_image"))
        for variant in SHORT_AND_LONG
    }
    assert [row["caption"] for row in rows if not row["error"]] == [
        f"{width} {variant} {settings}" for width in (20, 22) for variant, settings in SHORT_AND_LONG.items()
    ]


def test_what_a_remote_model_may_answer_another_time_is_asked_again(tmp_path: Path) -> None:
    partition = Partition(tmp_path, images(13, 17, 20, 99))
    assert [row["error"] for row in partition.captions(RemoteCaptioner())] == [
        "empty_caption",
        "not_finite",
        None,
        "timeout",
    ]
    again = RemoteCaptioner()
    partition.captions(again)
    assert again.images_asked == [99]


def test_of_a_remote_model_that_goes_away_what_it_answered_is_kept(tmp_path: Path) -> None:
    class GoesAway(RemoteCaptioner):
        def _caption(self, width: int, variant: str) -> str | RowError:
            if width == 40:
                raise RuntimeError("gone")
            return super()._caption(width, variant)

    partition = Partition(tmp_path, images(*range(20, 60)))
    first = GoesAway()
    with pytest.raises(RuntimeError, match="gone"):
        partition.captions(first)
    assert first.closed
    again = RemoteCaptioner()
    assert len(partition.captions(again)) == 40
    # All but those that were asked for in the moment of the failure.
    assert set(range(20, 40 - first.lanes)).isdisjoint(again.images_asked)
