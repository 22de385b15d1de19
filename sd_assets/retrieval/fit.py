"""Whether an index and the CLIP that embeds its queries fit, as far as that is known before anything is embedded."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sd_assets.catalog import require_set
from sd_assets.errors import RetrievalError
from sd_assets.models.naming import clip_name, same_clip
from sd_assets.retrieval.layout import INDEX_FILE
from sd_assets.retrieval.record import RECORD_FILE, IndexRecord
from sd_assets.settings import ClipSettings, FaissIndexSettings, PartitionCorpus, ServiceIndexSettings
from sd_assets.storage.table import Table


class Encoder(Protocol):
    """What has to be known of a CLIP: the length of its vectors."""

    @property
    def dim(self) -> int: ...


def check_fit(
    name: str,
    index: FaissIndexSettings | ServiceIndexSettings,
    clip: ClipSettings,
    encoder: Encoder,
    *,
    clip_of_corpus: ClipSettings | None = None,
) -> None:
    """Compare the models' names, where the index's is known, and the dimensions, where the index is on this machine.

    Of an index with a `corpus` that is not built yet, nothing but what the catalogue says of its model is known. One of an
    entry's embeddings is judged by that entry's `clip:`, whatever made it last: it may have to be built again of the very
    embeddings that are to be made.

    Args:
        name: of the index.
        index: how the catalogue defines it.
        clip: that embeds the queries.
        encoder: the same, to be asked for its dimension.
        clip_of_corpus: of the entry whose embeddings the index is built of, where it is built of such.

    Raises:
        RetrievalError: they do not fit; or the index, which nobody is going to build, is not there.
        ModelError: the CLIP is not there.
    """
    made_by = _made_by(name, index) if clip_of_corpus is None else _to_be_made_by(clip_of_corpus)
    if made_by is not None and not same_clip(clip_name(clip), made_by[0]):
        raise _unfit(name, made_by, f"`clip:` of the entry is {_shown(clip)}")
    if clip_of_corpus is None and isinstance(index, FaissIndexSettings):
        dim = _dim(name, index)
        if dim is not None and dim != encoder.dim:
            raise RetrievalError(
                f"index {name!r} holds vectors of {dim} dimensions, and {_shown(clip)}, the `clip:` of the entry, makes such "
                f"of {encoder.dim}: set `clip:` to the model that made the index, or choose another index "
                "(`retrieval: index:`)"
            )


def check_queries(
    name: str, index: FaissIndexSettings | ServiceIndexSettings, seed_embeddings: Table
) -> None:
    """The same for queries that are embedded already, and may be of another model than the entry names by now.

    The dimension is compared by the search.

    Raises:
        RetrievalError: they were embedded with another model than the index; or that is still to be built.
    """
    if isinstance(index, FaissIndexSettings) and _is_to_be_built(name, index):
        raise RetrievalError(
            f"index {name!r} is not built yet: materialize the partition {name!r} of knn_index (`make index INDEX={name}`)"
        )
    made_by = _made_by(name, index)
    if made_by is None:
        return
    for rows in seed_embeddings.batches(["model"]):
        for model in rows.column("model").unique().drop_null().to_pylist():
            if not same_clip(model, made_by[0]):
                again = isinstance(index, FaissIndexSettings) and isinstance(index.corpus, PartitionCorpus)
                raise _unfit(name, made_by, f"the queries were embedded with {model}", again=again)


def model_of(name: str, index: FaissIndexSettings | ServiceIndexSettings) -> str | None:
    """The CLIP that made an index, as `models.naming` writes it; None: nobody says it.

    Raises:
        RetrievalError: its folder and the catalogue say different things.
    """
    made_by = _made_by(name, index)
    return None if made_by is None else made_by[0]


def _made_by(name: str, index: FaissIndexSettings | ServiceIndexSettings) -> tuple[str, str] | None:
    """The CLIP that made an index, and who says so."""
    declared = None if index.clip is None else clip_name(index.clip)
    folder = _folder(name, index) if isinstance(index, FaissIndexSettings) else None
    record = folder and IndexRecord.read(folder)
    if folder and record and record.clip is not None:
        if declared is not None and not same_clip(declared, record.clip):
            raise RetrievalError(
                f"index {name!r}: {folder / RECORD_FILE} says that {record.clip} made it, and `indices: {name}: clip:` of the "
                f"catalogue that {declared} did: take `clip:` away, or, if it is right, build the index again (`knn_index`)"
            )
        return record.clip, f"as {folder / RECORD_FILE} says"
    if declared is not None:
        return declared, f"as `indices: {name}: clip:` of the catalogue says"
    return None


def _to_be_made_by(clip: ClipSettings) -> tuple[str, str]:
    return clip_name(clip), f"as `clip:` of the entry that it is built of says ({_shown(clip)})"


def _dim(name: str, index: FaissIndexSettings) -> int | None:
    """Of the vectors of a local index; None: it is not built yet."""
    if _is_to_be_built(name, index):
        return None
    folder = _folder(name, index)
    record = IndexRecord.read(folder)
    if record is not None:
        return record.dim
    from sd_assets.retrieval.faiss_index import FaissIndex

    opened = FaissIndex(name, folder)
    opened.open()
    return opened.dim


def _is_to_be_built(name: str, index: FaissIndexSettings) -> bool:
    return index.corpus is not None and not (_folder(name, index) / INDEX_FILE).exists()


def _folder(name: str, index: FaissIndexSettings) -> Path:
    return Path(require_set(index.path, f"indices.{name}.path"))


def _shown(clip: ClipSettings) -> str:
    return f"{clip.model}/{clip.pretrained}" if clip.pretrained else clip.model


def _unfit(name: str, made_by: tuple[str, str], queries: str, *, again: bool = False) -> RetrievalError:
    built = (
        f", or build the index again of what its entry is now embedded with (`make index INDEX={name}`)"
        if again
        else ""
    )
    return RetrievalError(
        f"index {name!r} was made with {made_by[0]}, {made_by[1]}, and {queries}: vectors of different models cannot be "
        "compared, whatever their dimension. Set `clip:` of the entry to the model that made the index, or choose another "
        f"index (`retrieval: index:`){built}"
    )
