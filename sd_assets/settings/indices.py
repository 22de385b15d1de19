"""The kNN indices: a folder, and of what it is built; or a service."""

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator
from pydantic_core import PydanticCustomError

from sd_assets.blocked import normal_url
from sd_assets.settings.base import Settings
from sd_assets.settings.clip import ClipSettings
from sd_assets.settings.services import ServiceSettings, ServiceUrl, without_password


class ClipRetrievalCorpus(Settings):
    """What `clip-retrieval inference` writes, and LAION-400M: `img_emb_N.npy` with `metadata_N.parquet`.

    Attributes:
        path: the folder; the files may lie in its sub-folders (`img_emb/`, `metadata/`, `images/` ...).
        vectors: of what: of the images (`img_emb_N.npy`) or of their texts (`text_emb_N.npy`).
        columns: of the metadata to keep, besides those that retrieval itself reads; null: all.
    """

    kind: Literal["clip-retrieval"]
    path: str
    vectors: Literal["image", "text"] = "image"
    columns: tuple[str, ...] | None = None


class DataCompCorpus(Settings):
    """DataComp and CommonPool: `UID.parquet` with `UID.npz`.

    Attributes:
        path: the folder; sub-folders are read, too.
        array: of the npz file: which CLIP, and whether of the image or the text.
        columns: of the metadata to keep, besides those that retrieval itself reads; null: all.
    """

    kind: Literal["datacomp"]
    path: str
    array: Literal["b32_img", "b32_txt", "l14_img", "l14_txt"] = "l14_img"
    columns: tuple[str, ...] | None = None


class ParquetCorpus(Settings):
    """Parquet files with a column of vectors: lists, of fixed size or not, of float16, float32 or float64.

    Attributes:
        path: a file, a folder (its sub-folders too) or a pattern such as `data/part-*.parquet`.
        vector_column: found when only one column holds lists of floats.
        url_column: found when it has a usual name (url, URL, image_url). If another one is named, `url` is kept as `corpus_url`.
        text_column: the column of the texts; found when it has a usual name (caption, TEXT, text, alt_text ...); likewise.
        columns: others to keep, besides those that retrieval itself reads; null: all.
    """

    kind: Literal["parquet"]
    path: str
    vector_column: str | None = None
    url_column: str | None = None
    text_column: str | None = None
    columns: tuple[str, ...] | None = None


class PartitionCorpus(Settings):
    """The seed images of an entry of the catalogue: its `seed_embeddings`, and what `seed_images` says of them.

    Retrieval answers with URLs, which are then downloaded. Seeds of `kind: urls` have theirs; of others it is to be said.

    Attributes:
        partition: the entry.
        base_url: for seeds of `kind: folder`: where a web server of yours serves that folder. A seed's URL is this
            and its path in the folder. An address such as 127.0.0.1 must be in `download: allow_addresses:`.
        downloads_of: another entry, where the seeds are its `downloaded_images` (say, `kind: parquet` over its folder): an
            image has the URL that it was downloaded from there.
    """

    kind: Literal["partition"]
    partition: str
    base_url: ServiceUrl | None = None
    downloads_of: str | None = None

    @field_validator("base_url")
    @classmethod
    def _is_a_url(cls, value: str | None) -> str | None:
        if value is not None and "${" not in value and normal_url(value) is None:
            raise ValueError(f"{value!r} is no URL: write http:// or https://, a host, and the folder's path")
        return value


CorpusSettings = Annotated[
    ClipRetrievalCorpus | DataCompCorpus | ParquetCorpus | PartitionCorpus, Field(discriminator="kind")
]


def parse_bytes(size: str) -> int:
    """`4GB`, `512 MB`, `1.5TiB` -> bytes.

    Raises:
        ValueError: the text is no size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?)(i?)B?\s*", size)
    count = match and float(match[1]) * (1024 if match[3] else 1000) ** " KMGT".index(match[2].upper() or " ")
    if not match or not count or count < 1:
        raise ValueError(f"{size!r} is no size: write a number and MB, GB or TB, such as 4GB")
    return int(count)


class IndexBuildSettings(Settings):
    """How an index is built of a corpus.

    Attributes:
        factory: the kind of index as FAISS's index factory writes it (`Flat`, `IVF4096,Flat`, `IVF65536_HNSW32,SQfp16`,
            `OPQ64_256,IVF65536,PQ64x8`, `HNSW32`); null: chosen by the number of vectors and `memory`.
        memory: that the index may take when it is searched, from which the kind is chosen, and that training may take.
        training_rows: vectors that are sampled to train with; null: 64 for each list of the index.
        seed: of the sample.
        recall: that the number of lists to look into (`nprobe`, which the file keeps) is chosen for, as estimated of the
            10 nearest on the sample. Another one builds an index with lists anew; `nprobe:` of the index does not.
    """

    factory: str | None = None
    memory: str = "4GB"
    training_rows: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)
    recall: float = Field(0.95, gt=0, le=1)

    @property
    def memory_bytes(self) -> int:
        return parse_bytes(self.memory)

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, value: str) -> str:
        parse_bytes(value)
        return value


class FaissIndexSettings(Settings):
    """A local index in clip-retrieval's layout: `image.index` and `metadata/*.parquet`.

    Attributes:
        path: the folder.
        corpus: what `knn_index` builds it of; null: the folder is somebody else's, and only read.
        build: how it is built.
        clip: the CLIP that made the vectors, where neither the folder nor the corpus says it.
        nprobe: cells of an inverted file (IVF) that a query looks into: the more, the more it finds of what is nearest, and the
            slower; null: as the index file says. Where they hold fewer images than are asked for, it looks into more. Of no
            effect on indices without cells.
        ef_search: candidates that the walk through an HNSW graph keeps, likewise.
        aesthetic_embeddings: of the same CLIP, for `aesthetic_score`: a folder of `rating0.npy` to `rating9.npy`, as LAION's
            aesthetic-predictor has them, or a .npy file whose row is the score.
    """

    # What was built is in the identity of the folder, and what is to be built is in what `knn_index` is made from.
    WITHOUT_EFFECT = frozenset({"clip", "corpus", "build"})

    kind: Literal["faiss"]
    path: str
    corpus: CorpusSettings | None = None
    build: IndexBuildSettings = IndexBuildSettings()
    clip: ClipSettings | None = None
    nprobe: int | None = Field(None, ge=1)
    ef_search: int | None = Field(None, ge=1)
    aesthetic_embeddings: str | None = None


def _one_or_more(value: Any) -> Any:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple):
        raise PydanticCustomError("urls", "must be a URL, or a list of URLs")
    return value


class ServiceIndexSettings(ServiceSettings):
    """A clip-retrieval back end that somebody runs, or several that serve the same index.

    Attributes:
        url: of the server, with or without `/knn-service`; or a list of such URLs, over which queries are spread. The first
            names the index: when others come or go, no query is asked again.
        indice_name: which of its indices; null is the first.
        clip: the CLIP that made its vectors; null: unknown, so that only the dimension is checked, by the service.
        max_results: the most that the service gives a query, where it has such a limit.
    """

    WITHOUT_EFFECT = ServiceSettings.WITHOUT_EFFECT | {"clip"}

    kind: Literal["clip-retrieval"]
    url: Annotated[tuple[ServiceUrl, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
    indice_name: str | None = None
    clip: ClipSettings | None = None
    max_results: int | None = Field(None, ge=1)

    def effects(self) -> dict[str, Any]:
        """The first URL stands for all, and without a password."""
        return {**super().effects(), "url": without_password(self.url[0])}


IndexSettings = Annotated[FaissIndexSettings | ServiceIndexSettings, Field(discriminator="kind")]
