"""A model and an index that do not fit are an error before a query is embedded or asked."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from sd_assets.compute.run import write_rows
from sd_assets.errors import RetrievalError
from sd_assets.models.naming import clip_name
from sd_assets.retrieval.fit import check_fit, check_queries, model_of
from sd_assets.retrieval.layout import write_index
from sd_assets.retrieval.record import IndexRecord
from sd_assets.schemas import SEED_EMBEDDINGS
from sd_assets.settings import (
    ClipSettings,
    FaissIndexSettings,
    ParquetCorpus,
    PartitionCorpus,
    ServiceIndexSettings,
)
from sd_assets.storage.files import LocalFiles
from sd_assets.storage.table import Table, TableStore

B32 = ClipSettings(model="ViT-B-32", pretrained="openai")
LAION_B32 = ClipSettings(model="ViT-B-32", pretrained="laion2b_s34b_b79k")
OF_4 = SimpleNamespace(dim=4)
OF_8 = SimpleNamespace(dim=8)

RECORD = IndexRecord(
    made_from="-",
    clip="ViT-B-32/openai",
    dim=4,
    vectors=3,
    factory="Flat",
    metric="ip",
    nprobe=None,
    ef_search=None,
    corpus="-",
    rows=3,
    skipped={},
    index_bytes=0,
    built_at="2026-01-01T00:00:00+00:00",
    build_seconds=0.1,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An index of three vectors of four dimensions, without a record of who made it."""
    folder = tmp_path / "index"
    write_index(
        folder, np.eye(3, 4, dtype=np.float32), pa.table({"url": [f"http://h/{i}" for i in range(3)]})
    )
    (folder / "sd_assets.json").unlink(missing_ok=True)
    return folder


def local(folder: Path, **fields: object) -> FaissIndexSettings:
    return FaissIndexSettings.model_validate({"kind": "faiss", "path": str(folder), **fields})


def test_the_record_of_the_folder_names_the_model(folder: Path) -> None:
    RECORD.write(folder)
    check_fit("mine", local(folder), B32, OF_4)
    with pytest.raises(RetrievalError) as caught:
        check_fit("mine", local(folder), LAION_B32, OF_4)
    said = str(caught.value)
    assert "index 'mine' was made with ViT-B-32/openai, as" in said and "sd_assets.json says" in said
    assert "`clip:` of the entry is ViT-B-32/laion2b_s34b_b79k" in said
    assert "Set `clip:` of the entry" in said and "`retrieval: index:`" in said


def test_a_model_is_the_same_by_the_name_of_its_repository(folder: Path, tmp_path: Path) -> None:
    RECORD.write(folder)
    of_transformers = ClipSettings(model="openai/clip-vit-base-patch32")
    check_fit("mine", local(folder, clip=of_transformers), of_transformers, OF_4)
    embedded_by_it = embedded(
        tmp_path, ["hf-hub:openai/clip-vit-base-patch32@3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"]
    )
    check_queries("mine", local(folder), embedded_by_it)
    other = ClipSettings(model="google/siglip-base-patch16-224", revision="main")
    with pytest.raises(RetrievalError, match="`clip:` of the entry is google/siglip-base-patch16-224"):
        check_fit("mine", local(folder), other, OF_4)
    dataclasses.replace(RECORD, clip=clip_name(other)).write(folder)
    check_fit("mine", local(folder), other, OF_4)
    with pytest.raises(RetrievalError, match="was made with hf-hub:google/siglip-base-patch16-224, as"):
        check_fit("mine", local(folder), of_transformers, OF_4)


def test_the_catalogue_names_the_model_of_a_folder_that_does_not(folder: Path) -> None:
    declared = local(folder, clip=B32)
    check_fit("mine", declared, B32, OF_4)
    with pytest.raises(RetrievalError, match="as `indices: mine: clip:` of the catalogue says"):
        check_fit("mine", declared, LAION_B32, OF_4)


def test_a_catalogue_that_contradicts_the_folder_is_said(folder: Path) -> None:
    RECORD.write(folder)
    assert model_of("mine", local(folder, clip=B32)) == "ViT-B-32/openai"
    with pytest.raises(RetrievalError, match="take `clip:` away, or, if it is right, build the index again"):
        check_fit("mine", local(folder, clip=LAION_B32), LAION_B32, OF_4)


def test_of_an_unknown_model_the_dimension_is_compared(folder: Path) -> None:
    check_fit("mine", local(folder), LAION_B32, OF_4)
    with pytest.raises(
        RetrievalError, match=r"holds vectors of 4 dimensions, and ViT-B-32/laion2b_s34b_b79k.* of 8"
    ):
        check_fit("mine", local(folder), LAION_B32, OF_8)
    dataclasses.replace(RECORD, clip=None).write(folder)
    with pytest.raises(RetrievalError, match="holds vectors of 4 dimensions"):
        check_fit("mine", local(folder), LAION_B32, OF_8)


def test_an_index_that_is_to_be_built_is_judged_by_what_the_catalogue_says(tmp_path: Path) -> None:
    corpus = ParquetCorpus(kind="parquet", path="corpus")
    check_fit("mine", local(tmp_path / "index", corpus=corpus), B32, OF_4)
    with pytest.raises(RetrievalError, match="was made with ViT-B-32/openai"):
        check_fit("mine", local(tmp_path / "index", corpus=corpus, clip=B32), LAION_B32, OF_4)


def test_an_index_that_is_nowhere_is_said_before_anything_is_embedded(tmp_path: Path) -> None:
    with pytest.raises(RetrievalError, match=r"there is no .*image\.index"):
        check_fit("mine", local(tmp_path / "gone"), B32, OF_4)


def test_a_service_is_not_asked() -> None:
    service = {"kind": "clip-retrieval", "url": "http://127.0.0.1:9"}
    check_fit("theirs", ServiceIndexSettings.model_validate(service), B32, OF_4)
    with pytest.raises(RetrievalError, match="was made with ViT-B-32/openai"):
        check_fit("theirs", ServiceIndexSettings.model_validate({**service, "clip": B32}), LAION_B32, OF_4)


def embedded(base: Path, models: list[str | None]) -> Table:
    def rows() -> Iterator[pa.RecordBatch]:
        yield pa.RecordBatch.from_pylist(
            [
                {
                    "query_id": str(place),
                    "kind": "text",
                    "embedding": [1.0, 0.0] if model else None,
                    "model": model,
                    "error": None if model else "not_finite",
                }
                for place, model in enumerate(models)
            ],
            schema=SEED_EMBEDDINGS.arrow,
        )

    area = TableStore(LocalFiles(base)).area("seed_embeddings", "p")
    return Table(area, write_rows(SEED_EMBEDDINGS, rows(), area, "run").commit())


def test_queries_that_were_embedded_with_another_model_are_not_asked(folder: Path, tmp_path: Path) -> None:
    RECORD.write(folder)
    ours = embedded(tmp_path / "ours", ["ViT-B-32/openai", None])
    check_queries("mine", local(folder), ours)
    mixed = embedded(tmp_path / "mixed", ["ViT-B-32/openai", None, "local-dir:0123456789abcdef"])
    with pytest.raises(RetrievalError, match="the queries were embedded with local-dir:0123456789abcdef"):
        check_queries("mine", local(folder), mixed)
    (folder / "sd_assets.json").unlink()
    check_queries("mine", local(folder), mixed)


def test_an_index_that_is_still_to_be_built_is_asked_nothing(tmp_path: Path) -> None:
    index = local(tmp_path / "index", corpus=ParquetCorpus(kind="parquet", path="corpus"))
    with pytest.raises(RetrievalError, match=r"index 'mine' is not built yet.*make index INDEX=mine"):
        check_queries("mine", index, embedded(tmp_path, ["ViT-B-32/openai"]))


def test_an_index_of_an_entry_s_embeddings_is_judged_by_that_entry(folder: Path, tmp_path: Path) -> None:
    # Made with another model before: it is built again of what is to be embedded now.
    RECORD.write(folder)
    index = local(folder, corpus=PartitionCorpus(kind="partition", partition="photos"))
    check_fit("mine", index, LAION_B32, OF_8, clip_of_corpus=LAION_B32)
    with pytest.raises(RetrievalError, match="as `clip:` of the entry that it is built of says"):
        check_fit("mine", index, B32, OF_8, clip_of_corpus=LAION_B32)
    with pytest.raises(RetrievalError, match=r"build the index again .*make index INDEX=mine"):
        check_queries("mine", index, embedded(tmp_path, ["ViT-B-32/laion2b_s34b_b79k"]))
