"""MDS, of mosaicml-streaming: `StreamingDataset(local=..., split="train")`.

The fields `jpg` (the image's bytes: PNG and WebP, too) and `caption` are those of mosaicml's recipes; besides, all
captions that are asked for, the provenance, and the scores.

The format is documented (streaming's docs, "Dataset format"; `MDSWriter.encode_joint_shard`) and small, so it is
written here: the library holds back numpy and transformers, and its writer cuts where a shard is full. All numbers
are little-endian:

    shard    number of samples, uint32; where each sample begins, and the last ends, from the start of the file, uint32;
             the columns, as JSON; the samples
    sample   the size of each column that has none of its own, uint32, in the order of the columns' names; the values in that order
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from sd_assets.curation.splits import SPLITS
from sd_assets.errors import ExportError
from sd_assets.exports.folder import ExportFolder, Pieces
from sd_assets.exports.shards import Sample, Shard, Shards
from sd_assets.settings.exports import MdsSettings

# By name, as the reader wants them: the encoding, and the size of those that have a size.
_COLUMNS = dict(
    sorted(
        {
            "jpg": ("bytes", None),
            "caption": ("str", None),
            "captions": ("json", None),
            **dict.fromkeys(
                ("image_id", "origin", "url", "licence", "source_text", "query_ids", "provenance"),
                ("str", None),
            ),
            **dict.fromkeys(("width", "height", "original_width", "original_height"), ("int32", 4)),
            "caption_models": ("json", None),
            "scores": ("json", None),
        }.items()
    )
)
_INDEX = "index.json"
# What a place in a shard, a uint32, can name.
_MOST_BYTES = 2**32 - 1


class Mds(Shards):
    """See the module."""

    version = "2"
    indices = frozenset((split, _INDEX) for split in SPLITS)
    extension = "mds"
    settings: MdsSettings

    def encode(self, samples: Sequence[Sample]) -> Iterator[bytes | pa.Buffer]:
        values = [_values(sample) for sample in samples]
        sizes = [
            sum(
                len(value) + (0 if size else 4)
                for value, (_, size) in zip(each, _COLUMNS.values(), strict=True)
            )
            for each in values
        ]
        columns = json.dumps(_described(), sort_keys=True).encode()
        before = 4 + 4 * (len(samples) + 1) + len(columns)
        if before + sum(sizes) > _MOST_BYTES:
            raise ExportError(
                f"mds: a shard of {before + sum(sizes):,} bytes, and its format goes to {_MOST_BYTES:,}: set a smaller "
                "`exports: mds: shard_mb:`"
            )
        yield np.uint32(len(samples)).tobytes()
        yield (np.cumsum([0, *sizes]) + before).astype(np.uint32).tobytes()
        yield columns
        for each in values:
            lengths = [
                len(value) for value, (_, size) in zip(each, _COLUMNS.values(), strict=True) if not size
            ]
            yield np.array(lengths, np.uint32).tobytes()
            yield from each

    def index(
        self, folder: ExportFolder, split: str, shards: Sequence[Shard]
    ) -> dict[tuple[str, str], Pieces]:
        sizes = folder.sizes(split)
        listed = [
            {
                **_described(),
                "version": 2,
                "samples": shard.pairs,
                "raw_data": {"basename": shard.name, "bytes": sizes[shard.name], "hashes": {}},
                "zip_data": None,
            }
            for shard in shards
        ]
        body = json.dumps({"version": 2, "shards": listed}, sort_keys=True).encode()
        return {(split, _INDEX): [body]}


def _described() -> dict[str, Any]:
    """The columns, as a shard and the index describe them."""
    return {
        "format": "mds",
        "column_names": list(_COLUMNS),
        "column_encodings": [encoding for encoding, _ in _COLUMNS.values()],
        "column_sizes": [size for _, size in _COLUMNS.values()],
        "compression": None,
        "hashes": [],
        "size_limit": None,
    }


def _values(sample: Sample) -> list[bytes | pa.Buffer]:
    """A sample's columns, encoded, in their order."""
    pair = sample.pair
    known = {
        "jpg": sample.image,
        "caption": pair.captions[0],
        "captions": pair.captions,
        "scores": pair.scores,
        **pair.facts,
    }
    return [_encoded(known[name], encoding) for name, (encoding, _) in _COLUMNS.items()]


def _encoded(value: Any, encoding: str) -> bytes | pa.Buffer:
    if encoding == "bytes":
        data: bytes | pa.Buffer = value
        return data
    if encoding == "int32":
        return np.int32(value).tobytes()
    return (json.dumps(value, ensure_ascii=False) if encoding == "json" else value).encode()
