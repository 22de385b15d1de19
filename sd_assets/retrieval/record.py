"""What an index folder says of itself: which model made its vectors, how many there are, what was left out."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sd_assets.errors import RetrievalError

RECORD_FILE = "sd_assets.json"


@dataclass(frozen=True)
class IndexRecord:
    """What is known of an index that `build_index` made.

    Attributes:
        made_from: a digest of the corpus and of how it was built: the same, the same index.
        clip: the model that made the vectors, as `sd_assets.models.naming` writes it; None: unknown.
        dim: of the vectors.
        vectors: in the index; as many as rows of metadata.
        factory: the kind of index, as FAISS's index factory writes it.
        metric: how vectors are compared: of the L2-normalised ones, the inner product.
        nprobe: lists that a search looks into unless told otherwise; None where the kind has none.
        ef_search: candidates that a search of an HNSW graph keeps unless told otherwise, be it the index or what finds the lists;
            None where the kind has none.
        corpus: what it was built of, in words.
        rows: of the corpus: `vectors` and all that were skipped.
        skipped: rows that were left out, by reason (`build.SKIPPED`).
        index_bytes: size of `image.index`.
        built_at: ISO 8601, UTC.
        build_seconds: that it took, without what an earlier, broken off run had done.
    """

    made_from: str
    clip: str | None
    dim: int
    vectors: int
    factory: str
    metric: str
    nprobe: int | None
    ef_search: int | None
    corpus: str
    rows: int
    skipped: Mapping[str, int]
    index_bytes: int
    built_at: str
    build_seconds: float

    def write(self, folder: Path) -> None:
        """Write the record into an index folder, whole or not at all."""
        temporary = folder / f".{RECORD_FILE}"
        temporary.write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n", "utf-8")
        temporary.replace(folder / RECORD_FILE)

    @classmethod
    def read(cls, folder: Path) -> IndexRecord | None:
        """The record of an index folder; None if it has none, as those of others.

        Raises:
            RetrievalError: there is one, and it is damaged.
        """
        path = folder / RECORD_FILE
        try:
            values = json.loads(path.read_text("utf-8"))
            known = {field.name for field in dataclasses.fields(cls)}
            # What a later version writes besides is none of our business.
            return cls(**{name: value for name, value in values.items() if name in known})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise RetrievalError(
                f"{path} is damaged ({error}): build the index again, or, if the rest of the folder is good, delete this file"
            ) from error
