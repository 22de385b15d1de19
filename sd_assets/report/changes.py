"""What has changed since the last report: which pairs came, went, or are judged otherwise."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from sd_assets.report.pairs import Pair, is_shown

# What of a pair may change, as the page says it.
ADDED, REMOVED = "added", "removed"
IMAGE, CAPTIONS, KEPT, NOT_KEPT = "image changed", "captions changed", "now kept", "no longer kept"


class Changes:
    """Compares the pairs of a report, one after the other, with those of the last one.

    Args:
        state: what the last report left, `as_json` of its own changes; empty: there was none.
        data: names the content that is compared. Where the last report was made of the same, its changes stay.
        step: every so many pairs one is shown. What only one of the two reports could show is not compared.

    Attributes:
        first: whether there is nothing to compare with.
    """

    def __init__(self, state: Mapping[str, Any], data: str, step: int) -> None:
        self._data = data
        self._step = step
        self._in_both = max(step, state.get("step", 1))
        self._same = state.get("data") == data
        # Digests of image and captions (8 hex digits each) and `keep` by image_id. Of what is gone nothing is kept, not even
        # its image_id: it may have been taken down.
        self._before: Mapping[str, list[Any]] = state.get("pairs", {})
        self._kinds: dict[str, list[str]] = dict(state.get("kinds", {})) if self._same else {}
        self._removed: int = state.get("removed", 0) if self._same else 0
        self._since: str | None = state.get("since") if self._same else state.get("made_of")
        self._pairs: dict[str, list[Any]] = {}
        self.first = self._since is None

    def of(self, pair: Pair) -> list[str]:
        """What of a pair has changed."""
        now = [pair.image_digest.hex()[:8], _digest(pair.shown["captions"]), pair.keep]
        self._pairs[pair.image_id] = now
        if not self._same and not self.first and is_shown(pair.image_id, self._in_both):
            kinds = self._found(pair.image_id, now)
            if kinds:
                self._kinds[pair.image_id] = kinds
        return self._kinds.get(pair.image_id, [])

    def _found(self, image_id: str, now: list[Any]) -> list[str]:
        before = self._before.get(image_id)
        if before is None:
            return [ADDED]
        kept = bool(now[2]) - bool(before[2])
        return [
            kind
            for kind, changed in (
                (IMAGE, now[0] != before[0]),
                (CAPTIONS, now[1] != before[1]),
                (KEPT, kept > 0),
                (NOT_KEPT, kept < 0),
            )
            if changed
        ]

    def removed(self) -> int:
        """How many pairs are gone; to be asked when all pairs were compared."""
        if not self._same and not self.first:
            gone = self._before.keys() - self._pairs.keys()
            self._removed = sum(is_shown(image_id, self._in_both) for image_id in gone)
        return self._removed

    @property
    def since(self) -> str | None:
        """What the report that is compared with was made of; None: it is the first."""
        return self._since

    def as_json(self, made_of: str) -> dict[str, Any]:
        """What the next report is to know.

        Args:
            made_of: versions of the tables, for a person.
        """
        return {
            "data": self._data,
            "step": self._step,
            "made_of": made_of,
            "since": self._since,
            "kinds": self._kinds,
            "removed": self.removed(),
            "pairs": self._pairs,
        }


def _digest(texts: list[str]) -> str:
    return hashlib.blake2b(json.dumps(texts).encode(), digest_size=4).hexdigest()
