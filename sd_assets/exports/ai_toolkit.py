"""ai-toolkit: images, each with a .txt of the same stem.

`folder_path` is the folder of a split; it is gone through with all folders in it, so what is written besides lies
outside. A caption that is missing would silently be an empty one: that none is, is checked by writing it with the
image. The whole file is the caption. Formats: .jpg, .jpeg, .png and .webp. Where the pairs come from is in
`metadata.jsonl` beside the splits.
"""

from collections.abc import Mapping
from itertools import chain

from sd_assets.exports.folder import ExportFolder, Pieces
from sd_assets.exports.pair import Pair
from sd_assets.exports.pair_files import PairFiles, provenance_line


class AiToolkit(PairFiles):
    """See the module."""

    version = "2"
    indices = frozenset({("", "metadata.jsonl")})

    def text(self, pair: Pair) -> str:
        return pair.captions[0]

    def line(self, pair: Pair, name: str) -> str:
        return provenance_line(pair, name)

    def index(self, folder: ExportFolder, lines: Mapping[str, Pieces]) -> dict[tuple[str, str], Pieces]:
        return {("", "metadata.jsonl"): list(chain.from_iterable(lines.values()))}
