"""One of our own partitions: the embeddings of its seed images, so that one's own images can be searched.

Retrieval ends in a URL that is downloaded, so an image needs one. Seeds of `kind: urls` have the URL that they came from.
Those of a folder get one from `base_url`, where a web server of the user's serves the folder. Those that were downloaded images of
another entry get theirs from that entry's table, by their bytes. `file://` is no way: the downloader fetches from the web only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.blocked import normal_url
from sd_assets.catalog import require_set
from sd_assets.errors import RetrievalError
from sd_assets.retrieval.corpora.corpus import Corpus, Part, Reasons, Vectors, rebatched
from sd_assets.retrieval.corpora.parquet import lengths_of, vectors_of
from sd_assets.schemas import SEED_EMBEDDINGS, image_id
from sd_assets.settings import PartitionCorpus
from sd_assets.storage.table import Table, TableStore

SCHEMA = pa.schema(
    [
        pa.field("url", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),
        pa.field("image_id", pa.string()),
    ]
)
_EMBEDDING = SEED_EMBEDDINGS.arrow.field("embedding")
_HINT = (
    "its seed images have no URLs, and retrieval can only give what can be downloaded. For `source: {kind: folder}` serve the "
    "folder with a web server and name it in `base_url:` of the corpus; for images that another entry downloaded name that entry "
    "in `downloads_of:`; or list the images' URLs in a file, as `source: {kind: urls}`"
)


def partition_corpus(settings: PartitionCorpus, tables: TableStore, where: str) -> Corpus:
    """The seed images of an entry that were embedded, in the order of `seed_embeddings`.

    Args:
        settings: which entry, and where its images can be downloaded.
        tables: where the partitions are.
        where: the section of the catalogue, for messages.

    Raises:
        TableError: a table was never materialized for the entry.
        RetrievalError: the entry has no embedded images, or they are of different models.
        CatalogError: `base_url` uses an environment variable that is not set.
    """
    embeddings = tables.open("seed_embeddings", settings.partition)
    seeds = tables.open("seed_images", settings.partition)
    downloads = settings.downloads_of and tables.open("downloaded_images", settings.downloads_of)
    base = settings.base_url and require_set(settings.base_url, f"{where}.base_url")
    part = EmbeddedSeeds(settings.partition, embeddings, seeds, base, downloads or None)
    identity = f"{embeddings.identity} {seeds.identity} {base} {downloads.identity if downloads else None}"
    columns = {name: name for name in SCHEMA.names}
    description = f"the seed images of the entry {settings.partition!r}"
    return Corpus(description, identity, [part], columns, SCHEMA, part.model, f"{where}: {_HINT}")


class EmbeddedSeeds(Part):
    """The embedded images of a partition. What is held are the small columns of its seeds; embeddings are read in blocks."""

    def __init__(
        self, partition: str, embeddings: Table, seeds: Table, base_url: str | None, downloads: Table | None
    ) -> None:
        self.name = f"seed_embeddings of {partition}"
        self.schema = SCHEMA
        self._embeddings = embeddings
        self._seeds = seeds.read(["image_id", "text", "source", "width", "height", "error"]).filter(
            pc.field("error").is_null()
        )
        known = embeddings.read(["query_id", "kind", "model", "error"]).filter(
            (pc.field("kind") == "image") & pc.field("error").is_null()
        )
        if not known.num_rows:
            raise RetrievalError(
                f"{embeddings.uri} holds no embedded images: only seed images can be indexed"
            )
        models = pc.unique(known.column("model")).to_pylist()
        if len(models) > 1:
            raise RetrievalError(
                f"{embeddings.uri} holds vectors of several models ({', '.join(map(str, models))}): materialize "
                f"seed_embeddings of {partition!r} again"
            )
        self.model: str | None = models[0]
        self.rows = known.num_rows
        # The row of each embedding among the seeds.
        self._places = pc.index_in(known.column("query_id"), self._seeds.column("image_id").combine_chunks())
        if self._places.null_count:
            raise RetrievalError(
                f"{embeddings.uri} was made from another version of seed_images: materialize seed_embeddings of {partition!r} again"
            )
        self._urls, self._hashes = self._addresses(base_url, downloads)

    @property
    def widths(self) -> Mapping[int, int]:
        first = next(self._vectors(0), None)
        lengths = np.empty(0, np.int64) if first is None else lengths_of(first.column(0))
        return {int(lengths[0]): self.rows} if len(lengths) else {}

    def vectors(self, dim: int, start: int, rows: int) -> Iterator[tuple[Vectors, Reasons]]:
        for batch in rebatched(self._vectors(start), rows, pa.schema([_EMBEDDING])):
            yield vectors_of(batch.column(0), dim)

    def metadata(self, start: int) -> Iterator[pa.RecordBatch]:
        places = self._places.slice(start)
        seeds = self._seeds.take(places)
        yield (
            pa.table(
                [
                    self._urls.take(places),
                    *(seeds.column(name) for name in ("text", "width", "height")),
                    self._hashes.take(places),
                    seeds.column("image_id"),
                ],
                schema=SCHEMA,
            )
            .combine_chunks()
            .to_batches()[0]
        )

    def _vectors(self, start: int) -> Iterator[pa.RecordBatch]:
        for batch in self._embeddings.batches(["kind", "error", "embedding"]):
            wanted = pc.and_(pc.equal(batch.column("kind"), "image"), pc.is_null(batch.column("error")))
            images = batch.select(["embedding"]).filter(wanted)
            if start < len(images):
                yield pa.RecordBatch.from_arrays(
                    [images.slice(start).column(0)], schema=pa.schema([_EMBEDDING])
                )
            start = max(0, start - len(images))

    def _addresses(self, base_url: str | None, downloads: Table | None) -> tuple[pa.Array, pa.Array]:
        """For each seed its URL, and the sha256 of what lies there."""
        identities = self._seeds.column("image_id").to_pylist()
        if downloads is not None:
            found = _downloaded(downloads)
            pairs = [found.get(identity, (None, None)) for identity in identities]
            return pa.array([url for url, _ in pairs], pa.string()), pa.array(
                [sha for _, sha in pairs], pa.string()
            )
        sources = self._seeds.column("source").to_pylist()
        named = [source for source in sources if source is not None]
        if base_url is not None and len(set(named)) < len(named):
            raise RetrievalError(
                f"{self.name}: `base_url` is for seeds of `kind: folder`, which are a file each; here several lie in {named[0]}"
            )
        urls = [_url(source, base_url) for source in sources]
        return pa.array(urls, pa.string()), pa.array(identities, pa.string())


def _url(source: str | None, base_url: str | None) -> str | None:
    # A seed asset of one's own need not say where an image came from.
    if source is None or normal_url(source) is not None:
        return source
    return None if base_url is None else f"{base_url.rstrip('/')}/{quote(source)}"


def _downloaded(downloads: Table) -> dict[str, tuple[str, str]]:
    """By the sha256 of the images of `downloaded_images`: where each came from, and the sha256 of what came."""
    found: dict[str, tuple[str, str]] = {}
    for batch in downloads.batches(["url", "image_id", "image", "error"]):
        urls, identities, images, errors = (
            batch.column(name) for name in ("url", "image_id", "image", "error")
        )
        for url, identity, image, error in zip(urls, identities, images, errors, strict=True):
            if not error.is_valid and image.is_valid:
                found.setdefault(image_id(image.as_buffer()), (url.as_py(), identity.as_py()))
    return found
