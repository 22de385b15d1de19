"""To which dataset of the Hub the curated pairs are written, and what its card says."""

from typing import Annotated

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from sd_assets.settings.exports import ParquetSettings


def _repo_id(text: str) -> str:
    owner, _, name = text.partition("/")
    if not text.startswith("${") and (not owner or not name or "/" in name):
        raise PydanticCustomError("repo_id", "must be `owner/name`, a dataset of the Hub")
    return text


class PushToHubSettings(ParquetSettings):
    """A dataset repository of the Hub, which holds nothing but what comes from here.

    The fields of the layout Parquet mean what they mean under `exports: parquet:`.

    Attributes:
        repo_id: `owner/name`; created where it is not there.
        private: whether only its owner may read it. Of a repository that is there it is not changed, but a public one is not
            written to unless this is false.
        licence: of the set as a whole, as the Hub names it (`cc-by-4.0`); `other`: each image has its own, or none is known.
        title: of the card; null: the name of the repository.
        contact: whom to ask to take an image out: a mail address or a URL; null: the repository's Community tab.
    """

    repo_id: Annotated[str, AfterValidator(_repo_id)]
    private: bool = True
    licence: str = Field("other", pattern=r"^[a-z0-9][a-z0-9.-]*$")
    title: str | None = Field(None, min_length=1)
    contact: str | None = Field(None, min_length=1)

    @property
    def parquet(self) -> ParquetSettings:
        """What of this decides about the files."""
        return ParquetSettings(**{name: getattr(self, name) for name in ParquetSettings.model_fields})
