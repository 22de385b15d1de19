"""Parquet for `datasets`.

`load_dataset(folder)` gives decoded images (`image`), captions (`text`: one, or a list), the provenance and the scores.

The schema's metadata tell `datasets` which column is an image. The scores are columns; those of a user's own are in
`own_scores`.
"""

import io
import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from sd_assets.exports.pair import FACTS
from sd_assets.exports.shards import Sample, Shards
from sd_assets.schemas import CURATED_PAIRS, OWN_SCORE
from sd_assets.settings import SCORES
from sd_assets.settings.exports import ParquetSettings
from sd_assets.storage.shards import Pieces

# Of a row group, which a reader that streams holds in memory.
_GROUP_ROWS = 100
_GROUP_BYTES = 4 * 1024 * 1024
_IMAGE = pa.struct([pa.field("bytes", pa.binary()), pa.field("path", pa.string())])


class Parquet(Shards):
    """See the module."""

    version = "2"
    extension = "parquet"
    settings: ParquetSettings

    def encode(self, samples: Sequence[Sample]) -> Iterator[bytes]:
        schema = schema_of(all_captions=self.settings.all_captions)
        sink = Pieces()
        others = schema.remove(0)
        # Images are compressed already.
        stored = {"image.bytes": "none"}
        leaves = [path for path in _leaves(schema) if path not in stored]
        with pq.ParquetWriter(
            sink,
            schema,
            compression={**dict.fromkeys(leaves, "zstd"), **stored},
            use_dictionary=leaves,
            write_statistics=leaves,
        ) as writer:
            for group in _groups(samples):
                # Images by themselves: as a value among others each would be copied twice more.
                images = pa.array([memoryview(sample.image) for sample in group], pa.binary())
                paths = pa.array([f"{sample.pair.stem}.{sample.extension}" for sample in group])
                rows = pa.Table.from_pylist([self._row(sample) for sample in group], others)
                image = pa.StructArray.from_arrays([images, paths], fields=list(_IMAGE))
                rows = rows.add_column(0, schema.field("image"), image)
                writer.write_table(rows.cast(schema), row_group_size=len(rows))
        yield from sink.pieces

    def _row(self, sample: Sample) -> dict[str, Any]:
        """The columns besides the image."""
        pair = sample.pair
        return {
            "text": list(pair.captions) if self.settings.all_captions else pair.captions[0],
            **pair.facts,
            **{name: pair.scores.get(name) for name in SCORES},
            "own_scores": [
                {"score": name, "value": value} for name, value in pair.scores.items() if name not in SCORES
            ],
        }


def schema_of(*, all_captions: bool) -> pa.Schema:
    """The columns, with what `datasets` is told of them."""
    schema = pa.schema(
        [
            pa.field("image", _IMAGE),
            pa.field("text", pa.list_(pa.string()) if all_captions else pa.string()),
            *FACTS,
            *(CURATED_PAIRS.arrow.field(name) for name in SCORES),
            pa.field("own_scores", pa.list_(OWN_SCORE)),
        ]
    )
    features = {
        field.name: {"_type": "Image"} if field.name == "image" else _feature(field.type) for field in schema
    }
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> Any:
    """A type as `datasets` writes it in JSON; a list in the way that every version of it reads."""
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": {"float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}


def _groups(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """The rows of each row group."""
    rest = iter(samples)
    while group := list(islice(rest, 1)):
        size = len(group[0].image)
        while size < _GROUP_BYTES and len(group) < _GROUP_ROWS and (more := next(rest, None)) is not None:
            group.append(more)
            size += len(more.image)
        yield group


def _leaves(schema: pa.Schema) -> list[str]:
    """The Parquet paths of all leaf columns."""
    sink = io.BytesIO()
    pq.write_table(schema.empty_table(), sink)
    metadata = pq.read_metadata(sink)
    return [metadata.schema.column(number).path for number in range(len(metadata.schema))]
