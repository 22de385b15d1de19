"""Partitions of indices and of seed datasets: who hangs on whom, as Dagster resolves it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from sd_assets import catalog
from sd_assets.assets.common import INDICES, SEEDS
from sd_assets.assets.index_lineage import asked_indices, indexed_seeds
from sd_assets.assets.knn_index import knn_index
from sd_assets.assets.retrieval_hits import retrieval_hits
from sd_assets.definitions import build_definitions
from sd_assets.settings import FaissIndexSettings

CORPUS = {"kind": "parquet", "path": "corpus"}
INDEX = {"kind": "faiss", "path": "x"}


def read(indices: dict[str, Any], asked: dict[str, str]) -> catalog.Catalog:
    entries = {name: {"prompts": {"texts": ["a"]}, "retrieval": {"index": it}} for name, it in asked.items()}
    defaults = {"clip": {"model": "toy", "pretrained": "toy"}}
    return catalog.parse(
        {"defaults": defaults, "indices": indices, "seed_datasets": entries}, Path("/c.yaml")
    )


def test_entries_hang_on_the_indices_that_are_built_for_them() -> None:
    found = read(
        {
            "built": {**INDEX, "corpus": CORPUS},
            "brought": INDEX,
            "web": {"kind": "clip-retrieval", "url": "http://knn"},
        },
        {"a": "built", "b": "built", "c": "brought", "d": "web"},
    )
    mapping = asked_indices(found).downstream_partition_keys_by_upstream_partition_key
    assert mapping == {"built": {"a", "b"}}
    assert indexed_seeds(found).downstream_partition_keys_by_upstream_partition_key == {}


def test_an_index_hangs_on_the_entry_whose_embeddings_it_holds() -> None:
    of_photos = {**INDEX, "corpus": {"kind": "partition", "partition": "photos"}}
    found = read({"mine": of_photos, "brought": INDEX}, {"photos": "mine", "prompts": "mine"})
    mapping = indexed_seeds(found).downstream_partition_keys_by_upstream_partition_key
    assert mapping == {"photos": {"mine"}}
    assert asked_indices(found).downstream_partition_keys_by_upstream_partition_key == {
        "mine": {"photos", "prompts"}
    }


def test_partitions_are_those_of_the_catalogue_that_was_loaded() -> None:
    indices = catalog.load().indices
    folders = [name for name, index in indices.items() if isinstance(index, FaissIndexSettings)]
    assert INDICES.get_partition_keys() == folders
    assert knn_index.partitions_def == INDICES and retrieval_hits.partitions_def == SEEDS


def test_no_root_of_the_graph_has_other_partitions_than_the_datasets() -> None:
    # Or the UI offers no partition for "Materialize all".
    graph = build_definitions().resolve_asset_graph()
    roots = [graph.get(key).partitions_def for key in graph.root_materializable_asset_keys]
    assert roots and all(of == SEEDS for of in roots)


def test_the_job_of_a_dataset_does_not_hold_the_index() -> None:
    definitions = build_definitions()
    of_dataset = definitions.resolve_job_def("build_dataset").asset_layer.executable_asset_keys
    assert knn_index.key not in of_dataset and retrieval_hits.key in of_dataset
    assert definitions.resolve_job_def("build_index").asset_layer.executable_asset_keys == {knn_index.key}


def test_who_takes_the_place_of_the_index_has_its_partitions() -> None:
    @dg.asset(name="knn_index", partitions_def=INDICES)
    def of_one_s_own() -> None: ...

    @dg.asset(name="knn_index")
    def without_partitions() -> None: ...

    graph = build_definitions(assets=[of_one_s_own]).resolve_asset_graph()
    assert not graph.get(knn_index.key).parent_keys
    with pytest.raises(ValueError, match="`partitions_def=INDICES`"):
        build_definitions(assets=[without_partitions])


# What an edge means, as Dagster itself resolves it from the definitions that it loads.
PARENTS = """
import json, sys
import dagster as dg
from sd_assets.definitions import defs
dg.Definitions.validate_loadable(defs)
graph = defs.resolve_asset_graph()
found = {}
for asset, partition in json.loads(sys.argv[1]):
    parents = graph.get_parents_partitions(dg.AssetKey(asset), partition).parent_partitions
    found[f"{asset} {partition}"] = sorted(
        f"{it.asset_key.to_user_string()} {it.partition_key}" for it in parents if "catalog" not in it.asset_key.path
    )
print(json.dumps([graph.get(dg.AssetKey("knn_index")).partitions_def.get_partition_keys(), found]))
"""


def loaded(folder: Path, indices: dict[str, Any], asked: dict[str, str], of: list[tuple[str, str]]) -> Any:
    """The partitions of `knn_index`, and of each of these (asset, partition) what it hangs on."""
    entries = {name: {"prompts": {"texts": ["a"]}, "retrieval": {"index": it}} for name, it in asked.items()}
    written = {
        "defaults": {"clip": {"model": "toy", "pretrained": "toy"}},
        "indices": indices,
        "seed_datasets": entries,
    }
    (folder / "catalog.yaml").write_text(yaml.safe_dump(written, sort_keys=False))
    done = subprocess.run(
        [sys.executable, "-c", PARENTS, json.dumps(of)],
        env={**os.environ, catalog.CATALOG_VARIABLE: str(folder / "catalog.yaml")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_catalogue_without_a_local_index_loads(tmp_path: Path) -> None:
    web = {"web": {"kind": "clip-retrieval", "url": "http://knn"}}
    partitions, found = loaded(tmp_path, web, {"a": "web"}, [("retrieval_hits", "a")])
    assert partitions == []
    assert found == {"retrieval_hits a": ["seed_embeddings a"]}


def test_dagster_resolves_the_edges(tmp_path: Path) -> None:
    indices = {
        "built": {**INDEX, "corpus": CORPUS},
        "of_photos": {**INDEX, "corpus": {"kind": "partition", "partition": "photos"}},
        "brought": INDEX,
    }
    asked = {"photos": "of_photos", "a": "built", "b": "brought"}
    of = [("retrieval_hits", name) for name in asked] + [("knn_index", name) for name in indices]
    partitions, found = loaded(tmp_path, indices, asked, of)
    assert partitions == list(indices)
    assert found == {
        "retrieval_hits photos": ["knn_index of_photos", "seed_embeddings photos"],
        "retrieval_hits a": ["knn_index built", "seed_embeddings a"],
        "retrieval_hits b": ["seed_embeddings b"],
        "knn_index built": [],
        "knn_index of_photos": ["seed_embeddings photos", "seed_images photos"],
        "knn_index brought": [],
    }
