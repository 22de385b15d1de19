"""Corpora that an index is built of: vectors, and for each of them a row of metadata.

Belongs here: finding the files of each kind of corpus, pairing vectors with their rows, reading both a block at a time, and
giving the columns the names that `clip-retrieval back` and we read.

Does not belong here: judging vectors, training, writing an index (`retrieval.build`); querying one.
"""

from __future__ import annotations

from sd_assets.catalog import require_set
from sd_assets.retrieval.corpora.corpus import Block, Corpus, Part
from sd_assets.settings import ClipRetrievalCorpus, CorpusSettings, DataCompCorpus, ParquetCorpus
from sd_assets.storage.table import TableStore

__all__ = ["Block", "Corpus", "Part", "open_corpus"]


def open_corpus(name: str, settings: CorpusSettings, tables: TableStore | None = None) -> Corpus:
    """The corpus that `indices: NAME: corpus:` describes: its files are listed, and their headers read.

    Args:
        name: of the index, for messages.
        settings: which corpus.
        tables: where our own partitions are; only `kind: partition` needs it.

    Raises:
        RetrievalError: files are missing, damaged or do not fit each other.
        TableError: the partition was never materialized.
        CatalogError: the path uses an environment variable that is not set.
    """
    # Each kind is imported when it is wanted, so that naming the protocol loads nothing.
    where = f"indices.{name}.corpus"
    if isinstance(settings, ClipRetrievalCorpus):
        from sd_assets.retrieval.corpora.numbered import numbered_corpus

        return numbered_corpus(settings, require_set(settings.path, f"{where}.path"), where)
    if isinstance(settings, DataCompCorpus):
        from sd_assets.retrieval.corpora.datacomp import datacomp_corpus

        return datacomp_corpus(settings, require_set(settings.path, f"{where}.path"), where)
    if isinstance(settings, ParquetCorpus):
        from sd_assets.retrieval.corpora.parquet import parquet_corpus

        return parquet_corpus(settings, require_set(settings.path, f"{where}.path"), where)
    from sd_assets.retrieval.corpora.partition import partition_corpus

    if tables is None:
        raise ValueError("a corpus of `kind: partition` needs `tables`")
    return partition_corpus(settings, tables, where)
