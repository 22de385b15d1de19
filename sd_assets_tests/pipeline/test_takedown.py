"""What is put on the list `blocked:` is gone at the next refresh, wherever it was, and comes back once it is off the list.

That is so in the tables, and in what is made of them: exports, the report, and the dataset of the Hub.
"""

import io
import json
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from sd_assets.assets.catalog_entry import catalog_entry
from sd_assets.assets.common import SEEDS
from sd_assets.assets.hub_revision import hub_revision
from sd_assets.assets.image_captions import image_captions
from sd_assets.automation.jobs import BUILD_DATASET
from sd_assets.definitions import ASSETS, build_definitions
from sd_assets.errors import TableError
from sd_assets.images import decode_rgb
from sd_assets.models.caption_model import CaptionModel
from sd_assets.resources.catalog import CatalogResource
from sd_assets.resources.storage import StorageResource
from sd_assets.retrieval.layout import write_index
from sd_assets.schemas import image_id, text_id
from sd_assets.stages.download import DownloadStage
from sd_assets.stages.stage import Refused, Work
from sd_assets_tests.download.misbehaving import Server, answer
from sd_assets_tests.hub.server import WRITER, Hub

PARTITION = SEEDS.get_partition_keys()[0]
NAMES = [asset.key.path[0] for asset in ASSETS]
SEED_PATHS = ("/seed.png", "/seed-blocked-url.png", "/seed-blocked-image.png")
LAYOUTS = ("imagefolder", "parquet")
REPO = "me/noise"
PATHS = ("/fine.png", "/blocked-url.png", "/blocked-image.png", "/known-image.png", "/there.png")


def picture(path: str) -> bytes:
    """A noisy PNG of 64 x 64, another one for each path."""
    seed = int(text_id(path)[:8], 16)
    pixels = np.random.default_rng(seed).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


class CountingEncoder:
    """Images and texts as vectors, without a model."""

    identity = "toy"
    dim = 2
    batch_size = 32
    lanes = 1
    on_cpu = False
    fingerprint_settings: dict[str, Any] = {"model": "toy"}  # noqa: RUF012
    seen = 0

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    def load(self) -> None: ...

    def facts(self) -> dict[str, Any]:
        return {"model": "toy"}

    def pixels(self, data: bytes) -> Any:
        return np.asarray(decode_rgb(data), np.float32)

    def encode_images(self, images: Sequence[Any], failed: Any = None) -> Any:
        return self._unit([[float(image.mean()), 100.0] for image in images])

    def encode_texts(self, texts: Sequence[str], failed: Any = None) -> Any:
        return self._unit([[float(len(text)), 9.0] for text in texts])

    def _unit(self, rows: list[list[float]]) -> Any:
        CountingEncoder.seen += len(rows)
        vectors = np.array(rows, np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Clip(dg.ConfigurableResource["Clip"]):
    def encoder(self, settings: Any) -> CountingEncoder:
        return CountingEncoder(settings)


class CountingCaptioner(CaptionModel):
    """Says what it is; of two images at a time, and of so many only before it fails."""

    seen = 0
    fails_after: int | None = None

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    @property
    def identity(self) -> str:
        return f"toy-{self._tokens}"

    @property
    def batch_size(self) -> int:
        return 2

    def caption(self, inputs: Sequence[Any], variant: str) -> list[str]:
        if self.fails_after is not None and CountingCaptioner.seen >= self.fails_after:
            raise RuntimeError("the captioner was killed")
        CountingCaptioner.seen += len(inputs)
        return [f"noise of mean {np.asarray(image).mean():.4f}" for image in inputs]


class Captioner(dg.ConfigurableResource["Captioner"]):
    def captioner(self, settings: Any) -> CountingCaptioner:
        return CountingCaptioner(settings.max_new_tokens)


class Project:
    """A catalogue, its tables, an instance on disk, and the web that it is about."""

    def __init__(self, folder: Path, server: Server, instance: dg.DagsterInstance) -> None:
        self.folder, self.data = folder, folder / "data"
        self.server, self.instance = server, instance
        for path in (*PATHS, *SEED_PATHS, "/host.png"):
            server.paths[path] = answer(body=picture(path))
        # `localhost` is another host than 127.0.0.1, though the same server.
        self.host_url = server.url("/host.png", host="localhost")
        self.there_url = server.url("/there.png", host="localhost")
        server.paths["/redirect.png"] = answer("302 Found", Location=self.there_url)
        urls = [self.host_url, *map(server.url, (*PATHS[:4], "/redirect.png"))]
        hashes = [
            image_id(picture(path)) if path == "/known-image.png" else None for path in ("", *PATHS[:4], "")
        ]
        vectors = np.linspace([1, 0], [1, 1], len(urls)).astype(np.float32)
        table = pa.table({"url": urls, "sha256": pa.array(hashes, pa.string())})
        write_index(folder / "index", vectors / np.linalg.norm(vectors, axis=1, keepdims=True), table)
        (folder / "seeds.txt").write_text("\n".join(map(server.url, SEED_PATHS)))
        self.entry: dict[str, Any] = {
            "source": {"kind": "urls", "path": "seeds.txt"},
            "prompts": {"texts": ["a red sofa"]},
            "clip": {"model": "toy", "pretrained": "toy"},
            "captioner": {"model": "./index"},
            "retrieval": {"index": "toy"},
            "download": {
                "allow_addresses": ["127.0.0.1"],
                "retries": 0,
                "robots_txt": False,
                "image_size": 32,
                "image_format": "png",
            },
            # The toy's embeddings are all near each other.
            "near_duplicates": {"min_cosine": None},
            "exports": {layout: {} for layout in LAYOUTS},
            "push_to_hub": {"repo_id": REPO},
            "checks": {"max_same_caption": 1, "max_failed": {"downloaded_images": 0.01}},
        }
        self.write({})
        self.storage = StorageResource(base=str(self.data))
        self.definitions = build_definitions(
            {
                "catalog": CatalogResource(path=str(folder / "catalog.yaml")),
                "storage": self.storage,
                "clip": Clip(),
                "captioner": Captioner(),
            }
        )

    def write(self, blocked: dict[str, Any]) -> None:
        said = {
            "indices": {"toy": {"kind": "faiss", "path": "index"}},
            "seed_datasets": {PARTITION: self.entry},
            "blocked": blocked,
        }
        (self.folder / "catalog.yaml").write_text(yaml.safe_dump(said))

    def run(self) -> dg.ExecuteInProcessResult:
        """All assets and their checks; what was asked of the server and the models is counted anew."""
        self.server.requests.clear()
        CountingEncoder.seen = CountingCaptioner.seen = 0
        job = self.definitions.resolve_job_def(BUILD_DATASET)
        return job.execute_in_process(instance=self.instance, partition_key=PARTITION)

    def interrupted(self, *assets: Any) -> None:
        """A run of some assets that fails."""
        resources = self.definitions.resources
        made = dg.materialize(
            [catalog_entry, hub_revision, *ASSETS],
            selection=list(assets),
            instance=self.instance,
            partition_key=PARTITION,
            resources=resources,
            raise_on_error=False,
        )
        assert not made.success

    def rows(self, name: str) -> list[dict[str, Any]]:
        return list(self.storage.table(name, PARTITION).read().to_pylist())

    def report(self, name: str) -> dict[str, Any]:
        return self.storage.store().area(name, PARTITION).last_run()

    def versions(self) -> dict[str, tuple[int, str]]:
        manifests = {name: self.storage.table(name, PARTITION).manifest for name in NAMES}
        return {name: (manifest.version, manifest.data_version) for name, manifest in manifests.items()}

    def outputs(self, hub: Hub, folder: Path) -> list[Path]:
        """The folders of exports and reports, and a copy of the newest commit on the Hub."""
        repo = hub.repo("datasets", REPO)
        copy = folder / repo.refs["main"]
        for name, data in repo.commits[repo.refs["main"]].items():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes(data)
        return [*(self.data / "exports" / layout for layout in LAYOUTS), self.data / "reports", copy]

    def wip(self, name: str) -> list[Path]:
        return sorted((self.data / "_sd_assets" / name / PARTITION / "wip").glob("*.json"))


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    with Server() as server, dg.instance_for_test() as instance:
        yield Project(tmp_path, server, instance)


def said_in(path: Path) -> str:
    """All that a file holds, as a text."""
    if path.suffix == ".parquet":
        return repr(pq.ParquetFile(path).read().to_pylist())
    return path.read_bytes().decode("latin-1")


def holding(needles: Sequence[str | bytes], *folders: Path) -> set[str]:
    """The files that hold one of these, as text or as bytes."""
    found = set()
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        said = said_in(path)
        if any(as_said(needle, path) in said for needle in needles):
            found.add(str(path))
    return found


def as_said(needle: str | bytes, path: Path) -> str:
    """How `said_in` gives a text, or bytes."""
    if isinstance(needle, str):
        return needle
    return repr(needle)[2:-1] if path.suffix == ".parquet" else needle.decode("latin-1")


def test_what_is_blocked_goes_stays_away_and_comes_back(
    project: Project, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", WRITER)
    server, folder = project.server, project.folder
    assert project.run().success
    before = project.versions()
    everything = {row["url"]: row for row in project.rows("downloaded_images")}
    sheets = _sheets(project)
    assert {"seed_images", "downloaded_images", "image_captions", "text_image_pairs"} <= set(sheets)

    # Runs with other settings that die: what they leave behind holds what will be blocked.
    project.entry["download"]["image_size"] = 16
    project.write({})
    with monkeypatch.context() as patch:
        whole = DownloadStage.run

        def dying(
            stage: DownloadStage, missing: Iterator[Work], refused: Refused
        ) -> Generator[Work, None, None]:
            yield from whole(stage, missing, refused)
            raise RuntimeError("the downloader was killed")

        patch.setattr(DownloadStage, "run", dying)
        project.interrupted(*(asset for asset in ASSETS if asset.key.path[0] == "downloaded_images"))
    project.entry["captioner"]["max_new_tokens"] = 7
    project.write({})
    with monkeypatch.context() as patch:
        CountingCaptioner.seen = 0
        patch.setattr(CountingCaptioner, "fails_after", 7)
        project.interrupted(image_captions)
    project.entry["download"]["image_size"] = 32
    del project.entry["captioner"]["max_new_tokens"]
    assert project.wip("downloaded_images") and project.wip("image_captions")

    # A URL, a host, the image of a download, one that the corpus knows, and the URL and the image of a seed.
    gone = [server.url("/blocked-url.png"), project.host_url, project.there_url, server.url(SEED_PATHS[1])]
    blocked_images = ["/blocked-image.png", "/known-image.png", SEED_PATHS[2]]
    (folder / "list.txt").write_text(
        f"# taken down\n{gone[0]}  # asked by mail\n{gone[3].upper().replace('PNG', 'png').replace('SEED-BLOCKED-URL', 'seed-blocked-url')}\n"
    )
    blocked = {
        "file": "list.txt",
        "hosts": ["LOCALHOST"],
        "images": [image_id(picture(path)).upper() for path in blocked_images],
    }
    needles: list[str | bytes] = [*gone]
    for path in (*blocked_images, "/blocked-url.png", "/host.png", "/there.png", SEED_PATHS[1]):
        needles += [image_id(picture(path)), picture(path)]
    needles += [row["image"] for url, row in everything.items() if not url.endswith("/fine.png")]
    # Of what is kept: where a seed, and what was found, came from, and what they are called.
    said_everywhere = [project.host_url, image_id(picture("/host.png")), image_id(picture(SEED_PATHS[1]))]
    at_first = {name for path in holding(needles, project.data) for name in NAMES if f"/{name}/" in path}
    # Of these nothing was asked for.
    assert at_first == {*NAMES} - {"seed_prompts", "aesthetic_scores", "nsfw_scores", "held_out_images"}
    outputs = project.outputs(hub, tmp_path / "hub")
    assert all(holding([needle], output) for output in outputs for needle in said_everywhere)
    project.write(blocked)
    assert project.run().success
    # Nothing was asked for: all that is left was at hand.
    assert not server.requests
    assert CountingEncoder.seen == CountingCaptioner.seen == 0
    current = [project.data / name / PARTITION for name in NAMES]
    notes = [project.data / "_sd_assets" / name / PARTITION / "notes" for name in NAMES]
    assert holding(needles, *current, *notes) == set()
    assert holding(needles, *project.outputs(hub, tmp_path / "hub")) == set()
    assert not project.wip("downloaded_images") and not project.wip("image_captions")
    left = {row["url"]: row for row in project.rows("downloaded_images")}
    assert {url: row["error"] for url, row in left.items()} == {
        server.url("/fine.png"): None,
        server.url("/blocked-image.png"): "blocked",
        server.url("/redirect.png"): "blocked",
    }
    assert [row["source"] for row in project.rows("seed_images")] == [server.url("/seed.png")]
    assert project.report("seed_images")["rows_blocked"] == project.report("seed_images")["rows_skipped"] == 2
    assert len(project.rows("text_image_pairs")) == 2
    # Of Dagster's events only those of this run show anything of rows, and these are clean.
    for name, sheet in sheets.items():
        assert _sheets(project).get(name) != sheet, name
    _no_event_shows(project, [*gone, *sheets.values(), *(image_id(picture(path)) for path in blocked_images)])
    older = holding(needles, project.data)
    assert older and all("/shards/" in path for path in older)

    # It stays gone, and nothing happens.
    after = project.versions()
    assert project.run().success
    assert project.versions() == after
    assert not server.requests
    assert CountingEncoder.seen == CountingCaptioner.seen == 0

    # A URL that leads to something blocked is not asked again with other settings either.
    project.entry["download"]["image_size"] = 48
    project.write(blocked)
    assert project.run().success
    assert server.requests == {"/fine.png": 1}
    project.entry["download"]["image_size"] = 32

    table = project.storage.table("downloaded_images", PARTITION)
    old = project.storage.table("downloaded_images", PARTITION, version=1)
    project.write({**blocked, "delete_older_versions": True})
    assert project.run().success
    assert holding(needles, project.data) == set()
    with pytest.raises(TableError, match="is not kept"):
        project.storage.table("downloaded_images", PARTITION, version=1)
    with pytest.raises(TableError, match="is gone"):
        old.read()
    assert table.read().num_rows == 3  # it holds nothing blocked, and is kept

    # Off the list, all is as it was; only what was deleted is asked for again.
    project.write({})
    assert project.run().success
    assert {name: version for name, (_, version) in project.versions().items()} == {
        name: version for name, (_, version) in before.items()
    }
    assert set(server.requests) == {*PATHS[1:], "/host.png", "/redirect.png", *SEED_PATHS[1:]}
    assert {row["url"] for row in project.rows("downloaded_images")} == set(everything)


def _sheets(project: Project) -> dict[str, str]:
    """Of each asset's last materialization that has a contact sheet the data of the picture."""
    found = {}
    for name in NAMES:
        records = project.instance.fetch_materializations(dg.AssetKey(name), limit=100).records
        for record in records:
            assert record.asset_materialization is not None
            shown = record.asset_materialization.metadata.get("contact_sheet")
            if shown is not None and name not in found:
                found[name] = json.dumps(shown.value).partition("base64,")[2][2_000:2_300]
    return found


def _no_event_shows(project: Project, needles: Sequence[str]) -> None:
    """Neither an event, nor a byte of the files that they are kept in."""
    root = Path(project.instance.root_directory)
    assert holding(needles, root) == set()
