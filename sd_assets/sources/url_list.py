"""A list of URLs, as .csv, .tsv, .parquet or .txt: its lines, one at a time."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from sd_assets.catalog import require_set
from sd_assets.errors import ErrorCode, RowError, SourceError
from sd_assets.settings import UrlsSource
from sd_assets.sources.parquet import ParquetRows
from sd_assets.sources.rows import pick_text_column, text_of
from sd_assets.views.text import one_line

_TEXT_NAME = re.compile(r"text|caption|prompt|description|title|alt(_?text)?|label", re.IGNORECASE)
_SEPARATORS = {".csv": ",", ".tsv": "\t"}


@dataclass(frozen=True)
class Listed:
    """A line of the list.

    Attributes:
        url: as it stands there, without blanks around it; None if there is none, then `error` says why.
        text: the text that belongs to it.
        error: what is wrong with the line.
    """

    url: str | None
    text: str | None = None
    error: RowError | None = None


def read_list(source: UrlsSource) -> tuple[Path, Iterator[Listed]]:
    """The file, and all its lines in order; nothing of them is read before the first is asked for.

    Raises (here and from the iterator):
        SourceError: the file is missing, of another kind, not UTF-8 or damaged, or lacks a column.
        CatalogError: the path holds an environment variable that is not set.
    """
    path = Path(require_set(source.path, "source.path"))
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise SourceError(
            f"source.path {path} {what}: give a .csv, .tsv, .parquet or .txt file that lists URLs"
        )
    suffix = path.suffix.lower()
    if suffix in _SEPARATORS:
        return path, _from_csv(path, _SEPARATORS[suffix], source)
    if suffix == ".parquet":
        return path, _from_parquet(path, source)
    if suffix != ".txt":
        raise SourceError(f"source.path {path}: a list of URLs is a .csv, .tsv, .parquet or .txt file")
    for field in ("url_column", "text_column"):
        if getattr(source, field) is not None:
            raise SourceError(
                f"source.path {path} has no columns, only a URL a line: take `{field}:` away, or write a .csv"
            )
    return path, _from_txt(path)


def _from_txt(path: Path) -> Iterator[Listed]:
    with _opened(path) as file:
        yield from (Listed(line.strip()) for line in _decoded(file, path) if line.strip())


def _from_csv(path: Path, separator: str, source: UrlsSource) -> Iterator[Listed]:
    with _opened(path) as file:
        # Strict, or a quote that nothing closes takes the rest of the file for one cell, and nobody is told.
        rows = csv.reader(_decoded(file, path), delimiter=separator, strict=True)
        header = next((cells for cells in _cells(rows, path) if cells), None)
        if header is None:
            raise SourceError(f"{path} is empty: its first line must name the columns, for example url,text")
        if isinstance(header, RowError):
            raise SourceError(f"{path}: its header cannot be read: {header.detail}")
        header = [name.strip() for name in header]
        url, text = _columns(header, source, path)
        for cells in _cells(rows, path):
            if isinstance(cells, RowError):
                yield Listed(None, None, cells)
            elif len(cells) > len(header):
                detail = f"line {rows.line_num} has {len(cells)} cells, its header {len(header)}: quote what holds a separator"
                yield Listed(None, None, RowError(ErrorCode.UNREADABLE, detail))
            elif cells:
                named = dict(zip(header, cells, strict=False))
                yield _listed(named.get(url), text and named.get(text), f"line {rows.line_num}")


def _cells(rows: Any, path: Path) -> Iterator[list[str] | RowError]:
    """The records of a reader of `csv`; of one that is malformed, what is wrong. No cells are a blank line."""
    while True:
        start = rows.line_num + 1
        try:
            yield next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            if rows.line_num > start or "end of data" in str(error):
                raise SourceError(
                    f"{path}: line {start} opens a quote that is not closed where a cell ends ({error})"
                ) from error
            yield RowError(ErrorCode.UNREADABLE, f"line {start} cannot be read: {error}")


def _from_parquet(path: Path, source: UrlsSource) -> Iterator[Listed]:
    with ParquetRows(path) as rows:
        url, text = _columns(rows.schema.names, source, path)
        for number, row in enumerate(rows.read([url] if text is None else [url, text])):
            if not isinstance(row[url], str | None):
                raise SourceError(
                    f"{path}: the column {url!r} holds {type(row[url]).__name__}, not URLs: name another in `url_column:`"
                )
            yield _listed(row[url], text and row[text], f"row {number}")


def _listed(url: str | None, text: Any, place: str) -> Listed:
    url = (url or "").strip()
    error = None if url else RowError(ErrorCode.MISSING_IMAGE, f"{place} has no URL")
    return Listed(url or None, text_of(text, None), error)


def _columns(names: list[str], source: UrlsSource, path: Path) -> tuple[str, str | None]:
    """The columns of the URL and of the text, if there is one."""
    url = source.url_column or _url_column(names)
    if url is None or url not in names:
        asked = f"no column {url!r}" if url else "several columns, and none is called url"
        hint = "; the first line must name the columns" if any("://" in name for name in names) else ""
        raise SourceError(f"{path} has {asked} (`url_column:`); there are: {', '.join(names)}{hint}")
    others = [name for name in names if name != url]
    # What a column of a list holds, only its name tells.
    text = pick_text_column(others, filter(_TEXT_NAME.fullmatch, others), source.text_column, str(path))
    for name in (url, text):
        if name is not None and names.count(name) > 1:
            raise SourceError(f"{path} has several columns {name!r}: give each a name of its own")
    return url, text


def _url_column(names: list[str]) -> str | None:
    named = [name for name in names if name.lower() == "url"]
    return named[0] if named else names[0] if len(names) == 1 and "://" not in names[0] else None


def _opened(path: Path) -> TextIO:
    try:
        # A line ending is what csv takes for one, so that a quoted cell keeps its own.
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}") from error


def _decoded(file: TextIO, path: Path) -> Iterator[str]:
    number = 0
    try:
        for number, line in enumerate(file, 1):  # noqa: B007
            yield line
    except UnicodeDecodeError as error:
        raise SourceError(
            f"{path}: somewhere after line {number} it is not UTF-8 ({error.reason}): save it as UTF-8"
        ) from error
    except OSError as error:
        raise SourceError(f"{path} cannot be read past line {number}: {one_line(error)}") from error
