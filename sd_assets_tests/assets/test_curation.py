"""held_out_images, near_duplicates and curated_pairs in real runs, of tables that are written for them."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from sd_assets.assets.common import CATALOG, seed_asset
from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.definitions import build_definitions
from sd_assets.errors import CatalogError
from sd_assets.measures.quality import measured
from sd_assets.models.clip import ClipEncoder
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.models import ClipResource
from sd_assets.resources.storage import StorageResource
from sd_assets.schemas import CURATED_PAIRS, IMAGE_QUALITY, image_id
from sd_assets.settings import ClipSettings, CurationSettings
from sd_assets.storage.table import Table
from sd_assets_tests.curation.tables import Tables, pair

# Two of the catalogue that ships: partitions are read from there.
PARTITION, OTHER = "demo_rooms", "demo_prompts"
CLIP = f"local-dir:{Path(__file__).parents[2] / 'sd_assets' / 'demo' / 'models' / 'clip'}"
CURATION = ("held_out_images", "near_duplicates", "curated_pairs")


class Runs:
    """A catalogue and tables, and runs of what curates them."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        self.folder = folder
        self.tables = Tables(folder / "data")
        self.blocked: dict[str, Any] = {}
        self._instance = instance
        self._storage = StorageResource(base=str(folder / "data"))

    def run(self, *scorers: dg.AssetsDefinition, **sections: Any) -> dg.ExecuteInProcessResult:
        """Materializes the three assets, and the scorers, by these sections of the catalogue."""
        entry: dict[str, Any] = {
            "prompts": {"texts": ["a"]},
            "clip": {"model": CLIP},
            "retrieval": {"index": "it"},
        }
        said = {
            "blocked": self.blocked,
            "indices": {"it": {"kind": "faiss", "path": "index"}},
            "seed_datasets": {PARTITION: {**entry, **sections}, OTHER: entry},
        }
        path = self.folder / "catalog.yaml"
        path.write_text(yaml.safe_dump(said, sort_keys=False))
        defs = build_definitions(
            {
                "catalog": CatalogResource(path=str(path)),
                "storage": self._storage,
                "clip": ClipResource(device="cpu", precision="float32"),
            },
            scorers=scorers,
        )
        done = defs.resolve_job_def(BUILD_DATASET).execute_in_process(
            instance=self._instance,
            partition_key=PARTITION,
            asset_selection=[*(dg.AssetKey(name) for name in CURATION), *(it.key for it in scorers)],
        )
        assert done.success
        return done

    def table(self, name: str) -> Table:
        return self._storage.table(name, PARTITION)

    def reasons(self) -> dict[str, list[str]]:
        rows = self.table("curated_pairs").read(["image_id", "reasons"]).to_pylist()
        return {row["image_id"]: row["reasons"] for row in rows}


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        yield instance


@pytest.fixture
def runs(tmp_path: Path, instance: dg.DagsterInstance) -> Runs:
    return Runs(tmp_path, instance)


def metadata(run: dg.ExecuteInProcessResult, name: str) -> Any:
    (event,) = run.asset_materializations_for_node(name)
    return event.metadata


def test_another_threshold_makes_curated_pairs_anew_and_nothing_else(runs: Runs) -> None:
    runs.tables.given([pair("a", sharpness=0.3), pair("b", sharpness=0.6)], PARTITION)
    first = runs.run(curation={"min": {"sharpness": 0.2}})
    identity = runs.table("near_duplicates").identity
    second = runs.run(curation={"min": {"sharpness": 0.5}})
    third = runs.run(curation={"min": {"sharpness": 0.5}}, checks={"min_kept": 0.9})
    versions = {
        name: [metadata(run, name)["version"].value for run in (first, second, third)] for name in CURATION
    }
    assert versions == {
        "held_out_images": [1, 1, 1],
        "near_duplicates": [1, 1, 1],
        "curated_pairs": [1, 2, 2],
    }
    assert runs.table("near_duplicates").identity == identity
    assert metadata(first, "curated_pairs")["rows_kept"].value == 2
    # Of a run that left the table as it is, too.
    for run in (second, third):
        told = metadata(run, "curated_pairs")
        assert told["rows_kept"].value == told["rows_train"].value == 1
        assert told["reasons"].value == {"low_sharpness": 1}
        assert "1 of 2 pairs" in str(told["funnel"].value) and "`low_sharpness`" in str(told["funnel"].value)
    failed = {
        run: [it.check_name for it in run.get_asset_check_evaluations() if not it.passed]
        for run in (second, third)
    }
    # Nothing is to be kept out, and that is no failure.
    assert failed == {second: [], third: ["enough_are_kept"]}


def test_images_of_another_partition_win_as_it_is_now(runs: Runs) -> None:
    against = {"near_duplicates": {"against": [OTHER, PARTITION]}}
    runs.tables.given([pair("here", degrees=2), pair("new", degrees=45)], PARTITION)
    runs.run(**against)  # the other one was never built
    assert runs.reasons() == {"here": [], "new": []}
    runs.tables.given([pair("there", degrees=44)], OTHER)
    runs.run(**against)
    assert runs.reasons() == {"here": [], "new": ["elsewhere"]}


@seed_asset("scores", "1")
def shine(text_image_pairs: pa.Table) -> pa.Table:
    ids = text_image_pairs.column("image_id").to_pylist()
    return pa.table({"image_id": ids, "shine": [float(len(name)) for name in ids]})


def test_a_scorer_is_an_asset_that_is_asked_by_its_name(runs: Runs) -> None:
    runs.tables.given([pair("long_one"), pair("short")], PARTITION)
    runs.run(shine, curation={"min": {"shine": 6}, "best": ["shine"]})
    assert runs.reasons() == {"long_one": [], "short": ["low_shine"]}


@pytest.mark.parametrize(
    ("name", "partitions", "said"),
    [
        ("alignment", True, "none of: "),
        ("image_quality", True, "none of: "),
        ("licence", True, "none of: "),
        ("query_ids", True, "none of: "),
        ("keep", True, "none of: "),
        ("error", True, "none of: "),
        ("a-b", True, "one word"),
        ("shine", False, "partition per seed dataset"),
    ],
)
def test_what_cannot_be_a_scorer_is_refused(name: str, partitions: bool, said: str) -> None:
    def scored(text_image_pairs: pa.Table) -> pa.Table:
        return text_image_pairs

    key = [*name.split("-")]
    decorated = dg.asset(key=key, partitions_def=shine.partitions_def if partitions else None)(scored)
    with pytest.raises(ValueError, match=said):
        build_definitions(scorers=[decorated])


def test_a_misspelt_score_is_told_when_definitions_are_built(monkeypatch: pytest.MonkeyPatch) -> None:
    curation = CurationSettings(min={"shine": 6})
    entry = CATALOG.entry(PARTITION).model_copy(update={"curation": curation})
    changed = CATALOG.model_copy(update={"seed_datasets": {PARTITION: entry}})
    monkeypatch.setattr("sd_assets.definitions.CATALOG", changed)
    with pytest.raises(CatalogError, match=rf"seed_datasets\.{PARTITION}\.curation\.min .*no score 'shine'"):
        build_definitions()
    build_definitions(scorers=[shine])


def test_another_refresh_of_the_other_partition_is_told(runs: Runs) -> None:
    runs.tables.given([pair("here", degrees=2)], PARTITION)
    runs.tables.given([pair("there", degrees=3)], OTHER)
    runs.tables.write(IMAGE_QUALITY, [], OTHER)  # the one of its embeddings is done, this one not yet
    done = runs.run(near_duplicates={"against": [OTHER]})
    assert metadata(done, "near_duplicates")["not_compared"].value == {OTHER: 1}
    assert runs.reasons() == {"here": ["elsewhere"]}
    runs.tables.write(CURATED_PAIRS, [{"image_id": "there", "keep": False}], OTHER)
    runs.run(near_duplicates={"against": [OTHER]})
    assert runs.reasons() == {"here": []}


def test_images_to_keep_out_that_are_blocked_are_gone_and_renamed_ones_go_by_their_new_name(
    runs: Runs,
) -> None:
    folder = runs.folder / "evaluation"
    folder.mkdir()
    for number in (1, 2):
        photograph(number).save(folder / f"{number}.png")
    runs.tables.given([pair("a")], PARTITION)
    keep_out = {"near_duplicates": {"keep_out": {"kind": "folder", "path": "evaluation"}}}

    def sources() -> list[str]:
        return sorted(runs.table("held_out_images").read(["source"]).column("source").to_pylist())

    runs.run(**keep_out)
    assert sources() == ["1.png", "2.png"]
    (folder / "1.png").rename(folder / "renamed.png")
    runs.run(**keep_out)
    assert sources() == ["2.png", "renamed.png"]
    runs.blocked = {"images": [image_id((folder / "2.png").read_bytes())]}
    done = runs.run(**keep_out)
    assert sources() == ["renamed.png"]
    assert metadata(done, "held_out_images")["rows_blocked"].value == 1


def photograph(number: int) -> Image.Image:
    coarse = np.random.default_rng(number).integers(0, 256, (7, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize((120, 120), Image.Resampling.BICUBIC)


def test_images_to_keep_out_are_recognised_in_another_size_and_format(runs: Runs) -> None:
    folder = runs.folder / "evaluation"
    folder.mkdir()
    photograph(1).save(folder / "one.png")
    (folder / "two.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    encoder = ClipEncoder(ClipSettings(model=CLIP), device="cpu", precision="float32")
    encoder.load()
    pairs = []
    for name, number in (("copy", 1), ("another", 2)):
        out = io.BytesIO()
        photograph(number).resize((90, 90)).save(out, "JPEG", quality=80)
        (vector,) = encoder.encode_images([encoder.pixels(out.getvalue())])
        known = {"perceptual_hash": measured(out.getvalue()).perceptual_hash, "embedding": vector}
        pairs.append(pair(name, image=out.getvalue(), model=encoder.identity, **known))
    runs.tables.given(pairs, PARTITION)
    runs.run(
        near_duplicates={"keep_out": {"kind": "folder", "path": "evaluation"}},
        checks={"max_failed": {"held_out_images": 0.5}},
    )
    held_out = {row["source"]: row for row in runs.table("held_out_images").read().to_pylist()}
    assert held_out["two.png"]["error"] == "corrupt_image"
    assert held_out["one.png"]["model"] == encoder.identity and "image" not in held_out["one.png"]
    assert runs.reasons() == {"copy": ["held_out"], "another": []}
    named = runs.table("near_duplicates").read(["held_out"]).column("held_out").to_pylist()
    assert named == [["one.png, row 0"], []]
