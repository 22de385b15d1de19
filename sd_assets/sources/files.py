"""Which files a `path:` of the catalogue means: a file, a folder, a pattern or a range; in the same order every time."""

import glob
import itertools
import logging
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from sd_assets.catalog import require_set
from sd_assets.errors import SourceError

logger = logging.getLogger(__name__)

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MOST_FILES = 1_000_000


def list_files(path: str, suffixes: tuple[str, ...]) -> tuple[Path, list[Path]]:
    """The files that `source.path` names, sorted, and the folder that they are named relative to.

    Args:
        path: a file, a folder (all files in it and its sub-folders that end in one of `suffixes`; hidden ones are
            left out), or a pattern with `*`, `?`, `[...]`, `**`, `{a,b}` and `{000..012}`. What is there under exactly
            this name is taken, whatever characters it has.
        suffixes: lower case, with the dot.

    Raises:
        SourceError: nothing is there, or a part of a range is not.
        CatalogError: the path holds an environment variable that is not set.
    """
    named = Path(require_set(path, "source.path"))
    listed = ", ".join(f"*{suffix}" for suffix in suffixes)
    if named.is_file():
        return named.parent, [named]
    if named.is_dir():
        found = sorted(_in_folder(named, suffixes))
        if not found:
            raise SourceError(f"source.path {named} holds no {listed}: give the folder that does")
        return named, found
    matched: dict[Path, Path] = {}
    for pattern in expand_braces(str(named)):
        matches = map(Path, glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute ones
        matching = sorted(match for match in matches if match.is_file())
        if not matching:
            raise SourceError(
                f"source.path {named}: there is no {pattern}; give a file, a folder that holds {listed}, "
                "or a pattern that matches files"
            )
        for file in matching:
            # `**` follows links, round in circles if they lead back: each file once.
            matched.setdefault(file.resolve(), file)
    found = list(matched.values())
    return Path(os.path.commonpath([file.parent for file in found])), found


def expand_braces(pattern: str) -> list[str]:
    """`a-{000..012}.tar` -> a-000.tar ... a-012.tar; `{a,b}` -> a, b; other braces are just braces.

    Raises:
        SourceError: that would be more than a million names.
    """
    # Cut into what stands between the braces (even places) and in them (odd places).
    parts = _BRACES.split(pattern)
    choices = [[part] if place % 2 == 0 else _choices(part) for place, part in enumerate(parts)]
    count = math.prod(map(len, choices))
    if not 1 <= count <= _MOST_FILES:
        raise SourceError(f"source.path {pattern} would be {count} files: check its ranges")
    return ["".join(names) for names in itertools.product(*choices)]


def _choices(inside: str) -> list[str]:
    match = _RANGE.fullmatch(inside)
    if match:
        first, last = match.groups()
        numbers = range(int(first), min(int(last), int(first) + _MOST_FILES) + 1)
        return [f"{number:0{len(first)}d}" for number in numbers]
    return inside.split(",") if "," in inside else [f"{{{inside}}}"]


def walk(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """`os.walk` that follows links, and lists no folder twice: a link may lead back to a folder above.

    Raises:
        SourceError: a folder cannot be listed.
    """

    def stop(error: OSError) -> None:
        raise SourceError(
            f"source.path {folder}: {error.filename} cannot be listed: {error.strerror}"
        ) from error

    seen: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        status = Path(here).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
        else:
            seen.add((status.st_dev, status.st_ino))
            yield Path(here), folders, names


def _in_folder(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    found: list[Path] = []
    others: list[str] = []
    for here, folders, names in walk(folder):
        # Other programs leave their own things beside data: `_SUCCESS`, `_temporary/`, `.part-0.parquet.crc`.
        hidden = {name for name in (*folders, *names) if name.startswith((".", "_"))}
        folders[:] = sorted(set(folders) - hidden)
        wanted = {name for name in names if name.lower().endswith(suffixes)} - hidden
        found += [here / name for name in wanted]
        left_out = (hidden | set(names)) - wanted
        others += [shown((here / name).relative_to(folder)) for name in left_out]
    if others:
        others.sort()
        logger.warning(
            "source.path %s: %d other files were left out: %s%s",
            folder,
            len(others),
            ", ".join(others[:10]),
            ", ..." if len(others) > 10 else "",
        )
    return found


def shown(path: str | Path) -> str:
    """A name as text that can be stored: it need not be UTF-8, a Parquet string must."""
    return os.fsencode(path).decode("utf-8", "replace")
