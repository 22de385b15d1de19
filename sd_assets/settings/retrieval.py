"""Which images of an index become hits, and how many."""

from typing import Literal

from pydantic import Field, model_validator

from sd_assets.settings.base import Cosine, Host, Pixels, Settings, Texts

# What a corpus may know of an image, and a filter may ask for.
KnownField = Literal["width", "height", "nsfw", "licence", "language"]


class HitFilters(Settings):
    """What an image of the index must be to become a hit. Null asks for nothing.

    A filter lets pass what is known to meet it. Where the corpus does not say how wide an image is, a filter on the width leaves
    it out, unless `unknown_passes` lists `width`.

    Attributes:
        min_width: of the original, px; so are the next three.
        max_width: see `min_width`.
        min_height: see `min_width`.
        max_height: see `min_width`.
        max_aspect_ratio: the longer side over the shorter; unknown where a side is, and passes if `unknown_passes` lists both.
        nsfw: labels that pass, in whichever case (`[UNLIKELY]`).
        max_nsfw: the highest score that passes, of corpora that have scores. What has a label is unknown to it, and what has a
            score to `nsfw`, unless both are given.
        licences: that pass, in whichever case; `*` stands for anything (`["*creativecommons.org/licenses/by/*"]`). `?` and an
            empty text are unknown, of languages, too.
        languages: that pass, in the corpus's own codes (`[en, de]`).
        hosts: that pass, their sub-domains, too.
        refused_hosts: that do not, nor their sub-domains.
        min_similarity_images: of the hits of seed images, to the query (that the aesthetic embedding has moved).
        max_similarity_images: the same, at most: 0.95 leaves out what is all but the seed itself.
        min_similarity_prompts: of the hits of prompts, which lie far lower than those of images.
        max_similarity_prompts: the same, at most.
        unknown_passes: what an image may have unknown, and pass the filters on it: width, height, nsfw, licence, language.
    """

    min_width: Pixels | None = None
    max_width: Pixels | None = None
    min_height: Pixels | None = None
    max_height: Pixels | None = None
    max_aspect_ratio: float | None = Field(None, ge=1)
    nsfw: Texts | None = None
    max_nsfw: float | None = None
    licences: Texts | None = None
    languages: Texts | None = None
    hosts: tuple[Host, ...] | None = None
    refused_hosts: tuple[Host, ...] = ()
    min_similarity_images: Cosine | None = None
    max_similarity_images: Cosine | None = None
    min_similarity_prompts: Cosine | None = None
    max_similarity_prompts: Cosine | None = None
    unknown_passes: tuple[KnownField, ...] = ()

    @model_validator(mode="after")
    def _something_can_pass(self) -> "HitFilters":
        for name in ("nsfw", "licences", "languages", "hosts"):
            if getattr(self, name) == ():
                raise ValueError(
                    f"`{name}` is empty, so nothing would pass: list what may, or give null for no filter"
                )
        for name in ("width", "height", "similarity_images", "similarity_prompts"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if least is not None and most is not None and least > most:
                raise ValueError(f"min_{name} ({least}) is more than max_{name} ({most}): nothing would pass")
        return self


class RetrievalSettings(Settings):
    """How many images a query brings, from which index, and which.

    Of a query's images that are the same, by URL or by sha256 as far as the corpus has it, the most similar is its hit.

    Attributes:
        index: a name under `indices:`.
        images_per_query: hits a query, at most: no query has more in the set. So many are looked for that pass the filters and
            are no duplicates, until the index has no more.
        filters: which.
        near_duplicates: the cosine of two images' embeddings from which on the less similar to the query is no hit (0.94 is what
            clip-retrieval takes); local indices only.
        max_candidates: of the index that are looked at for a query, at most, or the ten thousand best of a service.
        aesthetic_score: 0 to 9: pull the results towards images rated so. A local index needs `aesthetic_embeddings`.
        aesthetic_weight: how strongly: the query becomes normalise(query + weight * embedding of the score).
    """

    index: str = "laion"
    images_per_query: int = Field(20, ge=1, le=100_000)
    filters: HitFilters = HitFilters()
    near_duplicates: float | None = Field(None, gt=0, le=1)
    max_candidates: int = Field(1_000_000, ge=1)
    aesthetic_score: int | None = Field(None, ge=0, le=9)
    aesthetic_weight: float | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _score_and_weight_go_together(self) -> "RetrievalSettings":
        given = [name for name in ("aesthetic_score", "aesthetic_weight") if getattr(self, name) is not None]
        if len(given) == 1:
            raise ValueError(
                f"`{given[0]}` has no effect alone: give `aesthetic_score` (9, for example) and `aesthetic_weight` (0.5), or neither"
            )
        return self
