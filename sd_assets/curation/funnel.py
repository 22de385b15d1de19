"""How many pairs are kept, and what the others were lost by."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow.compute as pc

from sd_assets.curation.reasons import in_order
from sd_assets.storage.table import Table


@dataclass(frozen=True)
class Step:
    """A reason, in the order in which reasons are judged.

    Attributes:
        reason: its code.
        against: pairs that it is against.
        lost: those of them that no earlier reason is against.
        left: pairs that neither it nor an earlier one is against.
        alone: pairs that only it is against: what would be kept without it, but for near-duplicates and caps.
    """

    reason: str
    against: int
    lost: int
    left: int
    alone: int


@dataclass(frozen=True)
class Funnel:
    """What became of the pairs of a partition.

    Attributes:
        pairs: that were judged.
        steps: reasons against them.
        kept: pairs with none.
        splits: how many of these each split has.
    """

    pairs: int
    steps: tuple[Step, ...]
    kept: int
    splits: dict[str, int]

    def as_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def funnel(curated_pairs: Table) -> Funnel:
    """The funnel of curated_pairs; of its rows only the reasons and splits are read."""
    lists: Counter[tuple[str, ...]] = Counter()
    splits: Counter[str] = Counter()
    for batch in curated_pairs.batches(["reasons", "split", "error"]):
        good = batch.filter(batch.column("error").is_null())
        lists.update(map(tuple, good.column("reasons").to_pylist()))
        splits.update(pc.drop_null(good.column("split")).to_pylist())
    left = pairs = lists.total()
    steps = []
    earlier: set[str] = set()
    for reason in in_order(reason for reasons in lists for reason in reasons):
        with_it = {reasons: count for reasons, count in lists.items() if reason in reasons}
        lost = sum(count for reasons, count in with_it.items() if not earlier.intersection(reasons))
        left -= lost
        steps.append(Step(reason, sum(with_it.values()), lost, left, lists[(reason,)]))
        earlier.add(reason)
    return Funnel(pairs, tuple(steps), left, dict(sorted(splits.items())))
