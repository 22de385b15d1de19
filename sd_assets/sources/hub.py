"""A dataset of the Hugging Face hub, streamed by `datasets`."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sd_assets.ahead import map_ahead
from sd_assets.catalog import require_set
from sd_assets.errors import RowError, SourceError
from sd_assets.settings import HubSource
from sd_assets.sources.rows import (
    SourceRow,
    image_bytes,
    is_text,
    pick_image_column,
    pick_text_column,
    quiet_datasets,
    text_of,
)
from sd_assets.views.text import one_line

# Rows in the making at once: where a dataset is a folder of images, each is a download of its own.
_AHEAD = 8
# For the commit of a dataset, a few kilobytes.
_TIMEOUT_S = 10


def read_hub(source: HubSource) -> Iterator[SourceRow]:
    """The rows of one split, streamed: neither the dataset nor a file of it is held in memory or on disk.

    The revision is resolved to a commit first, and that commit is read, so that a push in the middle changes nothing.
    An `id` that is a folder here is read as `datasets` reads it, without a Hub.

    Raises:
        SourceError: unreachable Hub, missing, private or gated dataset, wrong split, configuration or column; or the
            connection was lost, and clients could not make good for it.
    """
    name = require_set(source.id, "source.id")
    where = f"the Hub dataset {name!r}"
    commit = hub_commit(source)
    files = None if commit is None else f"hf://datasets/{name}@{commit}/"
    with _losses_are_errors():
        stream = _stream(source, name, commit, where)
        features: dict[str, Any] = dict(stream.features or dict.fromkeys(_first_columns(stream, where)))
        image = pick_image_column(features, source.image_column, where)
        others = [it for it in features if it != image]
        texts = [it for it in others if is_text(features[it])]
        text = pick_text_column(others, texts, source.text_column, where)
        wanted = [image] if text is None else [image, text]
        if stream.info.builder_name == "parquet" and set(features) - set(wanted):
            # Opened anew for them: of a stream that was opened for all, the others would be fetched, and thrown away.
            stream = _stream(source, name, commit, where, columns=wanted)
        stream = stream.select_columns(wanted)
        label = f"{name}/{source.config or 'default'}/{source.split}"

        def row_of(number: int, cells: dict[str, Any]) -> SourceRow:
            value = None if text is None else text_of(cells[text], features[text])
            try:
                return SourceRow(image_bytes(cells[image], files), value, label, commit, number)
            except RowError as error:
                return SourceRow(None, value, label, commit, number, error)
            except SourceError as error:
                raise SourceError(f"{where}, row {number}: {error}") from error
            except Exception as error:
                raise _lost(where, number, error) from error

        rows = enumerate(_rows(stream, source.max_rows, where))
        yield from map_ahead(lambda numbered: row_of(*numbered), rows, _AHEAD)


def _rows(stream: Any, limit: int | None, where: str) -> Iterator[dict[str, Any]]:
    number = 0
    try:
        for cells in islice(stream, limit):
            yield cells
            number += 1
    except Exception as error:
        raise _lost(where, number, error) from error


def _lost(where: str, number: int, error: Exception) -> SourceError:
    return SourceError(
        f"{where} could not be read from row {number} on: {one_line(error)}. If the network or the Hub failed, run it again"
    )


def _stream(source: HubSource, name: str, commit: str | None, where: str, **options: Any) -> Any:
    import datasets

    try:
        # Where the Hub fails in the middle, `datasets` falls back on what its cache holds under this name, whichever
        # commit that was: so the cache is an empty one.
        with quiet_datasets(), TemporaryDirectory() as no_cache:
            stream = datasets.load_dataset(
                name,
                source.config,
                split=source.split,
                revision=commit,
                streaming=True,
                cache_dir=no_cache,
                **options,
            )
        # Images stay the bytes they are.
        return stream.decode(False) if stream.features else stream
    except Exception as error:
        # `datasets` lists the splits and configurations there are, in its own words.
        asked = f"config {source.config!r}, split {source.split!r}"
        raise SourceError(f"{where} cannot be opened ({asked}): {one_line(error)}") from error


@contextmanager
def _losses_are_errors() -> Iterator[None]:
    """Without the last of the retries for files that are read from a stream, the tars.

    `huggingface_hub` takes up a stream that was cut. When that fails, `datasets` reads on in the stream that is dead,
    finds nothing more in it, and takes that for the end of the tar: rows would be missing, and nobody would know.
    """
    import datasets

    before = datasets.config.STREAMING_READ_MAX_RETRIES
    datasets.config.STREAMING_READ_MAX_RETRIES = 1
    try:
        yield
    finally:
        datasets.config.STREAMING_READ_MAX_RETRIES = before


def _first_columns(stream: Any, where: str) -> list[str]:
    """Some formats do not tell their columns before a row is read."""
    try:
        return list(next(iter(stream), {}))
    except Exception as error:
        raise SourceError(f"{where} cannot be read: {one_line(error)}") from error


def hub_commit(source: HubSource) -> str | None:
    """The commit that the `revision` of a source means now; None if its `id` is a folder here.

    Asked before anything is read, because what is wrong with a dataset is said clearly here.

    Raises:
        SourceError: an unreachable Hub, a revision that it does not have, a missing, private or gated dataset.
        CatalogError: the id holds an environment variable that is not set.
    """
    name = require_set(source.id, "source.id")
    if Path(name).is_dir():
        return None
    where, revision = f"the Hub dataset {name!r}", source.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi()
    try:
        # Without a timeout of ours this request has none.
        info = api.dataset_info(name, revision=revision, timeout=_TIMEOUT_S)
        if info.gated:  # of such a one everybody is told, but not everybody gets its files
            api.auth_check(name, repo_type="dataset")
        return info.sha
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
        raise SourceError(f"{where}: an id is `owner/name`: {one_line(error)}") from error
    except Exception as error:
        if isinstance(error, HfHubHTTPError) and error.response.status_code == 401:
            raise SourceError(
                f"{where}: the Hub does not accept the token that HF_TOKEN (or `hf auth login`) gives: renew it, or for "
                "a public dataset take it away"
            ) from error
        raise SourceError(
            f"{where} cannot be reached: {one_line(error)}. Check the network and HF_ENDPOINT, or read a copy of it "
            "with `source: {kind: folder, path: ...}`"
        ) from error
