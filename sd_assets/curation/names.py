"""Whether the scores that a catalogue asks for are there."""

from collections.abc import Collection, Sequence

from sd_assets.errors import CatalogError
from sd_assets.mistakes import did_you_mean
from sd_assets.schemas import CURATED_PAIRS, NEAR_DUPLICATES, TABLES, TEXT_IMAGE_PAIRS
from sd_assets.settings import LICENCE, SCORES, CurationSettings


def reserved_names() -> Sequence[str]:
    """What a scorer of a user's own must not be called: scores, tables, and columns that mean something else."""
    tables = (TEXT_IMAGE_PAIRS, NEAR_DUPLICATES, CURATED_PAIRS)
    columns = {name for table in tables for name in table.arrow.names}
    return sorted({*SCORES, LICENCE, *(table.name for table in TABLES), *columns})


def require_known(settings: CurationSettings, own: Collection[str], where: str) -> None:
    """
    Args:
        settings: that name scores.
        own: names of scorers of a user's own.
        where: the settings stand, for the message.

    Raises:
        CatalogError: there is no score of a name.
    """
    known = [*SCORES, *sorted(own)]
    for field, name in settings.names:
        if name not in known and (field, name) != ("unknown_passes", LICENCE):
            raise CatalogError(
                f"{where}.{field} of the catalogue: there is no score {name!r}; there are: {', '.join(known)}"
                f"{did_you_mean(name, known)} One of your own comes of an asset of its name, which is given to "
                "build_definitions(scorers=[...])"
            )
