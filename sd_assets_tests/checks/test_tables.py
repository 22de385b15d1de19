"""Every check of ours in real runs: what passes, what fails, what it stops, and what Dagster is told."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from sd_assets.assets.common import SEEDS
from sd_assets.checks.tables import CHECKS
from sd_assets.definitions import ASSETS, build_definitions
from sd_assets.errors import SdAssetsError, TableError
from sd_assets.resources.storage import StorageResource
from sd_assets.schemas import TABLES
from sd_assets_tests.checks.world import GOOD, PARTITION, Rows, definitions, failed, made, run

ORDER = [schema.name for schema in TABLES]
SPECS = {f"{spec.asset_key.path[0]}.{spec.name}": spec for check in CHECKS for spec in check.check_specs}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.ephemeral(tempdir=str(tmp_path / "instance")) as instance:
        yield instance


def without(table: str, *names: str) -> Rows:
    """The good rows of a table, some columns null."""
    return [{name: row[name] for name in row if name not in names} for row in GOOD[table]]


def changed(table: str, **columns: Any) -> Rows:
    """The good rows of a table with other values in some columns."""
    return [{**row, **columns} for row in GOOD[table]]


def failing(table: str, count: int, code: str) -> Rows:
    """The good rows of a table, of which the first few failed."""
    return [{**row, "error": code} if place < count else row for place, row in enumerate(GOOD[table])]


def test_every_table_has_one_multi_asset_check() -> None:
    checked = [[key.path[0] for key in {spec.asset_key for spec in check.check_specs}] for check in CHECKS]
    assert checked == [[name] for name in ORDER] == [[asset.key.path[0]] for asset in ASSETS]
    known = build_definitions().get_repository_def().asset_graph.asset_check_keys
    assert {spec.key for spec in SPECS.values()} <= set(known)
    for spec in SPECS.values():
        assert spec.partitions_def == SEEDS and spec.description


def test_a_good_partition_passes_everything(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    result = run(definitions(tmp_path), instance)
    assert result.success and made(result) == set(ORDER)
    found = {f"{it.asset_key.path[0]}.{it.check_name}": it for it in result.get_asset_check_evaluations()}
    assert set(found) == set(SPECS)
    for name, evaluation in found.items():
        assert evaluation.passed, name
        assert evaluation.partition == PARTITION
        assert evaluation.target_materialization_data is not None
        assert evaluation.blocking == (evaluation.severity is dg.AssetCheckSeverity.ERROR)
        assert evaluation.metadata["severity"].value == evaluation.severity.value
        assert evaluation.metadata["table_version"].value == 1
        assert evaluation.description
    numbers = found["downloaded_images.failures_within_limits"].metadata
    assert (numbers["rows"].value, numbers["share_failed"].value) == (12, 0)
    assert numbers["limits"].value == {"total": 0.9}


# The table that is wrong, its rows, the check that finds it, what that says, and the checks that it fails besides.
WRONG: list[tuple[str, Rows, str, str, set[str]]] = [
    ("seed_prompts", [], "has_rows", "there is no row at all", set()),
    (
        "seed_prompts",
        [*GOOD["seed_prompts"], *({"prompt_id": f"x{n}", "error": "unreadable"} for n in range(3))],
        "failures_within_limits",
        r"3 of 5 rows failed \(unreadable 3\); total: 60 %, and checks.max_failed.seed_prompts.total is 50 %",
        set(),
    ),
    (
        "seed_embeddings",
        changed("seed_embeddings", embedding=[float("nan"), 1.0]),
        "all_finite",
        "2 hold NaN",
        set(),
    ),
    (
        "seed_embeddings",
        changed("seed_embeddings", embedding=[3.0, 4.0]),
        "unit_length",
        "lengths other than 1",
        set(),
    ),
    (
        "retrieval_hits",
        failing("retrieval_hits", 2, "query_failed"),
        "failures_within_limits",
        "query_failed 2",
        set(),
    ),
    ("retrieval_hits", changed("retrieval_hits", hits=[]), "queries_have_hits", "2 of 2 queries", set()),
    (
        "retrieval_hits",
        changed("retrieval_hits", hits=[{"url": "u", "similarity": None}]),
        "similarities_within_limits",
        "2 hits of text queries have no number",
        set(),
    ),
    ("retrieved_image_urls", [], "has_rows", "there is no row at all", set()),
    (
        "retrieved_image_urls",
        without("retrieved_image_urls", "similarity"),
        "similarities_are_numbers",
        "12 of 12 URLs",
        set(),
    ),
    (
        "downloaded_images",
        failing("downloaded_images", 11, "timeout"),
        "failures_within_limits",
        r"11 of 12 rows failed \(timeout 11\); total: 91.7 %, and checks.max_failed.downloaded_images.total is 90 %",
        set(),
    ),
    (
        "image_captions",
        failing("image_captions", 7, "empty_caption"),
        "failures_within_limits",
        "58.3 %",
        set(),
    ),
    (
        "image_captions",
        [*GOOD["image_captions"], {"image_id": "x", "variant": "v", "caption": " "}],
        "no_empty_captions",
        "1 of 13",
        set(),
    ),
    (
        "image_captions",
        changed("image_captions", caption="wall"),
        "captioner_varies",
        "the same caption 'wall'",
        {"few_repeated_captions", "caption_lengths_within_limits"},
    ),
    (
        "image_captions",
        [{**row, "caption": f"a picture of thing {n // 2}"} for n, row in enumerate(GOOD["image_captions"])],
        "few_repeated_captions",
        "12 of 12 images",
        set(),
    ),
    (
        "image_captions",
        [*changed("image_captions", variant="a"), *changed("image_captions", variant="b")],
        "captions_of_an_image_differ",
        "12 of 12 images",
        set(),
    ),
    (
        "image_captions",
        [{**row, "caption": f"thing {n}"} for n, row in enumerate(GOOD["image_captions"])],
        "caption_lengths_within_limits",
        "12 have fewer than 3 words",
        set(),
    ),
    ("text_image_pairs", [], "has_rows", "there is no row at all", {"pairs_match_captions"}),
    ("text_image_pairs", GOOD["text_image_pairs"][1:], "pairs_match_captions", "1 are no pair", set()),
    (
        "image_embeddings",
        changed("image_embeddings", embedding=[float("nan"), 1.0]),
        "all_finite",
        "12 hold NaN",
        set(),
    ),
    ("image_embeddings", changed("image_embeddings", embedding=[3.0, 4.0]), "unit_length", "12 of 12", set()),
    ("image_quality", [], "has_rows", "there is no row at all", set()),
    (
        "alignment_scores",
        failing("alignment_scores", 7, "not_finite"),
        "failures_within_limits",
        "58.3 %",
        set(),
    ),
    (
        "near_duplicates",
        [{"image_id": f"w{number}", "cluster": "w0", "cluster_size": 60} for number in range(60)],
        "clusters_are_small",
        "60 of 60 images are in 1 clusters; the largest has 60, and checks.max_in_one_cluster is 5 %",
        set(),
    ),
    (
        "curated_pairs",
        changed("curated_pairs", keep=False, reasons=["host", "low_alignment"], split=None),
        "enough_are_kept",
        r"0 of 12 pairs \(0 %\) are kept; against the others speak most: low_alignment 12, host 12",
        set(),
    ),
    ("held_out_images", [{"error": "unreadable"}], "failures_within_limits", "100 %", set()),
]


@pytest.mark.parametrize(
    ("table", "rows", "check", "said", "besides"), WRONG, ids=[f"{it[0]}.{it[2]}" for it in WRONG]
)
def test_a_wrong_table_is_found_and_stops_what_follows(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    table: str,
    rows: Rows,
    check: str,
    said: str,
    besides: set[str],
) -> None:
    result = run(definitions(tmp_path, {table: rows}), instance)
    found = failed(result)
    assert set(found) == {f"{table}.{name}" for name in (check, *besides)}
    evaluation = found[f"{table}.{check}"]
    assert re.search(said, evaluation.description or ""), evaluation.description
    assert evaluation.partition == PARTITION
    blocks = SPECS[f"{table}.{check}"].blocking
    assert evaluation.severity is (dg.AssetCheckSeverity.ERROR if blocks else dg.AssetCheckSeverity.WARN)
    assert result.success is not blocks
    assert made(result) == set(ORDER) - (followers(table) if blocks else set())


def followers(table: str) -> set[str]:
    """The tables that follow from one, near or far."""
    near = {asset.key.path[0] for asset in ASSETS if dg.AssetKey(table) in asset.dependency_keys}
    return near.union(*map(followers, near))


def test_every_check_is_shown_to_fail() -> None:
    shown = {f"{table}.{check}" for table, _, check, _, _ in WRONG}
    of_every_table = {"has_rows", "failures_within_limits"}
    assert {name for name in SPECS if name.partition(".")[2] not in of_every_table} <= shown


@pytest.mark.parametrize(
    ("table", "rows", "checks"),
    [
        (
            "downloaded_images",
            failing("downloaded_images", 12, "timeout"),
            {"max_failed": {"downloaded_images": 1}},
        ),
        (
            "seed_embeddings",
            changed("seed_embeddings", embedding=[1.1, 0.0]),
            {"norm_tolerance": 0.2},
        ),
        (
            "image_captions",
            changed("image_captions", caption="wall"),
            {
                "max_same_caption": 1,
                "max_repeated_captions": 1,
                "min_caption_words": 1,
            },
        ),
    ],
    ids=["failures", "norms", "captions"],
)
def test_limits_are_the_catalogue_s(
    tmp_path: Path, instance: dg.DagsterInstance, table: str, rows: Rows, checks: dict[str, Any]
) -> None:
    assert failed(run(definitions(tmp_path / "default", {table: rows}), instance))
    result = run(definitions(tmp_path / "own", {table: rows}, checks=checks), instance)
    # Without images there are no pairs; that is another check's to say.
    assert set(failed(result)) <= {"text_image_pairs.has_rows", "text_image_pairs.pairs_match_captions"}


def test_a_stricter_limit_stops_a_good_partition(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    result = run(definitions(tmp_path, checks={"min_median_similarity_prompts": 0.5}), instance)
    assert set(failed(result)) == {"retrieval_hits.similarities_within_limits"}
    assert made(result) == set(ORDER) - followers("retrieval_hits")


def test_a_table_is_empty_only_where_the_entry_asks_for_nothing(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    images = {"source": {"kind": "folder", "path": "images"}}
    seeds: dict[str, Rows] = {"seed_images": [{"image_id": "s1"}], "seed_prompts": []}
    captions = [
        *GOOD["image_captions"],
        {"image_id": "s1", "variant": "default", "caption": "a very own text"},
    ]
    good = run(definitions(tmp_path / "a", {**seeds, "image_captions": captions}, entry=images), instance)
    assert good.success and not failed(good)
    none = run(definitions(tmp_path / "b", {**seeds, "seed_images": []}, entry=images), instance)
    assert set(failed(none)) == {"seed_images.has_rows"}


# --- how checks are launched -------------------------------------------------------------------------------------


def check_job(name: str, *checks: str) -> dg.Definitions:
    keys = (dg.AssetCheckKey(dg.AssetKey(name), check) for check in checks)
    return dg.Definitions(jobs=[dg.define_asset_job("checks_only", dg.AssetSelection.checks(*keys))])


def test_one_asset_is_materialized_with_its_checks(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    job = definitions(tmp_path).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance, partition_key=PARTITION, asset_selection=[dg.AssetKey("seed_prompts")]
    )
    assert made(result) == {"seed_prompts"}
    assert {it.check_name for it in result.get_asset_check_evaluations()} == {
        "has_rows",
        "failures_within_limits",
    }


def test_some_checks_alone_judge_what_is_there(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    run(definitions(tmp_path), instance)
    found = dg.Definitions.merge(
        definitions(tmp_path), check_job("image_captions", "captioner_varies", "has_rows")
    )
    job = found.resolve_job_def("checks_only")
    result = job.execute_in_process(instance=instance, tags={"dagster/partition": PARTITION})
    evaluations = result.get_asset_check_evaluations()
    assert {it.check_name for it in evaluations} == {"captioner_varies", "has_rows"}
    assert {it.partition for it in evaluations} == {PARTITION}
    assert made(result) == set()


def test_checks_without_a_partition_are_refused_with_what_to_do(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    found = dg.Definitions.merge(definitions(tmp_path), check_job("image_captions", "has_rows"))
    with pytest.raises(
        SdAssetsError, match="this run has none: materialize image_captions for the partition"
    ):
        found.resolve_job_def("checks_only").execute_in_process(instance=instance)


def test_checks_of_what_was_never_made_say_so(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    found = dg.Definitions.merge(definitions(tmp_path), check_job("image_captions", "has_rows"))
    with pytest.raises(TableError, match="materialize image_captions for 'demo_prompts' first"):
        found.resolve_job_def("checks_only").execute_in_process(
            instance=instance, tags={"dagster/partition": PARTITION}
        )


def test_no_secret_gets_into_an_event(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    secret = "as seen on https://user:hunter2@example.com/a.jpg?signature=c0ffee"
    result = run(
        definitions(tmp_path, {"image_captions": changed("image_captions", caption=secret)}), instance
    )
    found = failed(result)["image_captions.captioner_varies"]
    assert found.metadata["most_frequent"].value == {"as seen on https://example.com/a.jpg?…": 12}
    assert "hunter2" not in str(result.all_events) and "c0ffee" not in str(result.all_events)


def test_a_check_of_one_s_own_reads_the_table_by_its_name(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    @dg.asset_check(asset="text_image_pairs", partitions_def=SEEDS)
    def enough_pairs(context: dg.AssetCheckExecutionContext, storage: StorageResource) -> dg.AssetCheckResult:
        pairs = storage.table("text_image_pairs", context.partition_key)
        return dg.AssetCheckResult(passed=pairs.num_rows >= 12, metadata={"pairs": pairs.num_rows})

    result = run(definitions(tmp_path, asset_checks=[enough_pairs]), instance)
    (found,) = [it for it in result.get_asset_check_evaluations() if it.check_name == "enough_pairs"]
    assert found.passed and found.metadata["pairs"].value == 12
    assert found.partition == PARTITION
