"""One schema per table: the data contract.

Every table ends in `error` and `error_detail`: a row that failed keeps its key, has a null payload and a code of
`sd_assets.errors.ErrorCode`. `image_id` is the sha256 (hex) of an image's bytes as they came; `url_id` and
`prompt_id` are the sha256 of the text. Bookkeeping columns are stored, but do not count in the data version.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

ERROR_FIELDS = [pa.field("error", pa.string()), pa.field("error_detail", pa.string())]


@dataclass(frozen=True)
class TableSchema:
    """The columns of a table and how it is cut into shards.

    Attributes:
        name: of the table, and of the asset that makes it.
        key: columns that identify a row; unique among the rows where none of them is null.
        arrow: all columns, in order, the error columns last.
        bookkeeping: columns that do not count in the data version.
        shard_rows: mean rows of a shard; the least is a quarter of it, the most four times it.
        row_group_rows: rows of a Parquet row group, small where rows hold images, so that they stream.
    """

    name: str
    key: tuple[str, ...]
    arrow: pa.Schema
    bookkeeping: frozenset[str] = field(default=frozenset({"error_detail"}))
    shard_rows: int = 16_384
    row_group_rows: int = 4_096

    def digest(self) -> bytes:
        """16 bytes that change with the columns, their types, the key and what is bookkeeping."""
        parts = [self.name, repr(self.key), self.arrow.to_string(), repr(sorted(self.bookkeeping))]
        return hashlib.blake2b("\x1f".join(parts).encode(), digest_size=16).digest()

    @property
    def content(self) -> tuple[str, ...]:
        """The columns that count in the data version."""
        return tuple(name for name in self.arrow.names if name not in self.bookkeeping)


def text_id(text: str) -> str:
    """Sha256 (hex) of a text: `url_id` of a URL, `prompt_id` of a prompt."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def image_id(data: bytes | memoryview) -> str:
    """Sha256 (hex) of an image's bytes as they came."""
    return hashlib.sha256(data).hexdigest()


def is_binary(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, in any of Arrow's layouts."""
    return str(kind) in ("binary", "large_binary", "binary_view")


def table(
    name: str,
    key: Sequence[str],
    columns: Sequence[pa.Field],
    *,
    bookkeeping: Sequence[str] = (),
    images: bool = False,
) -> TableSchema:
    """A table's schema; the columns `error` and `error_detail` are added.

    Args:
        name: of the table, and of the asset that makes it.
        key: columns that identify a row.
        columns: all others too, in order.
        bookkeeping: columns that do not count in the data version.
        images: whether rows hold images: smaller shards and row groups.
    """
    return TableSchema(
        name,
        tuple(key),
        pa.schema([*columns, *ERROR_FIELDS]),
        frozenset({*bookkeeping, "error_detail"}),
        shard_rows=512 if images else 16_384,
        row_group_rows=32 if images else 4_096,
    )


# What a corpus knows of an image, besides its URL and alt text; each may be null.
CORPUS_FIELDS = [
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("licence", pa.string()),
    pa.field("nsfw", pa.string()),  # a label, or a score
    pa.field("language", pa.string()),  # of the alt text: mostly an ISO 639-1 code
    pa.field("sha256", pa.string()),  # of the image's bytes, hex
]

HIT = pa.struct(
    [
        pa.field("url", pa.string()),  # where the image was when the corpus was made
        pa.field("rank", pa.int32()),  # 0 is the best; ranks of a query's hits have no gaps
        # Inner product of the two embeddings: the cosine, where both are L2-normalised.
        pa.field("similarity", pa.float32()),
        pa.field("alt_text", pa.string()),  # what the corpus has as its text
        *CORPUS_FIELDS,
    ]
)
# How many candidates of a query became no hits, and why: `sd_assets.retrieval.filters.Reason`.
LEFT_OUT = pa.struct([pa.field("reason", pa.string()), pa.field("count", pa.int64())])
URL_HIT = pa.struct(
    [
        pa.field("query_id", pa.string()),
        pa.field("rank", pa.int32()),
        pa.field("similarity", pa.float32()),
        pa.field("url", pa.string()),  # that the query found: another one of the same image, perhaps
    ]
)

SEED_IMAGES = table(
    "seed_images",
    ["image_id"],
    [
        pa.field("image_id", pa.string()),
        pa.field("image", pa.binary()),
        pa.field("format", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("text", pa.string()),
        pa.field("source", pa.string()),
        pa.field("source_revision", pa.string()),
        pa.field("source_row", pa.int64()),  # with the revision: where it was when it first came in
    ],
    bookkeeping=["source", "source_revision", "source_row"],
    images=True,
)

SEED_PROMPTS = table(
    "seed_prompts", ["prompt_id"], [pa.field("prompt_id", pa.string()), pa.field("prompt", pa.string())]
)


SEED_EMBEDDINGS = table(
    "seed_embeddings",
    ["query_id"],
    [
        pa.field("query_id", pa.string()),
        pa.field("kind", pa.string()),  # image or text
        # Of the model's dimension, L2-normalised. Not an Arrow fixed-size list: Parquet has none, and Arrow before 23
        # cannot read a null in one.
        pa.field("embedding", pa.list_(pa.float32())),
        pa.field("model", pa.string()),
    ],
)

RETRIEVAL_HITS = table(
    "retrieval_hits",
    ["query_id"],
    [
        pa.field("query_id", pa.string()),
        pa.field("kind", pa.string()),
        pa.field("index", pa.string()),
        pa.field("hits", pa.list_(HIT)),
        pa.field("left_out", pa.list_(LEFT_OUT)),  # of the candidates that were better than the last hit
        pa.field("blocked_by", pa.list_(pa.string())),  # entries of `blocked:` by which hits were left out
    ],
    bookkeeping=["left_out", "blocked_by"],
)

RETRIEVED_IMAGE_URLS = table(
    "retrieved_image_urls",
    ["url_id"],
    [
        pa.field("url_id", pa.string()),
        pa.field("url", pa.string()),
        pa.field("alt_text", pa.string()),
        pa.field("similarity", pa.float32()),  # the best of its hits
        pa.field("hits", pa.list_(URL_HIT)),
        *CORPUS_FIELDS,
    ],
)

DOWNLOADED_IMAGES = table(
    "downloaded_images",
    ["url_id"],
    [
        pa.field("url_id", pa.string()),
        pa.field("url", pa.string()),
        pa.field("image_id", pa.string()),  # of the bytes as they came, before resizing
        pa.field("image", pa.binary()),  # resized, encoded
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),
        pa.field("original_height", pa.int32()),
        pa.field("original_bytes", pa.int64()),
        pa.field("format", pa.string()),
        pa.field("http_status", pa.int32()),
        pa.field("fetched_at", pa.timestamp("us", tz="UTC")),  # when it was asked for last
        pa.field("etag", pa.string()),
        pa.field("last_modified", pa.string()),
        pa.field("attempts", pa.int32()),
        pa.field("retry_after", pa.float64()),  # seconds, as the server asked for
        pa.field("redirected_to", pa.string()),  # where the image came from, if not from the URL itself
        # When failures that may pass began; of an image: since when it cannot be told whether it has changed.
        pa.field("failing_since", pa.timestamp("us", tz="UTC")),
        pa.field("blocked_by", pa.list_(pa.string())),  # entries of `blocked:` that are why
    ],
    bookkeeping=[
        "fetched_at",
        "etag",
        "last_modified",
        "attempts",
        "retry_after",
        "redirected_to",
        "failing_since",
        "blocked_by",
    ],
    images=True,
)

IMAGE_CAPTIONS = table(
    "image_captions",
    ["image_id", "variant"],
    [
        pa.field("image_id", pa.string()),
        pa.field("variant", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("model", pa.string()),
        pa.field("origin", pa.string()),  # seed or retrieved; seed wins when an image is both
    ],
)

TEXT_IMAGE_PAIRS = table(
    "text_image_pairs",
    ["image_id"],
    [
        pa.field("image_id", pa.string()),
        pa.field("image", pa.binary()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("original_width", pa.int32()),  # of what came, before it was resized; a seed's are its own
        pa.field("original_height", pa.int32()),
        pa.field("captions", pa.list_(pa.string())),
        pa.field("text", pa.string()),  # the seed's own text, or the corpus's alt text
        pa.field("origin", pa.string()),
        pa.field("url", pa.string()),
        pa.field("licence", pa.string()),
        pa.field("similarity", pa.float32()),
        pa.field("query_ids", pa.list_(pa.string())),
    ],
    images=True,
)

# --- what text_image_pairs are judged by; each has a row for each of its images ---------------------------------------

IMAGE_EMBEDDINGS = table(
    "image_embeddings",
    ["image_id"],
    [
        pa.field("image_id", pa.string()),
        pa.field("embedding", pa.list_(pa.float32())),  # of the entry's CLIP, L2-normalised
        pa.field("model", pa.string()),
    ],
)

IMAGE_QUALITY = table(
    "image_quality",
    ["image_id"],
    [
        pa.field("image_id", pa.string()),
        # The shorter side, px: of what came, or of what is kept if that is smaller.
        pa.field("resolution", pa.int32()),
        pa.field("aspect_ratio", pa.float32()),  # the longer side over the shorter, of what came
        # Of what is kept; `sd_assets.measures` has the formulas.
        pa.field("sharpness", pa.float32()),  # 0 to 1, the more the sharper
        pa.field("blockiness", pa.float32()),  # of JPEG's 8 x 8 blocks, levels of 255: the more the coarser
        pa.field("flat_border", pa.float32()),  # share of the area, 0 to 1
        pa.field("perceptual_hash", pa.string()),  # 64 bits, hex; null: there is too little in it to hash
    ],
)

ALIGNMENT_SCORES = table(
    "alignment_scores",
    ["image_id"],
    [
        pa.field("image_id", pa.string()),
        # CLIP's cosine with each of the captions, in their order.
        pa.field("alignments", pa.list_(pa.float32())),
        pa.field("alignment", pa.float32()),  # the least of them
        pa.field("model", pa.string()),
    ],
)

AESTHETIC_SCORES = table(
    "aesthetic_scores",
    ["image_id"],
    [
        pa.field("image_id", pa.string()),
        pa.field("aesthetic", pa.float32()),
        pa.field("model", pa.string()),
    ],
)

NSFW_SCORES = table(
    "nsfw_scores",
    ["image_id"],
    [
        pa.field("image_id", pa.string()),
        pa.field("nsfw", pa.float32()),  # 0 to 1
        pa.field("model", pa.string()),
    ],
)

# Not of the pairs: what near-duplicates of images that must not be trained on are found by.
HELD_OUT_IMAGES = table(
    "held_out_images",
    ["image_id"],
    [
        pa.field("image_id", pa.string()),
        pa.field("embedding", pa.list_(pa.float32())),  # see IMAGE_EMBEDDINGS
        pa.field("model", pa.string()),
        pa.field("perceptual_hash", pa.string()),  # see IMAGE_QUALITY
        pa.field("source", pa.string()),  # see SEED_IMAGES
        pa.field("source_revision", pa.string()),
        pa.field("source_row", pa.int64()),
    ],
    # The others name what near_duplicates found.
    bookkeeping=["source_revision"],
)

NEAR_DUPLICATES = table(
    "near_duplicates",
    ["image_id"],
    [
        pa.field("image_id", pa.string()),
        # Of images that are near-duplicates of each other the least image_id names them all; alone, the image's own.
        pa.field("cluster", pa.string()),
        pa.field("cluster_size", pa.int32()),
        pa.field("nearest", pa.string()),  # image_id of the member that is nearest; null: alone
        pa.field("hash_distance", pa.int32()),  # to it, bits of the perceptual hashes
        pa.field("cosine", pa.float32()),  # to it, of the embeddings
        # Images to keep out that it nearly is, by file or row; null: there are some, and it could not be compared.
        pa.field("held_out", pa.list_(pa.string())),
        pa.field("elsewhere", pa.list_(pa.string())),  # likewise of `against`: `partition/image_id`
    ],
)

OWN_SCORE = pa.struct([pa.field("score", pa.string()), pa.field("value", pa.float32())])

CURATED_PAIRS = table(
    "curated_pairs",
    ["image_id"],
    [
        pa.field("image_id", pa.string()),
        pa.field("keep", pa.bool_()),
        pa.field("reasons", pa.list_(pa.string())),  # against it: all of them; `sd_assets.curation`
        pa.field("split", pa.string()),  # train or validation; null: not kept
        pa.field("cluster", pa.string()),
        # Each may be null: not known, or not asked for.
        pa.field("resolution", pa.int32()),
        pa.field("aspect_ratio", pa.float32()),
        pa.field("sharpness", pa.float32()),
        pa.field("blockiness", pa.float32()),
        pa.field("flat_border", pa.float32()),
        pa.field("alignment", pa.float32()),
        pa.field("similarity", pa.float32()),
        pa.field("aesthetic", pa.float32()),
        pa.field("nsfw", pa.float32()),
        pa.field("own_scores", pa.list_(OWN_SCORE)),  # of scorers of a user's own, by name
    ],
)

# In the order in which they are made.
TABLES = (
    SEED_IMAGES,
    SEED_PROMPTS,
    SEED_EMBEDDINGS,
    RETRIEVAL_HITS,
    RETRIEVED_IMAGE_URLS,
    DOWNLOADED_IMAGES,
    IMAGE_CAPTIONS,
    TEXT_IMAGE_PAIRS,
    IMAGE_EMBEDDINGS,
    IMAGE_QUALITY,
    ALIGNMENT_SCORES,
    AESTHETIC_SCORES,
    NSFW_SCORES,
    HELD_OUT_IMAGES,
    NEAR_DUPLICATES,
    CURATED_PAIRS,
)
