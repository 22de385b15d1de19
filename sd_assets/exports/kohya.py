"""kohya's sd-scripts: an image with a .txt beside it, and a TOML for `--dataset_config`.

Of its documentation (docs/config_README-en.md) and of what reads captions there: images lie directly in `image_dir`;
an empty caption file is an error; only the first line is read, unless `enable_wildcard`: then one of the lines is
drawn, and `{a|b}` is a choice, so that braces of a caption are doubled. There is no folder of validation images: the
TOML names that of training, and the other is there for whoever wants it. Where the captions come from, and the
scores, is in `metadata.jsonl` beside the splits, which sd-scripts does not read.

It reads local disks only: of an export in a bucket the TOML names `train` as it is, for a copy in whose folder
sd-scripts is started.
"""

import json
from collections.abc import Mapping
from itertools import chain

from sd_assets.exports.folder import ExportFolder, Pieces
from sd_assets.exports.pair import Pair
from sd_assets.exports.pair_files import PairFiles, provenance_line
from sd_assets.settings.exports import KohyaSettings


class Kohya(PairFiles):
    """See the module."""

    version = "2"
    indices = frozenset({("", "dataset.toml"), ("", "metadata.jsonl")})
    settings: KohyaSettings

    def text(self, pair: Pair) -> str:
        if not self.settings.all_captions:
            return pair.captions[0] + "\n"
        return "".join(f"{caption.replace('{', '{{').replace('}', '}}')}\n" for caption in pair.captions)

    def line(self, pair: Pair, name: str) -> str:
        return provenance_line(pair, name)

    def index(self, folder: ExportFolder, lines: Mapping[str, Pieces]) -> dict[tuple[str, str], Pieces]:
        return {
            ("", "dataset.toml"): [self._toml(folder).encode()],
            ("", "metadata.jsonl"): list(chain.from_iterable(lines.values())),
        }

    def _toml(self, folder: ExportFolder) -> str:
        settings = self.settings
        image_dir = "train" if folder.uri.startswith("s3://") else f"{folder.uri}/train"
        # A TOML basic string escapes as JSON does.
        return f"""\
# For --dataset_config of sd-scripts. Written anew with the export: keep changes elsewhere.
[general]
caption_extension = ".txt"
enable_bucket = true

[[datasets]]
resolution = {settings.resolution}
batch_size = {settings.batch_size}

  [[datasets.subsets]]
  image_dir = {json.dumps(image_dir, ensure_ascii=False)}
  num_repeats = {settings.num_repeats}
  enable_wildcard = {"true" if settings.all_captions else "false"}
"""
