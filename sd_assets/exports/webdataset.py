"""WebDataset: tars of `<image_id>.jpg` (.png, .webp), `.txt` and `.json`.

`train/*.tar` are the shards; `train.json` lists them as `wids` wants it (`wids-shard-index-v1`), and so with their
numbers of samples, which trainers ask for. A sample's `.txt` is its caption; its `.json` has `caption`, all
`captions` that are asked for, `width`, `height`, `original_width`, `original_height` and `url`, which img2dataset
writes and trainers filter by, the provenance, and the scores as keys; one of your own that is named like another key,
`width`, is `score_width`. Some trainers take only samples with a `pwatermark` that is neither missing nor 0.

The tars are put together here: their blocks are the bytes that were read, none copied, and equal pairs give equal files.
"""

import json
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from sd_assets.curation.splits import SPLITS
from sd_assets.exports.folder import ExportFolder, Pieces
from sd_assets.exports.shards import Sample, Shard, Shards
from sd_assets.settings.exports import WebDatasetSettings

# Tars end with two empty blocks, and are padded to a record of twenty (POSIX.1, pax, ustar interchange format).
_RECORD = tarfile.RECORDSIZE
# A header is 100 bytes of name, 24 of mode and owner, 12 of size, 12 of time, 8 of checksum, and a rest. The checksum is the sum of
# all its bytes, itself taken for spaces.
_NAME_BYTES = 100
_EMPTY = tarfile.TarInfo().tobuf(tarfile.USTAR_FORMAT)
_BEFORE_SIZE, _AFTER_SIZE, _AFTER_CHECKSUM = _EMPTY[100:124], _EMPTY[136:148], _EMPTY[156:]
_REST_SUM = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + sum(_AFTER_CHECKSUM) + 8 * ord(" ")


class WebDataset(Shards):
    """See the module."""

    version = "2"
    indices = frozenset(("", f"{split}.json") for split in SPLITS)
    extension = "tar"
    settings: WebDatasetSettings

    def encode(self, samples: Sequence[Sample]) -> Iterator[bytes | pa.Buffer]:
        size = 0
        for sample in samples:
            pair = sample.pair
            for extension, data in (
                (self.settings.image_extension or sample.extension, sample.image),
                ("txt", pair.captions[0].encode()),
                ("json", json.dumps(self._described(sample), ensure_ascii=False).encode()),
            ):
                padding = bytes(-len(data) % tarfile.BLOCKSIZE)
                yield _header(f"{pair.image_id}.{extension}", len(data))
                yield data
                yield padding
                size += tarfile.BLOCKSIZE + len(data) + len(padding)
        size += 2 * tarfile.BLOCKSIZE
        yield bytes(2 * tarfile.BLOCKSIZE + -size % _RECORD)

    def _described(self, sample: Sample) -> dict[str, Any]:
        pair, assumed = sample.pair, self.settings.pwatermark
        facts = {
            "key": pair.image_id,
            "caption": pair.captions[0],
            **({"captions": pair.captions} if self.settings.all_captions else {}),
            **pair.facts,
        }
        scores = {f"score_{name}" if name in facts else name: value for name, value in pair.scores.items()}
        return {**facts, **({} if assumed is None else {"pwatermark": assumed}), **scores}

    def index(
        self, folder: ExportFolder, split: str, shards: Sequence[Shard]
    ) -> dict[tuple[str, str], Pieces]:
        listed = [{"url": f"{split}/{shard.name}", "nsamples": shard.pairs} for shard in shards]
        body = {
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "name": f"{folder.partition} {split}",
            "shardlist": listed,
        }
        return {("", f"{split}.json"): [json.dumps(body, indent=1).encode()]}


def _header(name: str, size: int) -> bytes:
    """What stands before a file in a tar, as `tarfile` writes it (ustar), which takes ten times as long.

    Args:
        name: ASCII, at most 100 characters.
        size: bytes, less than 8 GiB.
    """
    named = name.encode("ascii").ljust(_NAME_BYTES, b"\0")
    sized = b"%011o\0" % size
    checksum = _REST_SUM + sum(named) + sum(sized)
    return b"".join((named, _BEFORE_SIZE, sized, _AFTER_SIZE, b"%06o\0 " % checksum, _AFTER_CHECKSUM))
