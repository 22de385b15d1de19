"""`imagefolder` of `datasets`: images, and a `metadata.jsonl` in the folder of each split.

diffusers' training scripts take the folder of a split: `--train_data_dir .../train`; `load_dataset("imagefolder",
data_dir=...)` takes that of the partition, and finds the splits. A line of the metadata names the file (`file_name`);
`text` is the column that diffusers reads, a text or a list.

`datasets` infers the types of the columns from the first lines, and refuses splits whose types differ. So every line
has all columns, nothing is null, and scores, which may be unknown, are a list of those that are known.
"""

import json
from collections.abc import Mapping

from sd_assets.curation.splits import SPLITS
from sd_assets.exports.folder import ExportFolder, Pieces
from sd_assets.exports.pair import Pair
from sd_assets.exports.pair_files import PairFiles


class ImageFolder(PairFiles):
    """See the module."""

    version = "2"
    indices = frozenset((split, "metadata.jsonl") for split in SPLITS)

    def line(self, pair: Pair, name: str) -> str:
        return json.dumps(
            {
                "file_name": name,
                "text": list(pair.captions) if self.settings.all_captions else pair.captions[0],
                **pair.facts,
                "scores": [{"score": score, "value": value} for score, value in pair.scores.items()],
            },
            ensure_ascii=False,
        )

    def index(self, folder: ExportFolder, lines: Mapping[str, Pieces]) -> dict[tuple[str, str], Pieces]:
        return {(split, "metadata.jsonl"): text for split, text in lines.items()}
