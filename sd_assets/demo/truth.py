"""What a world knows of its images, for the evaluators: nothing else opens `truth.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sd_assets.demo.scenes import Pair
from sd_assets.errors import SdAssetsError


class Truth:
    """What every URL shows, and what is wrong with it.

    Attributes:
        pairs: URL -> the (colour, object) pairs in view.
        groups: URL -> what it shares with its near-duplicates and copies; only URLs that have some.
        faults: URL -> its kind of fault; only URLs that have one.
        flaws: URL -> its kind of flaw; only URLs that have one.
        seed_flaws: image_id of a seed -> its kind of flaw; only seeds that have one.
    """

    def __init__(self, world_folder: Path) -> None:
        path = world_folder / "truth.json"
        try:
            truth: dict[str, dict[str, Any]] = json.loads(path.read_text("utf-8"))
            images, seeds = truth["images"], truth["seeds"]
        except (OSError, ValueError, KeyError) as error:
            raise SdAssetsError(f"cannot read the truth of the demo world: {path}: {error}") from error
        self.pairs: dict[str, frozenset[Pair]] = {
            url: frozenset((colour, kind) for colour, kind in image["items"]) for url, image in images.items()
        }
        self.groups = _named(images, "group")
        self.faults = _named(images, "fault")
        self.flaws = _named(images, "flaw")
        self.seed_flaws = {
            seed["image_id"]: seed["flaw"] for seed in seeds.values() if seed["flaw"] is not None
        }


def _named(images: dict[str, Any], name: str) -> dict[str, str]:
    return {url: image[name] for url, image in images.items() if image[name] is not None}
