"""Layouts of many pairs a file: shards that are named by what they hold, and cut where a pair's image_id says so.

So a pair more or less changes the shard that it is in and at most its neighbour, and of what has not changed no image is read.
Where there are shards already, the pairs are gone over twice: for the plan, and, where a shard is missing, for the images. The writers of the
libraries themselves (wds.ShardWriter, MDSWriter) cut where a shard is full, so that a pair more at the front rewrites
all that follow, and write what a reader may see half-written.
"""

import hashlib
import json
import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import pyarrow as pa

from sd_assets.ahead import map_ahead
from sd_assets.curation.splits import SPLITS
from sd_assets.exports.folder import ExportFolder, Pieces
from sd_assets.exports.layout import Layout, Reader, Written
from sd_assets.exports.pair import Pair, Pairs
from sd_assets.settings.exports import ShardSettings
from sd_assets.storage.shards import Cutter

# Shards that are written while the next ones are read: each is held in memory.
_WRITERS = 2


class Sample(NamedTuple):
    """A pair as a shard has it.

    Attributes:
        pair: the pair.
        image: bytes, as they are to be written; a buffer is a part of a larger one, of the images that were read with it.
        extension: jpg, png or webp.
    """

    pair: Pair
    image: bytes | pa.Buffer
    extension: str


class Shard(NamedTuple):
    """A file that belongs there.

    Attributes:
        name: of the file.
        pairs: how many it holds.
    """

    name: str
    pairs: int


class _Part(NamedTuple):
    """What a shard gets of the pairs that lie together.

    Attributes:
        split: of the shard.
        numbers: of its pairs among them.
        ended: the whole shard, if they are the last of it, as it is if every image can be written; None: more follow.
    """

    split: str
    numbers: Sequence[int]
    ended: Shard | None


class Shards(Layout):
    """Files of a split by the digest of their pairs, with the extension of the layout."""

    extension: ClassVar[str]
    settings: ShardSettings

    @abstractmethod
    def encode(self, samples: Sequence[Sample]) -> Iterable[bytes | pa.Buffer]:
        """The pieces of a file."""

    def index(
        self, folder: ExportFolder, split: str, shards: Sequence[Shard]
    ) -> dict[tuple[str, str], Pieces]:
        """Files that name the shards of a split: their pieces, by split (an empty text: beside the splits) and name.

        Args:
            folder: of the export; the shards are there.
            split: train or validation.
            shards: in order.
        """
        return {}

    def has_pairs(self, name: str) -> bool:
        return re.fullmatch(rf"[0-9a-f]{{32}}\.{self.extension}", name) is not None

    def write(self, read: Reader, folder: ExportFolder) -> Written:
        written = Written()
        there = {split: set(folder.names(split)) for split in SPLITS}
        # Where there is nothing, everything is missing, and the plan would say no more.
        plan = self._plan(read, written) if any(there.values()) else None
        missing = plan is None or any(
            shard.name not in there[split] for split in SPLITS for shard in plan[split]
        )
        if missing:
            written.failures.clear()  # they are counted again
            shards = self._written(read, folder, plan, there, written)
        else:
            assert plan is not None
            shards = plan
        for split in SPLITS:
            written.wanted[split] |= {shard.name for shard in shards[split]}
            written.pairs[split] = sum(shard.pairs for shard in shards[split])
            written.files_kept += len(written.wanted[split] & there[split])
            if shards[split]:
                self.put_index(self.index(folder, split, shards[split]), folder, written)
        return written

    def _plan(self, read: Reader, written: Written) -> dict[str, list[Shard]]:
        """The shards of all pairs, as they are if every image can be written."""
        plan: dict[str, list[Shard]] = {split: [] for split in SPLITS}
        for _, parts in self._parts(read, written):
            for part in parts:
                if part.ended is not None:
                    plan[part.split].append(part.ended)
        return plan

    def _written(
        self,
        read: Reader,
        folder: ExportFolder,
        plan: Mapping[str, list[Shard]] | None,
        there: Mapping[str, set[str]],
        written: Written,
    ) -> dict[str, list[Shard]]:
        """Write the shards that are missing; those that there are then."""
        shards: dict[str, list[Shard]] = {split: [] for split in SPLITS}

        def put(made: tuple[str, list[Sample], Shard]) -> tuple[str, Shard, int]:
            split, samples, planned = made
            if not samples:  # it is there; or none of its images could be written
                return split, planned, 0
            # Without images that could not be: the next run will look for the plan's name, and read them again.
            whole = len(samples) == planned.pairs
            shard = planned if whole else self._shard([sample.pair.digest for sample in samples])
            if shard.name in there[split]:
                return split, shard, 0
            pieces = list(self.encode(samples))
            folder.put(split, shard.name, pieces)
            return split, shard, sum(map(len, pieces))

        for split, shard, size in map_ahead(put, self._samples(read, plan, there, written), _WRITERS):
            if shard.pairs:
                shards[split].append(shard)
            if size:
                written.wrote(size)
        return shards

    def _samples(
        self,
        read: Reader,
        plan: Mapping[str, list[Shard]] | None,
        there: Mapping[str, set[str]],
        written: Written,
    ) -> Iterator[tuple[str, list[Sample], Shard]]:
        """Split, samples and name of each shard; without samples, if it is there."""
        # Whether each shard is there, in order.
        kept = {
            split: iter([shard.name in there[split] for shard in plan[split]] if plan else ())
            for split in SPLITS
        }
        filled = {split: next(kept[split], False) for split in SPLITS}  # of the shard that is being filled
        held: dict[str, list[Sample]] = {split: [] for split in SPLITS}
        for pairs, parts in self._parts(read, written):
            found: list[tuple[_Part, bool]] = []
            for part in parts:
                found.append((part, filled[part.split]))
                if part.ended is not None:
                    filled[part.split] = next(kept[part.split], False)
            wanted = sorted(number for part, is_there in found if not is_there for number in part.numbers)
            images = (
                {
                    number: Sample(pairs.pairs[number], data, extension)
                    for number, data, extension in self.images(pairs, wanted, written.failures)
                }
                if pairs is not None
                else {}
            )
            size = sum(len(sample.image) for sample in images.values())
            for part, is_there in found:
                some = [images.pop(number) for number in part.numbers if number in images]
                if part.ended is None:
                    held[part.split] += _alone(some, size)
                    continue
                samples, held[part.split] = held[part.split] + some, []
                yield part.split, samples, part.ended if is_there or samples else Shard(part.ended.name, 0)

    def _parts(self, read: Reader, written: Written) -> Iterator[tuple[Pairs | None, list[_Part]]]:
        """Pairs that lie together, and the shards that they go to; at last, without pairs, the shards that are not full."""
        cutters = {split: self._cutter() for split in SPLITS}
        digests: dict[str, list[bytes]] = {split: [] for split in SPLITS}
        for pairs in read(written.failures):
            parts: list[_Part] = []
            numbers: dict[str, list[int]] = {split: [] for split in SPLITS}
            for number, pair in enumerate(pairs.pairs):
                split = pair.split
                numbers[split].append(number)
                digests[split].append(pair.digest)
                if cutters[split].ends_after(_cut_key(pair), pair.size):
                    parts.append(_Part(split, numbers[split], self._shard(digests[split])))
                    numbers[split], digests[split] = [], []
            parts += (_Part(split, some, None) for split, some in numbers.items() if some)
            yield pairs, parts
        yield None, [_Part(split, [], self._shard(some)) for split, some in digests.items() if some]

    def _cutter(self) -> Cutter:
        return Cutter(self.settings.shard_pairs, int(self.settings.shard_mb * 1e6))

    def _shard(self, digests: Sequence[bytes]) -> Shard:
        said = json.dumps([type(self).__name__, self.version, self.settings.effects()], sort_keys=True)
        digest = hashlib.blake2b(said.encode(), digest_size=16)
        for each in digests:
            digest.update(each)
        return Shard(f"{digest.hexdigest()}.{self.extension}", len(digests))


def _cut_key(pair: Pair) -> bytes:
    # Not the image_id itself: its first bits say in which split a pair is.
    return hashlib.blake2b(pair.image_id.encode(), digest_size=8).digest()


def _alone(samples: Sequence[Sample], size: int) -> Sequence[Sample]:
    """Samples that are held while others are read, copied if they would keep more memory than they have.

    Args:
        samples: some of those whose images were read together.
        size: bytes of the images of all of them.
    """
    if 2 * sum(len(sample.image) for sample in samples) >= size:
        return samples
    return [sample._replace(image=bytes(sample.image)) for sample in samples]
