"""near_duplicates: which images are the same picture: of this partition, of others, and of those that are to be kept out."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.blocked import NOTHING, Blocked
from sd_assets.curation.clusters import Clusters, nearest_first, nearest_of_each
from sd_assets.curation.joining import columns_for
from sd_assets.curation.near import NO_PAIRS, Pairs, joined, measured, near_pairs
from sd_assets.curation.signatures import Signatures, read_signatures
from sd_assets.errors import SdAssetsError
from sd_assets.schemas import NEAR_DUPLICATES
from sd_assets.settings import NearDuplicateSettings
from sd_assets.storage.table import Table

VERSION = "2"
# Of so many images of one partition, or of those to keep out, that an image nearly is, the nearest are named.
MAX_NAMED = 5
# Pairs that are held, at least, before the nearest of them are sought.
_PAIRS_HELD = 1_000_000
_ROWS_AT_ONCE = 4_096


class Images(NamedTuple):
    """Tables of the same images.

    Attributes:
        embeddings: image_embeddings.
        hashes: image_quality.
        curated: curated_pairs, if those that it does not keep do not count.
    """

    embeddings: Table
    hashes: Table
    curated: Table | None = None


def not_in_both(images: Images) -> int:
    """Images that are in one of the two tables only, as while their partition is refreshed."""
    ids = [set(table.read(["image_id"]).column("image_id").to_pylist()) for table in images[:2]]
    return len(ids[0] ^ ids[1])


def near_duplicate_rows(
    ours: Images,
    nearness: NearDuplicateSettings,
    elsewhere: Mapping[str, Images],
    held_out: Table,
    blocked: Blocked = NOTHING,
) -> Iterator[pa.RecordBatch]:
    """Rows of near_duplicates, in the order of image_embeddings.

    Args:
        ours: the images of the partition.
        nearness: when two are the same picture.
        elsewhere: by partition the images that these must not be; of an image that is not in all of its tables there counts
            what is known.
        held_out: held_out_images, which these must not be either.
        blocked: images that must not be named.

    Raises:
        SdAssetsError: embeddings are to be compared that are of different models.
        TableError: our tables do not speak of the same images.
    """
    with TemporaryDirectory(prefix="sd_assets-") as folder:
        images = read_signatures(ours.embeddings, ours.hashes, Path(folder, "ours"))
        clusters = Clusters(images.ids)
        clusters.add(near_pairs(images, nearness))
        found_elsewhere: list[list[str]] = [[] for _ in range(len(images))]
        for number, (partition, tables) in enumerate(elsewhere.items()):
            theirs = _those_that_win(tables, blocked, Path(folder, f"theirs-{number}"))
            names = [f"{partition}/{name}" for name in theirs.ids.to_pylist()]
            _require_one_model(images, theirs, nearness, f"the partition {partition}")
            _note(found_elsewhere, _found_in(images, theirs, nearness), names)
        found_held_out: list[list[str]] = [[] for _ in range(len(images))]
        theirs = read_signatures(held_out, held_out, Path(folder, "held_out"))
        _require_one_model(images, theirs, nearness, "held_out_images")
        _note(found_held_out, _found_in(images, theirs, nearness), _names(held_out))
    compared = _comparable(images, nearness)
    leaders = clusters.leaders()
    columns = {
        "image_id": images.ids,
        "cluster": images.ids.take(pa.array(leaders)),
        "cluster_size": pa.array(np.bincount(leaders, minlength=len(images))[leaders], pa.int32()),
        "nearest": images.ids.take(_or_null(clusters.nearest, clusters.nearest >= 0)),
        "hash_distance": _or_null(clusters.distance, clusters.distance >= 0),
        "cosine": _or_null(clusters.cosine, ~np.isnan(clusters.cosine)),
        "held_out": _found_or_null(found_held_out, compared | (held_out.num_rows == 0)),
        "elsewhere": _found_or_null(found_elsewhere, compared | (not elsewhere)),
    }
    schema = NEAR_DUPLICATES.arrow
    rows = [columns.get(field.name, pa.nulls(len(images), field.type)) for field in schema]
    yield from pa.table(rows, schema=schema).to_batches(max_chunksize=_ROWS_AT_ONCE)


def _those_that_win(tables: Images, blocked: Blocked, file: Path) -> Signatures:
    """The images of another partition, but for those that it does not keep itself, and those that are blocked."""
    theirs = read_signatures(tables.embeddings, tables.hashes, file, may_lack=True)
    gone = blocked.rows(pa.record_batch({"image_id": theirs.ids}))
    if tables.curated is not None:
        keep = columns_for(theirs.ids, tables.curated, ["keep"], may_lack=True)["keep"]
        gone |= ~np.asarray(keep.fill_null(True))  # what is not judged yet may be kept
    return theirs.without(gone)


def _comparable(images: Signatures, nearness: NearDuplicateSettings) -> npt.NDArray[np.bool_]:
    """Of which images enough is known to find what they nearly are, shape (n,)."""
    ways = []
    if nearness.max_hash_distance is not None:
        ways.append(images.has_hash & (images.has_vector | (nearness.min_cosine_of_hashes is None)))
    if nearness.min_cosine is not None:
        ways.append(images.has_vector)
    return np.any(ways, axis=0) if ways else np.ones(len(images), np.bool_)


def _found_or_null(found: Sequence[list[str]], compared: npt.NDArray[np.bool_]) -> pa.Array:
    """Null where nothing was found because nothing could be compared."""
    known = [names if names or could else None for names, could in zip(found, compared, strict=True)]
    return pa.array(known, pa.list_(pa.string()))


def _found_in(images: Signatures, theirs: Signatures, nearness: NearDuplicateSettings) -> Pairs:
    """The nearest few of them for each of ours. One and the same image is the nearest, whatever is known of it."""
    same = np.asarray(pc.index_in(images.ids, value_set=theirs.ids).fill_null(-1))
    places = np.flatnonzero(same >= 0)
    identical = measured(images, theirs, places, same[places].astype(np.int64))
    rank = np.asarray(pc.rank(theirs.ids, tiebreaker="first")).astype(np.int64)
    found, new, held = NO_PAIRS, [], 0
    for some in near_pairs(images, nearness, theirs):
        new.append(some)
        held += len(some)
        # As many new ones as there are of before, so that none is sorted often.
        if held > max(_PAIRS_HELD, len(found)):
            found, new, held = _nearest([found, *new], rank), [], 0
    return joined([identical, _nearest([found, *new], rank)])


def _nearest(pairs: Sequence[Pairs], rank: npt.NDArray[np.int64]) -> Pairs:
    return nearest_of_each(nearest_first(joined(pairs), rank), MAX_NAMED)


def _note(found: list[list[str]], pairs: Pairs, names: Sequence[str]) -> None:
    noted: Counter[int] = Counter()
    for left, right in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
        if noted[left] < MAX_NAMED and names[right] not in found[left]:
            found[left].append(names[right])
            noted[left] += 1


def _names(held_out: Table) -> list[str]:
    return [
        f"{row['source']}, row {row['source_row']}"
        for batch in held_out.batches(["source", "source_row"])
        for row in batch.to_pylist()
    ]


def _require_one_model(
    images: Signatures, theirs: Signatures, nearness: NearDuplicateSettings, where: str
) -> None:
    models = sorted(images.models | theirs.models)
    if nearness.compares_embeddings and len(models) > 1:
        raise SdAssetsError(
            f"near-duplicates: the embeddings here and those of {where} are of different models ({', '.join(models)}), so that "
            "they cannot be compared: materialize both with the same `clip:`, or set `min_cosine` and `min_cosine_of_hashes` "
            "of `near_duplicates:` to null"
        )


def _or_null(values: npt.NDArray[np.generic], known: npt.NDArray[np.bool_]) -> pa.Array:
    return pa.array(values, mask=~known)
