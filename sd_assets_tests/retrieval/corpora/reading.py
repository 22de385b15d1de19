"""A corpus, read whole."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from sd_assets.retrieval.corpora import Corpus, open_corpus
from sd_assets.retrieval.corpora.corpus import Reason
from sd_assets.settings import CorpusSettings
from sd_assets.storage.table import TableStore

_SETTINGS: TypeAdapter[CorpusSettings] = TypeAdapter(CorpusSettings)


@dataclass
class Read:
    """All rows of a corpus."""

    vectors: npt.NDArray[Any]
    reasons: list[str]
    rows: list[dict[str, Any]]


def opened(tables: TableStore | None = None, **settings: Any) -> Corpus:
    return open_corpus("mine", _SETTINGS.validate_python(settings), tables)


def read(corpus: Corpus, rows: int = 3, start: int = 0) -> Read:
    """In blocks of `rows`; of each part from row `start` on."""
    blocks = [block for part in corpus.parts for block in corpus.blocks(part, corpus.dim, start, rows)]
    for block in blocks:
        assert len(block.vectors) == len(block.reasons) == len(block.metadata) <= rows
        assert block.metadata.schema == corpus.schema
    reasons = np.concatenate([block.reasons for block in blocks])
    return Read(
        np.concatenate([block.vectors for block in blocks]),
        [Reason(reason).name.lower() for reason in reasons.tolist()],
        pa.Table.from_batches([block.metadata for block in blocks]).to_pylist(),
    )


def write_rows(path: Path, rows: int, first: int = 0, **columns: Any) -> None:
    """A Parquet file with a URL for each row, and other columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    urls = [f"http://h/{first + row}.jpg" for row in range(rows)]
    pq.write_table(pa.table({"url": urls, **columns}), path, row_group_size=4)
