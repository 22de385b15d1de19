"""A dataset of the Hugging Face hub, streamed by `datasets`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sd_assets.catalog import require_set
from sd_assets.errors import RowError, SourceError
from sd_assets.settings import HubSource
from sd_assets.sources.rows import (
    SourceRow,
    image_bytes,
    is_image,
    pick_image_column,
    pick_text_column,
    quiet_datasets,
    reason,
    text_of,
)


def read_hub(source: HubSource) -> Iterator[SourceRow]:
    """The rows of one split, streamed: neither the dataset nor a file of it is held in memory or on disk.

    The revision is resolved to a commit first, and that commit is read, so that a push in the middle changes nothing.
    An `id` that is a folder here is read as `datasets` reads it, without a Hub.

    Raises:
        SourceError: unreachable Hub, missing, private or gated dataset, wrong split, configuration or column.
    """
    name = require_set(source.id, "source.id")
    where = f"the Hub dataset {name!r}"
    commit = None if Path(name).is_dir() else _commit(name, source.revision, where)
    stream = _stream(source, name, commit, where)
    features: dict[str, Any] = dict(stream.features or dict.fromkeys(_first_columns(stream, where)))
    image = pick_image_column(features, source.image_column, where)
    text = pick_text_column([name for name in features if name != image], source.text_column, where)
    # Only these columns are fetched, and images stay the bytes they are.
    stream = stream.select_columns([image] if text is None else [image, text])
    if is_image(features[image]):
        import datasets

        stream = stream.cast_column(image, datasets.Image(decode=False))
    label = f"{name}/{source.config or 'default'}/{source.split}"
    count = 0
    try:
        for count, row in enumerate(stream):
            value = text_of(row[text], features[text]) if text is not None else None
            try:
                item = SourceRow(image_bytes(row[image]), value, label, commit, count)
            except RowError as error:
                item = SourceRow(None, value, label, commit, count, error)
            yield item
    except SourceError as error:
        raise SourceError(f"{where}, row {count}: {error}") from error
    except Exception as error:
        raise SourceError(
            f"{where} could not be read past row {count}: {reason(error)}. If the network or the Hub failed, run it again"
        ) from error


def _stream(source: HubSource, name: str, commit: str | None, where: str) -> Any:
    import datasets

    try:
        with quiet_datasets():
            return datasets.load_dataset(
                name, source.config, split=source.split, revision=commit, streaming=True
            )
    except Exception as error:
        # `datasets` lists the splits and configurations there are, in its own words.
        raise SourceError(f"{where} cannot be opened (split {source.split!r}): {reason(error)}") from error


def _first_columns(stream: Any, where: str) -> list[str]:
    """Some formats do not tell their columns before a row is read."""
    try:
        return list(next(iter(stream), {}))
    except Exception as error:
        raise SourceError(f"{where} cannot be read: {reason(error)}") from error


def _commit(name: str, revision: str | None, where: str) -> str | None:
    """The commit that `revision` means now. Asked first because it fails in an instant, and clearly."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except GatedRepoError as error:
        raise SourceError(
            f"{where} is gated: accept its terms on its page, then set HF_TOKEN to a token of that account"
        ) from error
    except RevisionNotFoundError as error:
        raise SourceError(
            f"{where} has no revision {revision!r}: name a branch, a tag or a commit of it"
        ) from error
    except RepositoryNotFoundError as error:
        raise SourceError(
            f"{where} does not exist, or is private: check `source.id`, or set HF_TOKEN to a token that may read it"
        ) from error
    except HFValidationError as error:
        raise SourceError(f"{where}: an id is `owner/name`: {reason(error)}") from error
    except Exception as error:
        raise SourceError(
            f"{where} cannot be reached: {reason(error)}. Check the network and HF_ENDPOINT, or read a copy of it "
            "with `source: {kind: folder, path: ...}`"
        ) from error
