"""DataComp and CommonPool: `UID.parquet` with `UID.npz`, whose arrays are the vectors of two CLIPs, of image and text."""

from __future__ import annotations

from pathlib import Path

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.corpora.columns import kept_columns
from sd_assets.retrieval.corpora.corpus import Corpus, files_identity
from sd_assets.retrieval.corpora.files import files_below
from sd_assets.retrieval.corpora.paired import PairedFiles, refuse_alone
from sd_assets.settings import DataCompCorpus

# Both are OpenAI's.
_CLIPS = {"b32": "ViT-B-32/openai", "l14": "ViT-L-14/openai"}


def datacomp_corpus(settings: DataCompCorpus, path: str, where: str) -> Corpus:
    """The pairs of files in a folder and its sub-folders, in the order of their names.

    Args:
        settings: which array, which columns.
        path: of the folder, with its environment variables replaced.
        where: the section of the catalogue, for messages.

    Raises:
        RetrievalError: files are missing, damaged or do not fit each other.
    """
    folder = Path(path)
    files = files_below(folder, f"{where}.path")
    vectors = [file for file in files if file.suffix == ".npz"]
    if not vectors:
        raise RetrievalError(
            f"{where}.path: {folder} holds no .npz files: give the folder that DataComp was downloaded to"
        )
    pairs = [(file, file.with_suffix(".parquet")) for file in vectors]
    alone = [str(file) for file, metadata in pairs if not metadata.is_file()]
    paired = {metadata for _, metadata in pairs}
    alone += [str(file) for file in files if file.suffix == ".parquet" and file not in paired]
    refuse_alone(alone, "name", f"{where}.path")
    parts = [PairedFiles(file, metadata, settings.array) for file, metadata in pairs]
    columns, schema = kept_columns({part.file: part.schema for part in parts}, where, keep=settings.columns)
    identity = f"{settings.array} {files_identity(folder, (file for pair in pairs for file in pair))}"
    clip = _CLIPS[settings.array.partition("_")[0]]
    return Corpus(
        f"{settings.array} of {len(parts)} .npz files in {folder}", identity, parts, columns, schema, clip
    )
