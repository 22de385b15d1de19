"""The README's own stage runs as it stands there: a filter with its table, asset and check, another captioner, other prompts."""

import importlib.util
import sys
from collections.abc import Iterator

import dagster as dg
import pytest

from sd_assets.demo.world import World
from sd_assets.resources.storage import StorageResource
from sd_assets.storage.table import Table
from sd_assets_tests.readme import blocks, section

PARTITION = "demo_prompts"


def test_a_stage_with_table_asset_and_check_takes_under_forty_lines() -> None:
    stage, _ = blocks(section("Your own stage"), "python")
    assert len(stage.splitlines()) < 40


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, world: World) -> Iterator[dg.ExecuteInProcessResult]:
    folder = tmp_path_factory.mktemp("own")
    path = folder / "my_datasets.py"
    path.write_text("\n".join(blocks(section("Your own stage"), "python")))
    spec = importlib.util.spec_from_file_location("my_datasets", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch, dg.instance_for_test() as instance:
        patch.setenv("SD_ASSETS_DEMO", str(world.folder))
        patch.setenv("SD_ASSETS_DATA", str(folder / "data"))
        patch.setitem(sys.modules, "my_datasets", module)
        spec.loader.exec_module(module)
        dg.Definitions.validate_loadable(module.defs)
        job = module.defs.resolve_job_def("build_dataset")
        yield job.execute_in_process(instance=instance, partition_key=PARTITION)


def table(name: str) -> Table:
    return StorageResource().store().open(name, PARTITION)


def test_the_filter_judges_every_pair(run: dg.ExecuteInProcessResult) -> None:
    pairs = table("text_image_pairs").read(["image_id", "width", "height"]).to_pylist()
    assert len(pairs) > 20
    judged = table("large_pairs").read(["image_id", "large", "error"]).to_pylist()
    assert judged == [
        {"image_id": row["image_id"], "large": min(row["width"], row["height"]) >= 224, "error": None}
        for row in pairs
    ]


def test_its_check_is_kept(run: dg.ExecuteInProcessResult) -> None:
    (found,) = [it for it in run.get_asset_check_evaluations() if it.check_name == "enough_are_large"]
    assert found.passed
    assert found.metadata["of"].value == table("large_pairs").num_rows


def test_prompts_and_captions_are_the_modules_own(run: dg.ExecuteInProcessResult) -> None:
    assert table("seed_prompts").read(["prompt"]).column("prompt").to_pylist() == [
        "a red sofa",
        "a red lamp",
        "a blue sofa",
        "a blue lamp",
    ]
    captions = [row for row in table("image_captions").read().to_pylist() if row["error"] is None]
    assert captions and {row["model"] for row in captions} == {"mean-colour-1"}
    said = {"plain": "an image in rgb(", "asked": "a photo in rgb("}
    assert {row["variant"] for row in captions} == {*said}
    assert all(row["caption"].startswith(said[row["variant"]]) for row in captions)
    pairs = table("text_image_pairs").read(["captions"])["captions"].to_pylist()
    assert {len(captions) for captions in pairs} == {2} and pairs[0][1].startswith("a photo in")
