"""Reading the curated pairs: what is known of each, and its image where it is wanted."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from sd_assets.errors import TableError
from sd_assets.storage.rows import Rows, as_batch
from sd_assets.storage.table import Table


def curated_rows(
    text_image_pairs: Table, curated_pairs: Table, columns: Sequence[str], *, dropped: bool = False
) -> Iterator[Rows]:
    """The kept pairs in the order of `text_image_pairs`, a shard at a time, their images left to be fetched.

    Args:
        text_image_pairs: the pairs.
        curated_pairs: what was decided of them: a row for each pair that did not fail, in the same order.
        columns: of either table; where both have one, the pair's. `image` is lazy: see `Rows.take`. `image_id` always comes,
            first.
        dropped: those that are not kept, too: ask for `keep`.

    Raises:
        TableError: a column is in neither table; or the two do not speak of the same pairs.
    """
    names = list(dict.fromkeys(["image_id", *columns]))
    of_pairs = [name for name in names if name in text_image_pairs.schema.names]
    of_decisions = [name for name in names if name not in of_pairs]
    if unknown := [name for name in of_decisions if name not in curated_pairs.schema.names]:
        raise TableError(
            f"neither {text_image_pairs.uri} nor {curated_pairs.uri} has a column {', '.join(unknown)}"
        )
    decisions = _Decisions(curated_pairs, list(dict.fromkeys(["image_id", "keep", *of_decisions])))
    for rows in text_image_pairs.rows(list(dict.fromkeys([*of_pairs, "error"]))):
        usable = [
            place for place, error in enumerate(rows.known.column("error").to_pylist()) if error is None
        ]
        pairs = rows.known.take(pa.array(usable, pa.int64()))
        decided = decisions.take(len(pairs))
        if decided is None or not decided.column("image_id").equals(pairs.column("image_id")):
            raise _of_another_version(text_image_pairs, curated_pairs)
        chosen = [number for number, keep in enumerate(decided.column("keep").to_pylist()) if keep or dropped]
        columns_of = {name: decided.column(name) for name in of_decisions}
        columns_of |= {name: pairs.column(name) for name in of_pairs if name not in rows.lazy}
        both = pa.RecordBatch.from_pydict({name: columns_of[name] for name in names if name in columns_of})
        yield rows.repeated([usable[number] for number in chosen], both.take(pa.array(chosen, pa.int64())))
    if decisions.take(1) is not None:
        raise _of_another_version(text_image_pairs, curated_pairs)


class _Decisions:
    """The rows of curated_pairs, so many at a time as are asked for."""

    def __init__(self, curated_pairs: Table, columns: Sequence[str]) -> None:
        self._batches = curated_pairs.batches(columns)
        fields = [curated_pairs.schema.field(name) for name in columns]
        self._schema = pa.schema(fields)
        self._held = self._schema.empty_table()

    def take(self, count: int) -> pa.RecordBatch | None:
        """The next rows; None: there are not so many."""
        while len(self._held) < count:
            batch = next(self._batches, None)
            if batch is None:
                return None
            self._held = pa.concat_tables([self._held, pa.table(batch.select(self._schema.names))])
        taken, self._held = self._held.slice(0, count), self._held.slice(count)
        return as_batch(taken)


def _of_another_version(text_image_pairs: Table, curated_pairs: Table) -> TableError:
    return TableError(
        f"{curated_pairs.uri} was made from another version of {text_image_pairs.uri}: materialize curated_pairs again"
    )
