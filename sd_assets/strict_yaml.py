"""YAML, read strictly: what is no YAML is an error that names the line, and so is a key that stands twice."""

from pathlib import Path
from typing import Any

import yaml

from sd_assets.errors import CatalogError

_QUOTE = "a text that holds any of : # { } [ ] , & * ! | > ' \" % @ wants quotes around it"


def read_yaml(path: Path) -> tuple[Any, list[str]]:
    """What a file says, and what is wrong with it that YAML itself would pass over: keys that stand twice.

    Raises:
        CatalogError: the file is not UTF-8 or no YAML; names the line.
        OSError: it cannot be read.
    """
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise CatalogError(
            f"{path}: line {line} is not UTF-8 (the byte 0x{data[error.start]:02x}): save the file as UTF-8"
        ) from error
    try:
        return _parsed(text)
    except yaml.MarkedYAMLError as error:
        raise CatalogError(f"{path}: {_explained(error, text)}") from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise CatalogError(
            f"{path}: line {line}: the character U+{error.character:04X} may not stand in YAML: delete it"
        ) from error
    except (ValueError, RecursionError) as error:  # a date that no calendar has; brackets without end
        raise CatalogError(f"{path}: cannot be read as YAML: {error}; {_QUOTE}") from error


def _parsed(text: str) -> tuple[Any, list[str]]:
    loader = yaml.SafeLoader(text)
    node = loader.get_single_node()
    mistakes: list[str] = []
    if node is None:
        return None, mistakes
    _check(node, (), [], set(), mistakes)
    return loader.construct_document(node), mistakes


def _explained(error: yaml.MarkedYAMLError, text: str) -> str:
    mark = error.problem_mark or error.context_mark
    what = " ".join(filter(None, (error.context, error.problem)))
    if mark is None:
        return f"cannot be read as YAML: {what}"
    line = (text.splitlines() or [""])[min(mark.line, max(0, len(text.splitlines()) - 1))]
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    if "\t" in line[: mark.column + 1] and not line[: mark.column].strip():
        return f"{place}: YAML is indented with spaces, and there is a tab: {line!r}"
    return f"{place}: cannot be read as YAML: {what}: {line.strip()!r}; {_QUOTE}"


def _check(
    node: yaml.Node, where: tuple[str, ...], above: list[yaml.Node], seen: set[int], mistakes: list[str]
) -> None:
    """Add a line for each key that stands twice in its mapping, here and below."""
    if any(node is other for other in above):
        raise yaml.constructor.ConstructorError(
            None, None, "an alias stands within what it is an alias of", node.start_mark
        )
    if id(node) in seen or not isinstance(node, yaml.CollectionNode):
        return
    seen.add(id(node))
    below = [*above, node]
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(item, where, below, seen, mistakes)
        return
    first: dict[str, int] = {}
    for key, value in node.value:
        name = str(key.value)
        line = key.start_mark.line + 1
        if name in first:
            mistakes.append(
                f"{'.'.join([*where, name])}: stands twice, in line {first[name]} and in line {line}, and only one of "
                "them would count: take one away or rename it"
            )
        first.setdefault(name, line)
        _check(value, (*where, name), below, seen, mistakes)
