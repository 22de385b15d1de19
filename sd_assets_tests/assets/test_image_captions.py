"""The asset image_captions in real runs: each family of captioners, variants, an endpoint; what fails, and what it says then."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn.modules.module import register_module_forward_pre_hook

from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.compute.run import write_rows
from sd_assets.definitions import build_definitions
from sd_assets.errors import ModelError
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.models import CaptionerResource
from sd_assets.resources.storage import StorageResource
from sd_assets.schemas import DOWNLOADED_IMAGES, SEED_IMAGES, TableSchema
from sd_assets.services import backoff
from sd_assets.stages.stage import rows_of
from sd_assets_tests.hub.server import READER, Hub
from sd_assets_tests.models import tiny
from sd_assets_tests.models.endpoint.server import KEY, MODEL, Completions, image_of, say, serving

PARTITION = "demo_prompts"  # one of the catalogue that ships: partitions are read from there
Rows = list[dict[str, Any]]

SIZES = {"wide": (90, 40), "tall": (40, 90), "square": (32, 32), "large": (300, 280), "thin": (1, 60)}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model of a family, made when it is first asked for."""
    root = tmp_path_factory.mktemp("captioners")

    def made(name: str) -> Path:
        if not (root / name).exists():
            torch.manual_seed(0)
            tiny.CAPTIONERS[name](root / name)
        return root / name

    return made


def noise(name: str, size: tuple[int, int]) -> bytes:
    rng = np.random.default_rng(list(name.encode()))
    # Coarse, so that what the models see of it differs however they resize it.
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.NEAREST
    )
    return encoded(image)


def encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


IMAGES: Rows = [{"image_id": name, "image": noise(name, size)} for name, size in SIZES.items()]
OWN = {"image_id": "own", "image": noise("own", (40, 40)), "text": "a text of its own"}


class Partition:
    """Its tables and catalogue, and runs of its image_captions."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        self._instance = instance
        self._storage = StorageResource(base=str(folder / "data"))
        self.given([*IMAGES, OWN])

    def fresh(self, seeds: Rows) -> "Partition":
        """One of which nothing was captioned yet."""
        other = Partition(self._folder / "fresh", self._instance)
        other.given(seeds)
        return other

    def given(self, seeds: Rows, downloads: Rows | None = None) -> None:
        """What image_captions is made of."""
        self._write(SEED_IMAGES, seeds)
        self._write(DOWNLOADED_IMAGES, downloads or [])

    def run(self, **captioner: Any) -> dg.ExecuteInProcessResult:
        """Materializes the asset by the captioner of these settings."""
        index = {"kind": "faiss", "path": "index"}
        entry = {
            "prompts": {"texts": ["a"]},
            "clip": {"model": "ViT-B-32", "pretrained": "openai"},
            "retrieval": {"index": "it"},
            "captioner": {"max_new_tokens": 6, **captioner},
            "checks": {"max_failed": {"image_captions": 1}, "max_same_caption": 1},
        }
        path = self._folder / "catalog.yaml"
        said = {"indices": {"it": index}, "seed_datasets": {PARTITION: entry}}
        path.write_text(yaml.safe_dump(said, sort_keys=False))
        defs = build_definitions(
            {
                "catalog": CatalogResource(path=str(path)),
                "storage": self._storage,
                "captioner": CaptionerResource(device="cpu", precision="float32"),
            }
        )
        return defs.resolve_job_def(BUILD_DATASET).execute_in_process(
            instance=self._instance,
            partition_key=PARTITION,
            asset_selection=[dg.AssetKey("image_captions")],
        )

    def captions(self, **captioner: Any) -> Rows:
        """The rows after a run."""
        assert self.run(**captioner).success
        rows: Rows = self._storage.table("image_captions", PARTITION).read().to_pylist()
        return rows

    def failure(self, **captioner: Any) -> str:
        """What a run that fails says."""
        with pytest.raises(ModelError) as error:
            self.run(**captioner)
        return str(error.value)

    def _write(self, schema: TableSchema, rows: Rows) -> None:
        area = self._storage.store().area(schema.name, PARTITION)
        write_rows(schema, [rows_of(schema, rows)], area, f"given-{len(rows)}-{id(rows)}").commit()


@pytest.fixture
def partition(tmp_path: Path) -> Iterator[Partition]:
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        yield Partition(tmp_path, instance)


@contextmanager
def before_forward(module: str, act: Callable[[torch.nn.Module, Any, Any], Any]) -> Iterator[None]:
    """While it lasts `act` is called before each forward pass of modules of this class, of whatever model."""

    def hook(it: torch.nn.Module, args: Any) -> Any:
        return act(it, args, {}) if type(it).__name__ == module else None

    handle = register_module_forward_pre_hook(hook)
    try:
        yield
    finally:
        handle.remove()


# --- families ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", tiny.CAPTIONERS)
def test_each_family(partition: Partition, family: Callable[[str], Path], name: str) -> None:
    variants = {"default": {}, "drawn": {"count": 2, "top_p": 0.95, "temperature": 2.0, "min_new_tokens": 3}}
    rows = partition.captions(model=str(family(name)), variants=variants)
    assert [(row["image_id"], row["variant"]) for row in rows] == [
        *((image, variant) for image in SIZES for variant in ("default", "drawn-1", "drawn-2")),
        ("own", "default"),
    ]
    assert {row["error"] for row in rows} <= {None, "empty_caption"}
    own = rows.pop()
    assert (own["caption"], own["model"]) == ("a text of its own", None)
    said = [row for row in rows if row["error"] is None]
    assert len(said) > 5 and {row["model"] for row in said} == {said[0]["model"]}
    assert said[0]["model"].startswith("local-dir:")
    assert len({row["caption"] for row in said}) > 3  # the pictures decide
    drawn = [row["caption"] for row in rows if row["variant"] == "drawn-1"]
    assert drawn != [row["caption"] for row in rows if row["variant"] == "drawn-2"]


def test_a_picture_has_the_same_caption_whatever_comes_with_it(
    partition: Partition, family: Callable[[str], Path]
) -> None:
    settings = {"model": str(family("blip")), "top_p": 0.9, "temperature": 2.0}
    together = {row["image_id"]: row["caption"] for row in partition.captions(**settings)}
    for image in IMAGES:
        (row,) = partition.fresh([image]).captions(**settings, batch_size=1)
        assert row["caption"] == together[image["image_id"]]


def test_an_edited_variant_is_captioned_anew_and_the_others_are_not(
    partition: Partition, family: Callable[[str], Path]
) -> None:
    model = str(family("blip"))
    variants: dict[str, Any] = {"short": {"max_new_tokens": 2}, "long": {"min_new_tokens": 6}}
    partition.captions(model=model, variants=variants)
    seen: list[int] = []

    def see(_: torch.nn.Module, args: Any, __: Any) -> None:
        seen.append(1)

    with before_forward("BlipTextModel", see):
        same = partition.run(model=model, variants=variants)
        assert not seen
        variants["short"] = {"max_new_tokens": 3}
        edited = partition.run(model=model, variants=variants)
    (report,) = (it.metadata for it in same.asset_materializations_for_node("image_captions"))
    assert report["rows_reused"].value == 11
    (report,) = (it.metadata for it in edited.asset_materializations_for_node("image_captions"))
    assert (report["rows_reused"].value, report["rows_in"].value) == (6, 11)
    assert seen


# --- what fails -------------------------------------------------------------------------------------------------------


def test_no_memory_for_a_batch_loses_nothing(partition: Partition, family: Callable[[str], Path]) -> None:
    model = str(family("blip"))
    expected = partition.captions(model=model)
    sizes: list[int] = []

    def too_many(_: torch.nn.Module, args: Any, __: Any) -> None:
        # Its convolution over patches is where the pictures come in.
        sizes.append(len(args[0]))
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    fresh = partition.fresh([*IMAGES, OWN])
    with before_forward("Conv2d", too_many):
        rows = fresh.captions(model=model)
    assert max(sizes) > 2 and min(sizes) <= 2
    assert [row["error"] for row in rows] == [None] * 6
    assert rows == expected


def test_poison_costs_its_own_row(partition: Partition, family: Callable[[str], Path]) -> None:
    model = str(family("blip"))
    poison = [
        {"image_id": "black", "image": encoded(Image.new("RGB", (40, 40)))},
        {"image_id": "cut", "image": noise("cut", (60, 60))[:90]},
        {"image_id": "text", "image": b"not an image"},
    ]

    def nan_for_black(_: torch.nn.Module, args: Any, __: Any) -> Any:
        (pixels,) = args
        black = (pixels.amax(dim=(2, 3)) == pixels.amin(dim=(2, 3))).all(dim=1)
        return (torch.where(black[:, None, None, None], torch.nan, pixels),)

    with before_forward("Conv2d", nan_for_black):
        partition.given([*poison, *IMAGES])
        rows = {row["image_id"]: row for row in partition.captions(model=model)}
    alone = {row["image_id"]: row["caption"] for row in partition.fresh(IMAGES).captions(model=model)}
    assert {name: row["error"] for name, row in rows.items()} == {
        "black": "not_finite",
        "cut": "corrupt_image",
        "text": "not_an_image",
        **dict.fromkeys(SIZES),
    }
    assert {name: rows[name]["caption"] for name in SIZES} == alone


def test_models_of_the_hub(
    partition: Partition, family: Callable[[str], Path], hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "'org/none' does not exist on the Hub, or is private" in partition.failure(model="org/none")
    hub.model("org/blip", family("blip"), gated=True)
    assert "'org/blip' is gated: accept its terms" in partition.failure(model="org/blip")
    monkeypatch.setenv("HF_TOKEN", READER)
    rows = partition.captions(model="org/blip")
    assert [row["error"] for row in rows] == [None] * 6
    assert rows[0]["model"].startswith("org/blip@")
    # What was fetched once is there without the Hub, for other variants, too.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    hub.requests.clear()
    again = partition.captions(model="org/blip", variants={"default": {}, "b": {"max_new_tokens": 2}})
    assert [row["caption"] for row in again if row["variant"] == "default"] == [
        row["caption"] for row in rows
    ]
    assert not hub.requests


def test_what_is_no_captioner(partition: Partition, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    said = partition.failure(model=str(tmp_path / "bert"))
    assert "is not an image-to-text model: it is a 'bert'" in said


# --- an endpoint ------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Completions]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(backoff, "BACKOFF_S", 0.01)
    with serving(Completions(key=KEY)) as state:
        yield state


def endpoint(server: Completions, **more: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "endpoint": {"url": server.url, "api_key": KEY, "connections": 4, "retries": 1, **more},
    }


def test_an_endpoint(partition: Partition, server: Completions, caplog: pytest.LogCaptureFixture) -> None:
    variants = {"short": {"prompt": "Short."}, "long": {"prompt": "Long.", "count": 2, "top_p": 0.9}}
    result = partition.run(**endpoint(server), variants=variants)
    rows = partition.captions(**endpoint(server), variants=variants)
    assert [(row["image_id"], row["variant"]) for row in rows] == [
        *((image, variant) for image in SIZES for variant in ("short", "long-1", "long-2")),
        ("own", "default"),
    ]
    for row in rows[:-1]:
        width, height = SIZES[row["image_id"]]
        asked = row["variant"].partition("-")[0].capitalize()
        assert row["caption"].startswith(f"{asked}.: {width} x {height},")
    assert sorted(server.texts()) == ["Long."] * 5 + ["Short."] * 5
    (report,) = result.asset_materializations_for_node("image_captions")
    assert report.metadata["requests"].value == 11 and report.metadata["completion_tokens"].value == 100
    assert KEY not in str(report.metadata) and KEY not in caplog.text


def test_an_endpoint_that_goes_away_and_comes_back(partition: Partition, server: Completions) -> None:
    many = [{"image_id": f"{n:02}", "image": noise(f"{n}", (32, 32))} for n in range(60)]
    partition.given(many)

    def dies(handler: Any, body: dict[str, Any]) -> bool:
        return bool(body) and len(server.requests) > 20 and say(handler, 500, {"error": "CUDA error"})

    server.misbehave = dies
    said = partition.failure(**endpoint(server))
    assert "20 images in a row failed" in said and "CUDA error" in said and "is kept" in said
    server.misbehave = None
    server.requests.clear()
    rows = partition.captions(**endpoint(server))
    assert [row["error"] for row in rows] == [None] * 60
    assert 40 <= len(server.requests) <= 44  # what it had answered is not asked again


def test_an_endpoint_that_refuses_an_image(partition: Partition, server: Completions) -> None:
    partition.given([{"image_id": "13", "image": noise("13", (13, 13))}, *IMAGES])

    def refuses(handler: Any, body: dict[str, Any]) -> bool:
        image = image_of(body) if body else None
        return image is not None and image.width == 13 and say(handler, 400, {"error": "unsafe"})

    server.misbehave = refuses
    rows = partition.captions(**endpoint(server))
    assert [row["error"] for row in rows] == ["caption_refused", *[None] * 5]
    assert "unsafe" in rows[0]["error_detail"]
    server.misbehave = None
    server.requests.clear()
    assert [row["error"] for row in partition.captions(**endpoint(server))] == [None] * 6
    assert len(server.requests) == 1


def test_an_endpoint_that_is_not_there(partition: Partition, server: Completions) -> None:
    gone = endpoint(server, url="http://127.0.0.1:9/v1")
    assert "does not answer" in partition.failure(**gone)
    assert "does not serve it; it serves: org/vlm" in partition.failure(
        **{**endpoint(server), "model": "other"}
    )
