"""near_duplicates: which images are the same picture: of this partition, of others, and of those that are to be kept out."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sd_assets.curation.clusters import Clusters, nearest_first, nearest_of_each
from sd_assets.curation.near import NO_PAIRS, Pairs, joined, measured, near_pairs
from sd_assets.curation.signatures import Signatures, read_signatures
from sd_assets.errors import SdAssetsError
from sd_assets.schemas import NEAR_DUPLICATES
from sd_assets.settings import NearDuplicateSettings
from sd_assets.storage.table import Table

VERSION = "1"
# Of so many images of elsewhere that an image nearly is, the nearest are named.
MAX_NAMED = 5
_ROWS_AT_ONCE = 4_096


class Images(NamedTuple):
    """Tables of the same images: what has their embeddings, and what their hashes."""

    embeddings: Table
    hashes: Table


def near_duplicate_rows(
    ours: Images, nearness: NearDuplicateSettings, elsewhere: Mapping[str, Images], held_out: Table
) -> Iterator[pa.RecordBatch]:
    """Rows of near_duplicates, in the order of image_embeddings.

    Args:
        ours: the images of the partition.
        nearness: when two are the same picture.
        elsewhere: by partition the images that these must not be.
        held_out: held_out_images, which these must not be either.

    Raises:
        SdAssetsError: embeddings are to be compared that are of different models.
        TableError: tables do not speak of the same images.
    """
    with TemporaryDirectory(prefix="sd_assets-") as folder:
        images = read_signatures(*ours, Path(folder, "ours"))
        clusters = Clusters(images.ids)
        clusters.add(near_pairs(images, nearness))
        found_elsewhere: list[list[str]] = [[] for _ in range(len(images))]
        for number, (partition, tables) in enumerate(elsewhere.items()):
            theirs = read_signatures(*tables, Path(folder, f"theirs-{number}"))
            names = [f"{partition}/{name}" for name in theirs.ids.to_pylist()]
            _require_one_model(images, theirs, nearness, f"the partition {partition}")
            _note(found_elsewhere, _found_in(images, theirs, nearness), names)
        found_held_out: list[list[str]] = [[] for _ in range(len(images))]
        theirs = read_signatures(held_out, held_out, Path(folder, "held_out"))
        _require_one_model(images, theirs, nearness, "held_out_images")
        _note(found_held_out, _found_in(images, theirs, nearness), _names(held_out))
    leaders = clusters.leaders()
    columns = {
        "image_id": images.ids,
        "cluster": images.ids.take(pa.array(leaders)),
        "cluster_size": pa.array(np.bincount(leaders, minlength=len(images))[leaders], pa.int32()),
        "nearest": images.ids.take(_or_null(clusters.nearest, clusters.nearest >= 0)),
        "hash_distance": _or_null(clusters.distance, clusters.distance >= 0),
        "cosine": _or_null(clusters.cosine, ~np.isnan(clusters.cosine)),
        "held_out": pa.array(found_held_out, pa.list_(pa.string())),
        "elsewhere": pa.array(found_elsewhere, pa.list_(pa.string())),
    }
    schema = NEAR_DUPLICATES.arrow
    rows = [columns.get(field.name, pa.nulls(len(images), field.type)) for field in schema]
    yield from pa.table(rows, schema=schema).to_batches(max_chunksize=_ROWS_AT_ONCE)


def _found_in(images: Signatures, theirs: Signatures, nearness: NearDuplicateSettings) -> Pairs:
    """The nearest few of them for each of ours. One and the same image is the nearest, whatever is known of it."""
    same = np.asarray(pc.index_in(images.ids, value_set=theirs.ids).fill_null(-1))
    places = np.flatnonzero(same >= 0)
    identical = measured(images, theirs, places, same[places].astype(np.int64))
    rank = np.asarray(pc.rank(theirs.ids, tiebreaker="first")).astype(np.int64)
    found = NO_PAIRS
    for some in near_pairs(images, nearness, theirs):
        found = nearest_of_each(nearest_first(joined([found, some]), rank), MAX_NAMED)
    return joined([identical, found])


def _note(found: list[list[str]], pairs: Pairs, names: Sequence[str]) -> None:
    for left, right in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
        if names[right] not in found[left]:
            found[left].append(names[right])


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
