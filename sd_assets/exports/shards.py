"""Layouts of many pairs a file: shards that are named by what they hold, and cut where a pair's image_id says so.

So a pair more or less changes the shard that it is in and at most its neighbour, and of what has not changed no image is read.
The pairs are gone over twice: for the plan, and, where a shard is missing, for the images. The writers of the
libraries themselves (wds.ShardWriter, MDSWriter) cut where a shard is full, so that a pair more at the front rewrites
all that follow, and write what a reader may see half-written.
"""

import hashlib
import json
import re
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import pyarrow as pa

from sd_assets.ahead import map_ahead
from sd_assets.curation.splits import SPLITS
from sd_assets.exports.folder import ExportFolder
from sd_assets.exports.layout import Layout, Reader, Written
from sd_assets.exports.pair import Pair
from sd_assets.settings.exports import ShardSettings
from sd_assets.storage.shards import Cutter

# Shards that are written while the next one is read: each is held in memory.
_WRITERS = 1


class Sample(NamedTuple):
    """A pair as a shard has it.

    Attributes:
        pair: the pair.
        image: bytes, as they are to be written.
        extension: jpg, png or webp.
    """

    pair: Pair
    image: bytes
    extension: str


class Shard(NamedTuple):
    """A file that belongs there.

    Attributes:
        name: of the file.
        pairs: how many it holds.
    """

    name: str
    pairs: int


class Shards(Layout):
    """Files of a split by the digest of their pairs, with the extension of the layout."""

    extension: ClassVar[str]
    settings: ShardSettings

    @abstractmethod
    def encode(self, samples: Sequence[Sample]) -> Iterable[bytes | pa.Buffer]:
        """The pieces of a file."""

    def index(
        self, folder: ExportFolder, split: str, shards: Sequence[Shard]
    ) -> dict[tuple[str, str], list[bytes]]:
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
        plan = self._plan(read, written)
        there = {split: set(folder.names(split)) for split in SPLITS}
        missing = any(shard.name not in there[split] for split in SPLITS for shard in plan[split])
        shards: dict[str, list[Shard]] = plan
        if missing:
            written.failures.clear()  # they are counted again
            shards = self._written(read, folder, plan, there, written)
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
        held: dict[str, list[bytes]] = defaultdict(list)
        cutters = {split: self._cutter() for split in SPLITS}
        for pairs in read(written.failures):
            for pair in pairs.pairs:
                held[pair.split].append(pair.digest)
                if cutters[pair.split].ends_after(_cut_key(pair), pair.size):
                    plan[pair.split].append(self._shard(held.pop(pair.split)))
        for split, digests in held.items():
            plan[split].append(self._shard(digests))
        return plan

    def _written(
        self,
        read: Reader,
        folder: ExportFolder,
        plan: Mapping[str, list[Shard]],
        there: Mapping[str, set[str]],
        written: Written,
    ) -> dict[str, list[Shard]]:
        """Write the shards of the plan that are missing; those that there are then."""
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
            return split, shard, sum(map(_size, pieces))

        for split, shard, size in map_ahead(put, self._samples(read, plan, there, written), _WRITERS):
            if shard.pairs:
                shards[split].append(shard)
            if size:
                written.wrote(size)
        return shards

    def _samples(
        self, read: Reader, plan: Mapping[str, list[Shard]], there: Mapping[str, set[str]], written: Written
    ) -> Iterator[tuple[str, list[Sample], Shard]]:
        """Split, samples and plan of each shard; without samples, if it is there."""
        at = dict.fromkeys(SPLITS, 0)  # the number of the shard that is being filled
        seen = dict.fromkeys(SPLITS, 0)  # how many of its pairs there were
        held: dict[str, list[Sample]] = {split: [] for split in SPLITS}
        for pairs in read(written.failures):
            numbers: dict[tuple[str, int], list[int]] = {}
            ended: list[tuple[str, int]] = []
            for number, pair in enumerate(pairs.pairs):
                split = pair.split
                shard = plan[split][at[split]]
                if shard.name not in there[split]:
                    numbers.setdefault((split, at[split]), []).append(number)
                seen[split] += 1
                if seen[split] == shard.pairs:
                    ended.append((split, at[split]))
                    at[split], seen[split] = at[split] + 1, 0
            wanted = sorted(number for some in numbers.values() for number in some)
            images = {
                number: Sample(pairs.pairs[number], data, extension)
                for number, data, extension in self.images(pairs, wanted, written.failures)
            }
            for split, place in ended:
                found = [images.pop(number) for number in numbers.pop((split, place), ()) if number in images]
                samples, held[split] = held[split] + found, []
                planned = plan[split][place]
                kept = planned.name in there[split]
                yield split, samples, planned if kept or samples else Shard(planned.name, 0)
            for (split, _), some in numbers.items():
                held[split] += [images.pop(number) for number in some if number in images]

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


def _size(piece: bytes | pa.Buffer) -> int:
    return piece.size if isinstance(piece, pa.Buffer) else len(piece)
