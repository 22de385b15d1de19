"""Which images are the same picture, and which pairs one trains on."""

import re
from collections.abc import Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from sd_assets.settings.base import Cosine, Host, Settings, Texts
from sd_assets.settings.sources import FolderSource, HubSource, ParquetSource, WebDatasetSource

# What our own tables say of a pair. A scorer of a user's own adds its name.
SCORES: Final = (
    "resolution",
    "aspect_ratio",
    "sharpness",
    "blockiness",
    "flat_border",
    "alignment",
    "similarity",
    "aesthetic",
    "nsfw",
)
LICENCE: Final = "licence"
_SCORE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _score_name(text: str) -> str:
    if not _SCORE_NAME.fullmatch(text):
        raise PydanticCustomError(
            "score_name", f"must be the name of a score: {', '.join(SCORES)}, or that of a scorer of your own"
        )
    return text


def _no_truth_value(value: Any) -> Any:
    # `sharpness: yes` would be 1.
    return str(value) if isinstance(value, bool) else value


ScoreName = Annotated[str, AfterValidator(_score_name)]
Thresholds = dict[ScoreName, Annotated[float, BeforeValidator(_no_truth_value), Field(allow_inf_nan=False)]]
# Those that are read anew by every run without asking the web for each image.
KeepOut = Annotated[FolderSource | HubSource | ParquetSource | WebDatasetSource, Field(discriminator="kind")]


class NearDuplicateSettings(Settings):
    """Which images count as the same picture, and where else they are looked for.

    Two images are near-duplicates if their perceptual hashes are near and their embeddings do not speak against it, or if their
    embeddings alone are nearer than those of two pictures ever are. Hashes alone meet by chance: of a million images of which
    nothing is the same some 5,000 pairs are within 10 bits. Embeddings alone find what hashes cannot (crops, mirrored or
    framed copies), but only from high cosines on, as different pictures of one subject have cosines of 0.9.

    Attributes:
        max_hash_distance: bits, of 64, in which the perceptual hashes differ, at most (imagededup's default is 10); null: hashes
            are not compared.
        min_cosine_of_hashes: what the cosine of the embeddings must reach where the hashes are that near; null: nothing. An
            image whose embedding failed is then no near-duplicate.
        min_cosine: cosine from which on embeddings alone say that it is the same picture; null: they do not. What is high
            depends on the CLIP: 0.97 suits ViT-L/14 (fastdup takes 0.96, clip-retrieval 0.94, both to look at what they find).
        against: entries of the catalogue whose images win over this one's. What they hold when this one is built counts: build
            them first. Of two entries only one may name the other; an entry's own name (of the defaults) is passed over.
        keep_out: images that must not be trained on, as those of an evaluation: a source, like an entry's, but no list of URLs.
    """

    WITHOUT_EFFECT = frozenset({"keep_out"})  # it is a section of its own to what is made from it

    max_hash_distance: int | None = Field(10, ge=0, le=24)
    min_cosine_of_hashes: Cosine | None = 0.85
    min_cosine: float | None = Field(0.97, gt=0, le=1)
    against: Texts = ()
    keep_out: KeepOut | None = None

    @property
    def compares_embeddings(self) -> bool:
        """Whether it matters what the embeddings are."""
        of_hashes = self.max_hash_distance is not None and self.min_cosine_of_hashes is not None
        return of_hashes or self.min_cosine is not None


class CurationSettings(Settings):
    """Which pairs are kept. Without any of it: all but near-duplicates.

    Images of the retrieval are judged by where they came from, too; seeds are your own: licences, hosts, the similarity and
    the caps are not asked of them.

    Attributes:
        min: by score what a pair must reach.
        max: by score what it must not pass.
        unknown_passes: scores that a pair may have unknown, and pass the thresholds on them; likewise `licence`.
        licences: that pass, in whichever case; `*` stands for anything.
        hosts: that pass, with their sub-domains.
        refused_hosts: that do not, nor their sub-domains.
        max_per_host: pairs of one host, at most: the best.
        max_per_query: pairs that one query found, at most: the best. A pair that several queries found counts for each. Where a
            cap refuses the best of a cluster of near-duplicates, the next of it is asked.
        validation: share of the kept pairs that are the split `validation`. By a hash of the image_id: a pair stays in its
            split as long as it is kept, and a larger share moves pairs from train to validation only.
        best: scores, the most important first, by which members of a cluster, and of what is capped, are compared; of those
            of which less is better (aspect_ratio, blockiness, flat_border, nsfw), by less. An unknown one is the worst.
    """

    min: Thresholds = Field(default_factory=dict)
    max: Thresholds = Field(default_factory=dict)
    unknown_passes: tuple[ScoreName, ...] = ()
    licences: Texts | None = None
    hosts: tuple[Host, ...] | None = None
    refused_hosts: tuple[Host, ...] = ()
    max_per_host: int | None = Field(None, ge=1)
    max_per_query: int | None = Field(None, ge=1)
    validation: float = Field(0, ge=0, le=1)
    best: tuple[ScoreName, ...] = ("resolution", "alignment", "aesthetic")

    @property
    def names(self) -> Sequence[tuple[str, str]]:
        """Fields that name scores, with each that they name."""
        fields = ("min", "max", "unknown_passes", "best")
        return [(field, name) for field in fields for name in getattr(self, field)]

    @model_validator(mode="after")
    def _something_can_pass(self) -> "CurationSettings":
        for name in ("licences", "hosts"):
            if getattr(self, name) == ():
                raise ValueError(
                    f"`{name}` is empty, so nothing would pass: list what may, or give null for no filter"
                )
        for name in self.min.keys() & self.max.keys():
            if self.min[name] > self.max[name]:
                raise ValueError(
                    f"`min` of {name} ({self.min[name]:g}) is more than its `max` ({self.max[name]:g}): nothing would pass"
                )
        return self
