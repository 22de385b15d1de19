"""The output folder of `clip-retrieval inference`, and LAION-400M: `img_emb_N.npy` with `metadata_N.parquet`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from sd_assets.errors import RetrievalError
from sd_assets.retrieval.corpora.columns import kept_columns
from sd_assets.retrieval.corpora.corpus import Corpus, files_identity
from sd_assets.retrieval.corpora.files import files_below
from sd_assets.retrieval.corpora.paired import PairedFiles, refuse_alone
from sd_assets.settings import ClipRetrievalCorpus

_STEMS = {"image": "img_emb", "text": "text_emb"}
# What folders of one kind of file are called; those of a run lie side by side.
_SUBFOLDERS = frozenset({"img_emb", "text_emb", "metadata", "images", "texts", "image", "text"})
_PATHS_HINT = (
    "`image_path` holds paths on a disk, and retrieval can only give what can be downloaded: have `clip-retrieval inference` "
    "read a webdataset whose metadata has a `url` (as img2dataset writes it) with --enable_metadata True, or add a column `url`"
)

_Key = tuple[str, int]


def numbered_corpus(settings: ClipRetrievalCorpus, path: str, where: str) -> Corpus:
    """The pairs of files in a folder and its sub-folders, in the order of their numbers.

    The folder may hold several runs, each in a sub-folder of its own: then a run comes after the other.

    Args:
        settings: which vectors, which columns.
        path: of the folder, with its environment variables replaced.
        where: the section of the catalogue, for messages.

    Raises:
        RetrievalError: files are missing, damaged or do not fit each other.
    """
    folder = Path(path)
    stem = _STEMS[settings.vectors]
    files = files_below(folder, f"{where}.path")
    vectors = _numbered(files, rf"{stem}_(\d+)\.npy")
    metadata = _numbered(files, r"metadata_(\d+)\.parquet")
    if not vectors:
        raise RetrievalError(
            f"{where}.path: {folder} holds no {stem}_N.npy: give the folder that `clip-retrieval inference` wrote, or that "
            "holds the files of LAION-400M"
        )
    pairs = _paired(vectors, metadata, f"{where}.path")
    parts = [PairedFiles(*pair) for pair in pairs]
    columns, schema = kept_columns({part.file: part.schema for part in parts}, where, keep=settings.columns)
    identity = files_identity(folder, (file for pair in pairs for file in pair))
    found = Corpus(f"{len(parts)} files {stem}_N.npy in {folder}", identity, parts, columns, schema)
    return replace(found, hint=f"{where}: {_PATHS_HINT}") if found.url_column == "image_path" else found


def _numbered(files: Iterable[Path], pattern: str) -> list[tuple[int, Path]]:
    found = ((re.fullmatch(pattern, path.name), path) for path in files)
    return [(int(match[1]), path) for match, path in found if match]


def _paired(
    vectors: list[tuple[int, Path]], metadata: list[tuple[int, Path]], where: str
) -> list[tuple[Path, Path]]:
    # Where no number comes twice, it alone says what belongs together, whatever the sub-folders are called.
    by_number = all(len({number for number, _ in files}) == len(files) for files in (vectors, metadata))
    left, right = (_keyed(files, by_number) for files in (vectors, metadata))
    for key, files in ((key, (left.get(key, []), right.get(key, []))) for key in left.keys() | right.keys()):
        for several in files:
            if len(several) > 1:
                raise RetrievalError(
                    f"{where}: {several[0]} and {several[1]} have the same number {key[1]}: put each run into a folder of its own"
                )
    alone = sorted(
        str(files[key][0])
        for files, other in ((left, right), (right, left))
        for key in files.keys() - other.keys()
    )
    refuse_alone(alone, "number", where)
    return [(left[key][0], right[key][0]) for key in sorted(left)]


def _keyed(files: Iterable[tuple[int, Path]], by_number: bool) -> dict[_Key, list[Path]]:
    keyed: dict[_Key, list[Path]] = {}
    for number, path in files:
        run = path.parent.parent if path.parent.name in _SUBFOLDERS else path.parent
        keyed.setdefault(("" if by_number else run.as_posix(), number), []).append(path)
    return keyed
