"""Materializations show what was made: pictures, distributions, failures; little of it, and no secret."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from dagster_shared.serdes import serialize_value
from PIL import Image

from sd_assets.errors import WriteError
from sd_assets.resources import views
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.compute import ComputeResource
from sd_assets.resources.storage import KEY_METADATA, ParquetIOManager, StorageResource
from sd_assets.resources.views import view_metadata
from sd_assets.schemas import IMAGE_CAPTIONS, SEED_IMAGES, TableSchema
from sd_assets.stages.stage import Stage, rows_of
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.staging import Staged
from sd_assets.storage.table import Table, TableStore
from sd_assets_tests.tables import table_of
from sd_assets_tests.views.seen import picture_in

PARTS = dg.StaticPartitionsDefinition(["p"])
VIEWS = ("contact_sheet", "distributions", "failure_examples")


def materialized(base: Path, *assets: dg.AssetsDefinition) -> dg.ExecuteInProcessResult:
    storage = StorageResource(base=str(base))
    resources = {
        "io_manager": ParquetIOManager(storage=storage, catalog=CatalogResource()),
        "compute": ComputeResource(storage=storage),
    }
    return dg.materialize(assets, partition_key="p", resources=resources)


def event(result: dg.ExecuteInProcessResult, asset: str) -> dg.AssetMaterialization:
    (found,) = result.asset_materializations_for_node(asset)
    return found


def shown(event: dg.AssetMaterialization) -> dict[str, str]:
    """The views of a materialization."""
    values = {name: event.metadata[name] for name in VIEWS if name in event.metadata}
    assert all(isinstance(value, dg.MarkdownMetadataValue) for value in values.values())
    return {name: str(value.value) for name, value in values.items()}


def noise(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def test_a_table_of_one_s_own_has_views_and_the_worst_has_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf-5ec2e7-5ec2e7")
    good = [
        {
            "id": f"g{n}",
            "image": noise(n),
            "caption": "壁に掛けられた赤い時計と青いソファ " * 9,
            **{f"s{m}" * 40: n / m for m in range(1, 15)},
        }
        for n in range(40)
    ]
    bad = [
        {
            "id": f"b{n}" * 900,
            "url": f"https://me:hunter2@x.example/{n}?sig=hunter2",
            "error": f"{'写' * 8}{n}",
            "error_detail": f"hf-5ec2e7-5ec2e7 {'👩' * 5000}",
        }
        for n in range(200)
    ]

    @dg.asset(partitions_def=PARTS, metadata={KEY_METADATA: ["id"]})
    def my_images() -> pd.DataFrame:
        return pd.DataFrame([*good, *bad])

    result = materialized(tmp_path, my_images)
    made = event(result, "my_images")
    assert shown(made).keys() == set(VIEWS)
    # Base64, or whatever it takes, included.
    assert len(shown(made)["contact_sheet"]) < 100_000
    written = serialize_value(made)
    assert len(written) < 150_000
    assert "5ec2e7" not in written and "hunter2" not in written
    picture_in(shown(made)["contact_sheet"])
    picture_in(shown(made)["distributions"])
    assert "200 of 240 rows failed" in shown(made)["failure_examples"]


def test_a_table_without_any_of_it_has_no_views(tmp_path: Path) -> None:
    @dg.asset(partitions_def=PARTS)
    def names() -> pa.Table:
        return pa.table({"name": ["a", "b"]})

    assert shown(event(materialized(tmp_path, names), "names")) == {}


class Described(Stage):
    """Captions, of which the second fails."""

    @property
    def schema(self) -> TableSchema:
        return IMAGE_CAPTIONS

    def process(self, rows: pa.RecordBatch, prepared: Any) -> pa.RecordBatch:
        return rows_of(
            IMAGE_CAPTIONS,
            (
                {**row, "error": "empty_caption"} if row["image_id"] == "b" else {**row, "caption": "noise"}
                for row in rows.select(["image_id", "variant"]).to_pylist()
            ),
        )

    def facts(self) -> dict[str, Any]:
        return {"index": "clip-retrieval:http://host/?key=5ec2e7#"}


def test_a_stage_s_table_has_views_with_images_of_its_inputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = table_of(
        tmp_path,
        SEED_IMAGES,
        [
            {"image_id": name, "image": noise(n), "width": 160 + n, "height": 160}
            for n, name in enumerate("abc")
        ],
    )

    @dg.asset(partitions_def=PARTS)
    def image_captions(
        context: dg.AssetExecutionContext, compute: ComputeResource
    ) -> dg.MaterializeResult[Staged]:
        rows = (rows_of(IMAGE_CAPTIONS, [{"image_id": name, "variant": "default"}]) for name in "abc")
        return compute.run(context, Described(), rows, made_from=[images])

    @dg.asset(partitions_def=PARTS)
    def seed_images(
        context: dg.AssetExecutionContext, compute: ComputeResource
    ) -> dg.MaterializeResult[Staged]:
        return compute.write(context, SEED_IMAGES, images.batches())

    result = materialized(tmp_path, image_captions, seed_images)
    captions = event(result, "image_captions")
    assert shown(captions).keys() == set(VIEWS)
    assert picture_in(shown(captions)["contact_sheet"]).texts == ["noise", "empty_caption", "noise"]
    assert captions.metadata["index"].value == "clip-retrieval:http://host/?…"
    seeds = shown(event(result, "seed_images"))
    assert seeds.keys() == {"contact_sheet", "distributions"}
    assert picture_in(seeds["contact_sheet"]).texts == []

    # What has not changed is not drawn again.
    def draw(*_: Any) -> str:
        raise AssertionError

    for name in ("contact_sheet", "distributions", "failures"):
        monkeypatch.setattr(views, name, draw)
    again = materialized(tmp_path, image_captions)
    assert shown(event(again, "image_captions")) == shown(captions)


def test_a_stage_s_run_that_is_stopped_while_its_views_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dg.asset(partitions_def=PARTS)
    def image_captions(
        context: dg.AssetExecutionContext, compute: ComputeResource
    ) -> dg.MaterializeResult[Staged]:
        rows = (rows_of(IMAGE_CAPTIONS, [{"image_id": name, "variant": "default"}]) for name in "abc")
        return compute.run(context, Described(), rows)

    def stopped(*_: Any) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(views, "distributions", stopped)
    with pytest.raises(KeyboardInterrupt):
        materialized(tmp_path, image_captions)
    assert list(tmp_path.glob("_sd_assets/image_captions/p/shards/*"))
    # It does not count as alive any more.
    assert not list(tmp_path.glob("_sd_assets/image_captions/p/leases/*"))


@pytest.mark.parametrize("note", [b"", b'{"shown": [', b"\xff\xfe"])
def test_a_damaged_note_of_views_is_drawn_anew(tmp_path: Path, note: bytes) -> None:
    table = table_of(tmp_path, SEED_IMAGES, [{"image_id": "a", "image": noise(1), "width": 160}])
    area = TableStore(LocalFiles(tmp_path)).area("seed_images", "p")
    warnings: list[str] = []
    drawn = view_metadata(area, table, SEED_IMAGES, (), warnings.append)
    kept = area.note("views.json")
    assert kept is not None and drawn.keys() == {"contact_sheet", "distributions"}
    area.put_note("views.json", note)
    assert view_metadata(area, table, SEED_IMAGES, (), warnings.append) == drawn
    assert area.note("views.json") == kept and not warnings


def test_views_that_cannot_be_kept_are_shown_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: LocalFiles, path: str, *data: bytes | pa.Buffer) -> None:
        raise WriteError("no space left on device")

    table = table_of(tmp_path, SEED_IMAGES, [{"image_id": "a", "image": noise(1), "width": 160}])
    area = TableStore(LocalFiles(tmp_path)).area("seed_images", "p")
    warnings: list[str] = []
    monkeypatch.setattr(LocalFiles, "put", full)
    drawn = view_metadata(area, table, SEED_IMAGES, (), warnings.append)
    assert drawn.keys() == {"contact_sheet", "distributions"}
    assert warnings == ["seed_images: its views are not kept: no space left on device"]


def test_of_very_many_error_codes_the_most_frequent_are_named(tmp_path: Path) -> None:
    @dg.asset(partitions_def=PARTS)
    def odd() -> pd.DataFrame:
        codes = [f"code {n:04}" for n in range(2000)] + ["a \u202e code"] * 3
        return pd.DataFrame({"id": range(len(codes)), "error": codes, "error_detail": None})

    made = event(materialized(tmp_path, odd), "odd")
    failures = made.metadata["failures"].value
    assert isinstance(failures, dict)
    assert failures["a code"] == 3 and failures["other codes"] == 2000 - 49
    assert sum(failures.values()) == 2003
    assert len(serialize_value(made)) < 30_000


def test_a_view_that_fails_is_warned_of_and_the_others_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf-5ec2e7-5ec2e7")

    def broken(table: Table, images: Sequence[Table]) -> str:
        raise OSError("no space left for hf-5ec2e7-5ec2e7")

    monkeypatch.setattr(views, "contact_sheet", broken)
    rows: list[dict[str, Any]] = [
        {"image_id": "a", "image": noise(1), "width": 160},
        {"source": "x", "error": "unreadable"},
    ]
    warnings: list[str] = []
    table = table_of(tmp_path, SEED_IMAGES, rows)
    area = TableStore(LocalFiles(tmp_path)).area("seed_images", "p")
    found = view_metadata(area, table, SEED_IMAGES, (), warnings.append)
    assert found.keys() == {"distributions", "failure_examples"}
    assert warnings == ["seed_images: no contact_sheet: OSError: no space left for …"]

    @dg.asset(partitions_def=PARTS)
    def names() -> pa.Table:
        return pa.table({"name": ["a", "b"]})

    assert materialized(tmp_path, names).success
    assert "WARNING" in (said := capsys.readouterr().err) and "names: no contact_sheet: OSError" in said
