"""What the checks of the tables let pass."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sd_assets.errors import ErrorCode
from sd_assets.schemas import TABLES
from sd_assets.settings.base import Settings

TOTAL = "total"  # of a table's limits on failures: the one on all codes together
_TABLE_NAMES = tuple(table.name for table in TABLES)
Share = Annotated[float, Field(ge=0, le=1)]


def _known(what: str, names: Sequence[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in names:
            raise PydanticCustomError(
                "unknown_name", f"there is no {what} of this name; there are: {', '.join(names)}"
            )
        return name

    return AfterValidator(check)


def limits_by_code(limit: Any) -> Any:
    """A plain share of failures stands for the one on all codes together."""
    return {TOTAL: limit} if isinstance(limit, int | float) and not isinstance(limit, bool) else limit


def _limits_by_code(limit: Any) -> Any:
    limits = limits_by_code(limit)
    if not isinstance(limits, Mapping):
        raise PydanticCustomError(
            "failure_limits", "must be a share from 0 to 1, or a mapping of error codes (or total) to shares"
        )
    return limits


# What was taken down counts as no failure.
_LIMITED = (TOTAL, *(code for code in ErrorCode if code is not ErrorCode.BLOCKED))
FailureLimits = Annotated[
    dict[Annotated[str, _known("error code", _LIMITED)], Share], BeforeValidator(_limits_by_code)
]

# Where half of the rows failed, something is wrong with all of them; of the web, less can be asked.
MAX_FAILED: Final[Mapping[str, Mapping[str, float]]] = {
    **{name: {TOTAL: 0.5} for name in _TABLE_NAMES},
    # A model that answers NaN for some seeds is broken for all, or runs in a precision that it cannot bear.
    "seed_embeddings": {TOTAL: 0.5, ErrorCode.NOT_FINITE: 0.01},
    "image_embeddings": {TOTAL: 0.5, ErrorCode.NOT_FINITE: 0.01},
    "downloaded_images": {TOTAL: 0.9},
    # An image that cannot be read is kept out of nothing.
    "held_out_images": {TOTAL: 0.0},
}


class CheckSettings(Settings):
    """What the checks of a partition's tables let pass. Shares are from 0 (none) to 1 (all).

    A limit that says "stops" guards what would be wasted work: where it is passed, the run computes nothing that follows
    from the table. The others warn.

    Attributes:
        max_failed: stops: by table, the share of its rows that may have failed, altogether
            (`{downloaded_images: 0.95}`) or also by error code (`{downloaded_images: {total: 0.95, timeout: 0.3}}`).
            What is not named keeps its default: 0.5, 0.9 of downloaded_images; 0.01 for not_finite of both tables of embeddings; 0 of
            held_out_images.
        norm_tolerance: stops: how far the length of an embedding may be from 1.
        max_queries_without_hits: stops: share of the queries that the index answered with nothing.
        min_median_similarity_images: stops: what the median similarity of the hits of seed images must reach. What is
            low depends on the CLIP and the index, so by default the distribution is only reported.
        min_median_similarity_prompts: the same for hits of prompts; they lie far lower than those of images.
        max_same_caption: stops: share of the captioned images to which the captioner may give one and the same caption;
            judged from ten captions on, and not for texts that seeds came with.
        max_repeated_captions: share of the captioned images whose caption another image has, too.
        max_images_with_one_text: of the images with several captions, the share whose captions may all be the same.
        min_caption_words: shorter captions are counted as too short. A Chinese or Japanese character counts as a word.
        max_caption_words: longer ones as too long; the text encoder of Stable Diffusion reads 75 tokens.
        max_captions_of_odd_length: share of the captions that may be too short or too long.
        max_in_one_cluster: share of the images that may be one cluster of near-duplicates; judged from 50 images on.
        min_kept: share of the pairs that curation is to keep.
    """

    max_failed: dict[Annotated[str, _known("table", _TABLE_NAMES)], FailureLimits] = Field(
        default_factory=dict, validate_default=True
    )
    norm_tolerance: float = Field(0.001, ge=0)
    max_queries_without_hits: Share = 0.5
    min_median_similarity_images: float | None = Field(None, ge=-1, le=1)
    min_median_similarity_prompts: float | None = Field(None, ge=-1, le=1)
    max_same_caption: Share = 0.9
    max_repeated_captions: Share = 0.5
    max_images_with_one_text: Share = 0.5
    min_caption_words: int = Field(3, ge=0)
    max_caption_words: int = Field(75, ge=1)
    max_captions_of_odd_length: Share = 0.1
    max_in_one_cluster: Share = 0.05
    min_kept: Share = 0.1

    @field_validator("max_failed")
    @classmethod
    def _others_keep_their_default(cls, value: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        return {name: {**limits, **value.get(name, {})} for name, limits in MAX_FAILED.items()}

    @model_validator(mode="after")
    def _lengths_leave_room(self) -> "CheckSettings":
        if self.min_caption_words > self.max_caption_words:
            raise ValueError(
                f"min_caption_words ({self.min_caption_words}) is more than max_caption_words ({self.max_caption_words})"
            )
        return self
