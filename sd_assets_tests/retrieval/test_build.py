"""Index folders that are built of a corpus: what is in them, and what becomes of a build that is killed."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sd_assets.errors import RetrievalError
from sd_assets.retrieval import open_index
from sd_assets.retrieval.build import build_index
from sd_assets.retrieval.corpora import Corpus, open_corpus
from sd_assets.retrieval.kinds import chosen_kind, lists_for
from sd_assets.retrieval.layout import INDEX_FILE, METADATA_ARROW, METADATA_FOLDER
from sd_assets.retrieval.record import RECORD_FILE, IndexRecord
from sd_assets.retrieval.training import centroids, sampled
from sd_assets.retrieval.workspace import workspace
from sd_assets.settings import (
    ClipRetrievalCorpus,
    FaissIndexSettings,
    IndexBuildSettings,
    RetrievalSettings,
    parse_bytes,
)
from sd_assets_tests.retrieval.answers import asked
from sd_assets_tests.retrieval.conftest import normalised

Vectors = npt.NDArray[np.float32]

DIM = 16
FILES = 3
ROWS = 1_500  # of a file: more than a step has
BAD = {"not_finite": (7, 1_400), "zero": (12,)}  # rows of every file


@pytest.fixture(scope="module")
def vectors() -> list[Vectors]:
    """Of each file: clustered, and of any length."""
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((40, DIM))
    return [
        np.asarray(centres[rng.integers(0, 40, ROWS)] + 0.4 * rng.standard_normal((ROWS, DIM)), np.float32)
        for _ in range(FILES)
    ]


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory, vectors: list[Vectors]) -> Path:
    """As `clip-retrieval inference` writes them, and a few of them are bad."""
    folder = tmp_path_factory.mktemp("embeddings")
    (folder / "img_emb").mkdir()
    (folder / "metadata").mkdir()
    for number, good in enumerate(vectors):
        array = good.astype(np.float16)
        array[BAD["not_finite"][0], 3] = np.nan
        array[BAD["not_finite"][1], 0] = np.inf
        array[BAD["zero"][0]] = 0
        np.save(folder / "img_emb" / f"img_emb_{number}.npy", array)
        rows = pa.table(
            {
                "url": [f"http://h/{number}/{row}.jpg" for row in range(ROWS)],
                "caption": [f"text {row}" for row in range(ROWS)],
                "width": np.arange(ROWS) + 1,
                "taken": ["in spring"] * ROWS,
            }
        )
        pq.write_table(rows, folder / "metadata" / f"metadata_{number}.parquet")
    return folder


def corpus_of(folder: Path, **settings: Any) -> Corpus:
    return open_corpus(
        "mine",
        ClipRetrievalCorpus.model_validate({"kind": "clip-retrieval", "path": str(folder), **settings}),
    )


def built(corpus: Corpus, folder: Path, **settings: Any) -> tuple[IndexRecord, list[str]]:
    lines: list[str] = []
    record = build_index(corpus, IndexBuildSettings.model_validate(settings), folder, lines.append)
    return record, lines


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def asked_for(folder: Path, vectors: list[Vectors], k: int = 1) -> list[list[str]]:
    """The URLs that some good vectors of every file find."""
    settings = FaissIndexSettings(kind="faiss", path=str(folder))
    index = open_index("mine", settings, RetrievalSettings())
    queries = normalised(np.concatenate([file[100:1_300:100] for file in vectors]))
    return [[hit.url for hit in hits] for hits in asked(index, queries, k) if isinstance(hits, list)]


EXPECTED = [[f"http://h/{number}/{row}.jpg"] for number in range(FILES) for row in range(100, 1_300, 100)]
KINDS = ["Flat", "HNSW16", "IVF256,Flat", "IVF64_HNSW16,SQfp16", "PCAR16,IVF64,Flat", "IVF64,PQ16x4", "SQ8"]


@pytest.mark.parametrize("factory", [None, *KINDS])
def test_a_vector_finds_its_own_row_whatever_the_kind(
    embeddings: Path, vectors: list[Vectors], tmp_path: Path, factory: str | None
) -> None:
    folder = tmp_path / "index"
    record, lines = built(corpus_of(embeddings), folder, factory=factory)
    bad = {reason: FILES * len(rows) for reason, rows in BAD.items()}
    assert record == IndexRecord.read(folder)
    assert record.factory == (factory or "Flat")
    assert (record.rows, record.vectors, record.skipped) == (FILES * ROWS, FILES * (ROWS - 3), bad)
    index = faiss.read_index(str(folder / INDEX_FILE))
    assert (index.ntotal, index.d, index.metric_type) == (record.vectors, DIM, faiss.METRIC_INNER_PRODUCT)
    found = asked_for(folder, vectors, 10)
    if factory == "IVF64,PQ16x4":  # which keeps 4 bits a number
        assert sum(urls[0] in hits for urls, hits in zip(EXPECTED, found, strict=True)) > 0.9 * len(EXPECTED)
    else:
        assert [hits[:1] for hits in found] == EXPECTED
    ivf = faiss.try_extract_index_ivf(index)
    assert record.nprobe == (ivf.nprobe if ivf else None)
    bad_rows = "left out 2 not_finite (the first is row 7), 1 zero (the first is row 12)"
    assert f"img_emb_1.npy, rows 0 to 1,499: {bad_rows}" in lines
    assert any(line.startswith("left out 9 of 4,500 rows: 6 not_finite, 3 zero") for line in lines)
    assert not list(tmp_path.glob(".index*"))  # nothing is left of the work


def test_what_the_folder_holds(embeddings: Path, tmp_path: Path) -> None:
    built(corpus_of(embeddings), tmp_path / "index")
    assert names_in(tmp_path / "index") == [INDEX_FILE, METADATA_FOLDER, METADATA_ARROW, RECORD_FILE]
    files = sorted((tmp_path / "index" / METADATA_FOLDER).iterdir())
    assert [file.name for file in files] == [f"metadata_{number:04d}.parquet" for number in range(FILES)]
    rows = pa.concat_tables([pq.read_table(file) for file in files])
    assert rows.column_names == ["url", "caption", "width", "taken"]
    index = faiss.read_index(str(tmp_path / "index" / INDEX_FILE))
    # Row i is vector i: of the twentieth good one too, behind two that were left out.
    stored = np.load(embeddings / "img_emb" / "img_emb_0.npy")
    for place in (0, 20, 1_490, 1_500, 4_000):
        number, row = (int(part) for part in rows["url"][place].as_py()[len("http://h/") : -4].split("/"))
        original = np.load(embeddings / "img_emb" / f"img_emb_{number}.npy")[row].astype(np.float32)
        np.testing.assert_allclose(index.reconstruct(place), original / np.linalg.norm(original), atol=1e-6)
    assert stored.dtype == np.float16


def test_an_index_with_lists_is_the_one_that_faiss_itself_would_fill(
    embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is put together list by list: it must hold what `add` of all vectors would."""
    monkeypatch.setattr("sd_assets.retrieval.build._STEP_BYTES", 1)
    monkeypatch.setattr("sd_assets.retrieval.storing._LISTS_BYTES", 10_000)
    for factory in ("IVF64,Flat", "PCAR8,IVF32,PQ4x4", "IVF32,SQ8"):
        folder = tmp_path / factory
        built(corpus_of(embeddings), folder, factory=factory)
        ours = faiss.read_index(str(folder / INDEX_FILE))
        theirs = faiss.clone_index(ours)
        theirs.reset()
        vectors, _ = _all_good(embeddings)
        theirs.add(vectors)
        assert (
            faiss.serialize_index(_probing(ours)).tobytes()
            == faiss.serialize_index(_probing(theirs)).tobytes()
        )


def _probing(index: Any) -> Any:
    faiss.extract_index_ivf(index).nprobe = 4
    return index


def _all_good(embeddings: Path) -> tuple[Vectors, int]:
    from sd_assets.retrieval.vectors import normalised as brought_to_length_1

    arrays = [np.load(embeddings / "img_emb" / f"img_emb_{number}.npy") for number in range(FILES)]
    parts = [brought_to_length_1(array, np.zeros(len(array), np.uint8))[0] for array in arrays]
    return np.concatenate(parts), len(parts)


def test_what_has_not_changed_is_left_alone_and_what_has_is_replaced(
    embeddings: Path, vectors: list[Vectors], tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    first, _ = built(corpus_of(embeddings), folder)
    again, lines = built(corpus_of(embeddings), folder)
    assert again == first
    assert lines == [f"{folder} is up to date: {first.vectors:,} vectors of {first.corpus}"]
    other, _ = built(corpus_of(embeddings, columns=()), folder, factory="IVF64,Flat")
    assert other.made_from != first.made_from
    assert pq.read_table(folder / METADATA_FOLDER).column_names == ["url", "caption", "width"]
    assert asked_for(folder, vectors) == EXPECTED
    assert names_in(tmp_path) == ["index"]


def test_what_a_killed_build_left_behind_when_all_was_done_is_deleted(
    embeddings: Path, tmp_path: Path
) -> None:
    first, _ = built(corpus_of(embeddings), tmp_path / "index")
    (tmp_path / ".index.building" / "old").mkdir(parents=True)
    (tmp_path / ".index.building" / "made_from").write_text(first.made_from, "utf-8")
    again, _ = built(corpus_of(embeddings), tmp_path / "index")
    assert again == first
    assert names_in(tmp_path) == ["index"]


def test_an_old_index_is_replaced_where_folders_cannot_be_exchanged(
    embeddings: Path, vectors: list[Vectors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    built(corpus_of(embeddings), folder)
    monkeypatch.setattr("sd_assets.retrieval.workspace._exchanged", lambda one, other: False)
    record, _ = built(corpus_of(embeddings), folder, factory="IVF64,Flat")
    assert IndexRecord.read(folder) == record
    assert asked_for(folder, vectors) == EXPECTED
    assert names_in(tmp_path) == ["index"]


KILLED = """
import json, os, pathlib, signal, sys

from sd_assets.retrieval import build, storing
from sd_assets.retrieval.corpora import open_corpus
from sd_assets.settings import ClipRetrievalCorpus, IndexBuildSettings

embeddings, folder, factory, at = sys.argv[1:]
build._STEP_BYTES = 1
storing.KEPT_EVERY_S = 0.0
left = int(at)
replace = pathlib.Path.replace

def replace_or_die(path, target):
    # Every second time the file is in its place already.
    global left
    left -= 1
    if left <= 0:
        if int(at) % 2:
            replace(path, target)
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)

pathlib.Path.replace = replace_or_die
corpus = open_corpus("mine", ClipRetrievalCorpus(kind="clip-retrieval", path=embeddings))
lines = []
build.build_index(corpus, IndexBuildSettings(factory=factory), pathlib.Path(folder), lines.append)
print("\\n".join(lines))
"""


@pytest.mark.parametrize("factory", ["IVF256,Flat", "HNSW16"])
def test_a_build_that_is_killed_again_and_again_ends_in_the_same_index(
    embeddings: Path, tmp_path: Path, factory: str
) -> None:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
    }  # of an HNSW graph, two builds are equal in one thread only

    def run(folder: Path, at: int) -> subprocess.CompletedProcess[str]:
        arguments = [sys.executable, "-c", KILLED, str(embeddings), str(folder), factory, str(at)]
        return subprocess.run(arguments, env=environment, capture_output=True, text=True)

    undisturbed = run(tmp_path / "undisturbed", 10_000)
    assert undisturbed.returncode == 0, undisturbed.stderr
    folder = tmp_path / "index"
    old, _ = built(corpus_of(embeddings), folder, factory="SQ8")
    before = contents(folder)
    kills = 0
    # In training, in a step, in its middle, much later, at the very end ...
    for at in (2, 5, 4, 7, 6, 9, 3, 1, 10_000):
        done = run(folder, at)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
        assert contents(folder) == before  # the old one, whole
    assert kills >= 5
    assert "going on with a build" in done.stdout
    assert "training" not in done.stdout
    names = {RECORD_FILE}  # says when it was built
    after, expected = contents(folder), contents(tmp_path / "undisturbed")
    assert {name: data for name, data in after.items() if name not in names} == {
        name: data for name, data in expected.items() if name not in names
    }
    assert IndexRecord.read(folder) != old
    assert names_in(tmp_path) == ["index", "undisturbed"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_a_corpus_that_changed_in_between_is_begun_anew(
    embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    with monkeypatch.context() as patch, pytest.raises(RetrievalError, match="the disk is full"):

        def full(folder: Path) -> Path:
            raise OSError("the disk is full")

        patch.setattr("sd_assets.retrieval.build.write_metadata_arrow", full)
        built(corpus_of(embeddings), folder, factory="IVF64,Flat")
    assert not folder.exists()
    _, lines = built(corpus_of(embeddings), folder, factory="IVF64,Flat", seed=1)
    assert not any("going on" in line for line in lines)
    assert any("training" in line for line in lines)


@pytest.mark.parametrize("factory", ["Flat", "IVF64,Flat"])
def test_a_disk_without_room_is_told_and_what_is_done_is_kept(
    embeddings: Path, vectors: list[Vectors], tmp_path: Path, factory: str
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = tmp_path / "index"
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))  # less than the vectors of a file take
    try:
        with pytest.raises(
            RetrievalError, match=r"index: the build broke off \(.*\): .* run it again: what is done is kept"
        ):
            built(corpus_of(embeddings), folder, factory=factory)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not folder.exists()
    _, lines = built(corpus_of(embeddings), folder, factory=factory)
    assert f"going on with a build of {folder} that was broken off" in lines
    assert asked_for(folder, vectors) == EXPECTED


def test_a_folder_that_cannot_be_made_is_told(embeddings: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RetrievalError, match=r"file/index: the build broke off \(.*Not a directory"):
        built(corpus_of(embeddings), tmp_path / "file" / "index")


@pytest.mark.parametrize("empty", [False, True])
def test_metadata_that_a_power_cut_took_is_noticed(
    embeddings: Path, vectors: list[Vectors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty: bool
) -> None:
    folder = tmp_path / "index"
    with monkeypatch.context() as patch, pytest.raises(RetrievalError):

        def cut(folder: Path) -> Path:
            raise OSError("power cut")

        patch.setattr("sd_assets.retrieval.build.write_metadata_arrow", cut)
        built(corpus_of(embeddings), folder, factory="IVF64,Flat")
    taken = tmp_path / ".index.building" / "new" / METADATA_FOLDER / "metadata_0001.parquet"
    if empty:
        taken.write_bytes(b"")
    else:
        taken.unlink()
    with pytest.raises(
        RetrievalError, match=r"2,994 rows of metadata for 4,491 vectors: .*build it again, it begins anew"
    ):
        built(corpus_of(embeddings), folder, factory="IVF64,Flat")
    built(corpus_of(embeddings), folder, factory="IVF64,Flat")
    assert asked_for(folder, vectors) == EXPECTED


def test_a_mount_point_cannot_be_exchanged(embeddings: Path) -> None:
    with pytest.raises(RetrievalError, match=r"/proc is a mount point.*give a folder below it"):
        built(corpus_of(embeddings), Path("/proc"))


def test_metadata_for_quick_access_is_made_again(embeddings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    built(corpus_of(embeddings), folder)
    file = folder / METADATA_ARROW
    before = file.read_bytes()
    file.unlink()
    built(corpus_of(embeddings), folder)
    assert file.read_bytes() == before
    file.write_bytes(b"damaged")
    _, lines = built(corpus_of(embeddings), folder)
    assert file.read_bytes() == before
    assert lines[0].startswith(f"{folder} is up to date")
    assert lines[1:] == [f"{METADATA_ARROW} was not there, or of other files: it was written again"]


def test_an_index_inside_its_corpus_is_no_part_of_it(
    embeddings: Path, vectors: list[Vectors], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = tmp_path / "corpus"
    shutil.copytree(embeddings, corpus)
    folder = corpus / "index"
    with monkeypatch.context() as patch, pytest.raises(RetrievalError):

        def full(folder: Path) -> Path:
            raise OSError("the disk is full")

        patch.setattr("sd_assets.retrieval.build.write_metadata_arrow", full)
        built(corpus_of(corpus), folder)
    first, lines = built(corpus_of(corpus), folder)
    assert any("going on" in line for line in lines)
    again, _ = built(corpus_of(corpus), folder)
    assert again == first
    assert asked_for(folder, vectors) == EXPECTED


def test_settings_that_change_nothing_build_nothing(embeddings: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    first, _ = built(corpus_of(embeddings), folder, memory="4GB")
    for settings in ({"memory": "4 GB"}, {"memory": "3GB"}, {"factory": "Flat"}, {"recall": 0.5}):
        assert built(corpus_of(embeddings), folder, **settings)[0] == first
    lists, _ = built(corpus_of(embeddings), folder, factory="IVF64,Flat")
    assert built(corpus_of(embeddings), folder, factory="IVF64,Flat", memory="1GB")[0] == lists
    # What the sample must fit, and what `nprobe` is chosen for.
    small, _ = built(corpus_of(embeddings), folder, factory="IVF64,Flat", memory="100KB")
    low, _ = built(corpus_of(embeddings), folder, factory="IVF64,Flat", recall=0.5)
    assert len({record.made_from for record in (first, lists, small, low)}) == 4


def test_what_is_not_ours_is_left_alone(embeddings: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(
        RetrievalError, match=r"photos holds other files, and is left as it is: give a new folder"
    ):
        built(corpus_of(embeddings), tmp_path / "photos")
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / INDEX_FILE).touch()
    with pytest.raises(RetrievalError, match="an index that sd_assets did not build"):
        built(corpus_of(embeddings), tmp_path / "theirs")
    with (
        workspace(tmp_path / "index"),
        pytest.raises(RetrievalError, match="another process is building"),
    ):
        built(corpus_of(embeddings), tmp_path / "index")
    assert names_in(tmp_path) == ["photos", "theirs"]


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("IVF8192,Flat", r"needs a sample of at least 8,192 good vectors to train with, and there are 4,491"),
        ("Nonsense", r"FAISS cannot build the kind of index 'Nonsense': .*Check build.factory"),
        ("IDMap,Flat", r"vector i must be row i: take IDMap away"),
    ],
)
def test_a_kind_that_does_not_suit(embeddings: Path, tmp_path: Path, factory: str, message: str) -> None:
    with pytest.raises(RetrievalError, match=message):
        built(corpus_of(embeddings), tmp_path / "index", factory=factory)


def test_a_corpus_without_one_good_row(tmp_path: Path) -> None:
    np.save(tmp_path / "img_emb_0.npy", np.full((5, DIM), np.nan, np.float16))
    pq.write_table(pa.table({"url": ["http://h"] * 5}), tmp_path / "metadata_0.parquet")
    with pytest.raises(RetrievalError, match=r"none of 5 rows can be indexed \(5 not_finite\)"):
        built(corpus_of(tmp_path), tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_a_damaged_record_is_told(embeddings: Path, tmp_path: Path) -> None:
    record, _ = built(corpus_of(embeddings), tmp_path / "index")
    file = tmp_path / "index" / RECORD_FILE
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), "of_a_later_version": 1}), "utf-8")
    assert IndexRecord.read(tmp_path / "index") == record
    file.write_text("{", "utf-8")
    with pytest.raises(RetrievalError, match="is damaged"):
        IndexRecord.read(tmp_path / "index")


@pytest.mark.parametrize(
    ("vectors", "dim", "memory", "kind"),
    [
        (5, 512, "4GB", "Flat"),
        (20_000, 512, "4GB", "Flat"),
        (1_000_000, 512, "4GB", "IVF4096,Flat"),
        (1_000_000, 512, "1.5GB", "IVF4096,SQfp16"),
        (12_800_000, 768, "12GB", "IVF16384_HNSW32,SQ8"),
        (400_000_000, 512, "32GB", "OPQ64_256,IVF65536_HNSW32,PQ64x8"),
        (400_000_000, 512, "1GB", "OPQ8_32,IVF65536_HNSW32,PQ8x8"),
    ],
)
def test_the_kind_goes_by_size_and_memory(vectors: int, dim: int, memory: str, kind: str) -> None:
    assert chosen_kind(vectors, dim, parse_bytes(memory)) == kind
    faiss.index_factory(dim, kind, faiss.METRIC_INNER_PRODUCT)


def test_there_are_never_more_lists_than_can_be_trained() -> None:
    for vectors in (1, 38, 100, 1_000, 20_001):
        assert lists_for(vectors) == 1 or lists_for(vectors) * 39 <= vectors


def test_the_sample_is_random_and_always_the_same(embeddings: Path) -> None:
    one = sampled(corpus_of(embeddings), DIM, 200, 0)
    assert one.shape[0] in range(195, 201)  # bad rows are left out of it
    np.testing.assert_allclose(np.linalg.norm(one, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(one, sampled(corpus_of(embeddings), DIM, 200, 0))
    assert not np.array_equal(one[:50], sampled(corpus_of(embeddings), DIM, 200, 1)[:50])
    everything = sampled(corpus_of(embeddings), DIM, 10**6, 0)
    np.testing.assert_array_equal(everything, _all_good(embeddings)[0])


def test_lists_are_nearly_as_good_as_those_of_faiss(vectors: list[Vectors]) -> None:
    data = normalised(np.concatenate(vectors))
    theirs = faiss.Kmeans(DIM, 256, niter=10, spherical=True, seed=1)
    theirs.train(data)

    def nearness(places: Vectors | None) -> float:
        assert places is not None
        return float((data @ places.T).max(axis=1).mean())

    assert nearness(centroids(data, 256)) > nearness(theirs.centroids) - 0.01


def test_lists_to_look_into_reach_the_recall(embeddings: Path, tmp_path: Path) -> None:
    low, _ = built(corpus_of(embeddings), tmp_path / "low", factory="IVF64,Flat", recall=0.5)
    high, _ = built(corpus_of(embeddings), tmp_path / "high", factory="IVF64,Flat", recall=0.95)
    assert low.nprobe is not None
    assert high.nprobe is not None
    assert low.nprobe < high.nprobe < 64
    index = faiss.read_index(str(tmp_path / "high" / INDEX_FILE))
    data, _ = _all_good(embeddings)
    _, found = index.search(data[::20], 10)
    _, exact = faiss.knn(data[::20], data, 10, metric=faiss.METRIC_INNER_PRODUCT)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])
    assert recall > 0.93


def test_lists_behind_a_refinement_are_looked_into_as_well(embeddings: Path, tmp_path: Path) -> None:
    plain, _ = built(corpus_of(embeddings), tmp_path / "plain", factory="OPQ4_16,IVF64,PQ4x4")
    record, _ = built(corpus_of(embeddings), tmp_path / "index", factory="OPQ4_16,IVF64,PQ4x4,RFlat")
    assert plain.nprobe is not None
    assert record.nprobe is not None
    assert plain.nprobe > 1
    assert record.nprobe > 1
    index: Any = faiss.read_index(str(tmp_path / "index" / INDEX_FILE))
    assert faiss.extract_index_ivf(index.base_index).nprobe == record.nprobe


def test_a_graph_that_finds_the_lists_looks_as_far_as_one_over_all_vectors(
    embeddings: Path, tmp_path: Path
) -> None:
    record, _ = built(corpus_of(embeddings), tmp_path / "index", factory="IVF64_HNSW16,SQfp16")
    index = faiss.read_index(str(tmp_path / "index" / INDEX_FILE))
    quantizer: Any = faiss.downcast_index(faiss.extract_index_ivf(index).quantizer)
    assert quantizer.hnsw.efSearch == record.ef_search == 128
