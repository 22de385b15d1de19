"""Seed prompts: template combinations, then texts, then the lines of a file."""

import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from sd_assets.catalog import require_set
from sd_assets.errors import SourceError
from sd_assets.settings import Prompts


def read_prompts(prompts: Prompts) -> Iterator[str]:
    """The prompts in the order in which the catalogue names them, stripped, blank ones passed over.

    Prompts that come twice are given twice: who has the keys counts the duplicates.

    Raises:
        SourceError: the file is missing, cannot be read, or is not UTF-8.
        CatalogError: its path holds an environment variable that is not set.
    """
    for text in _all(prompts):
        if stripped := text.strip():
            yield stripped


def _all(prompts: Prompts) -> Iterator[str]:
    if prompts.template is not None:
        yield from _combinations(prompts.template, prompts.fields)
    yield from prompts.texts
    if prompts.file is not None:
        yield from _lines(Path(require_set(prompts.file, "prompts.file")))


def _combinations(template: str, fields: dict[str, list[str]]) -> Iterator[str]:
    # `product` varies the last list fastest. Not str.format: other braces in a prompt are just braces.
    for values in product(*fields.values()):
        filled = dict(zip(fields, values, strict=True))
        yield re.sub(r"{(\w+)}", lambda match, filled=filled: filled[match[1]], template)  # type: ignore[misc]


def _lines(path: Path) -> Iterator[str]:
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                # utf-8-sig only where a byte order mark can stand: elsewhere U+FEFF is a character of the text.
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise SourceError(
            f"prompts.file {path}: line {number} is not UTF-8 ({error.reason}): save it as UTF-8"
        ) from error
    except OSError as error:
        raise SourceError(f"prompts.file {path} cannot be read: {error.strerror}") from error
