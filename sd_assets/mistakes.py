"""What pydantic finds wrong, as lines that whoever wrote the YAML can act on: field, what is allowed, what was given."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

# pydantic puts the tag of a union and the `[key]` of a mapping into the location; a reader of the YAML knows neither.
_KEY_OF_A_MAPPING = "[key]"
_MESSAGES = {
    "extra_forbidden": "unknown field",
    "missing": "this field is required",
    "union_tag_not_found": "`kind:` is required",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping of fields",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
    "invalid_key": "a field's name must be a text",
}
_NAME_FIELDS = {"extra_forbidden", "model_type", "model_attributes_type", "union_tag_not_found"}
# Their messages say what was given, as far as it matters.
# What stands in a field that does not exist may be a key, of one that is misspelled.
_SAY_WHAT_WAS_GIVEN = {"missing", "value_error", "union_tag_invalid", "extra_forbidden"}


def explained(
    error: ValidationError, model: type[BaseModel], skip: str | None = None
) -> list[tuple[str, str]]:
    """(field, what is wrong with it) of every mistake, as it is to be written behind the name of the entry.

    Args:
        error: of the validation.
        model: that was validated.
        skip: a field of the model that stands in no file.
    """
    return [
        (".".join(step for step in _steps(model, item["loc"]) if step != skip), _message(item, model))
        for item in error.errors()
    ]


def of_whole_model(item: ErrorDetails) -> bool:
    """Whether a mistake is one of a model as a whole, or of a field that lacks: it may be mended by other fields."""
    return item["type"] == "missing" or (item["type"] == "value_error" and isinstance(item["input"], Mapping))


def did_you_mean(given: Any, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` if one of the names that are known is near."""
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(given).lower(), by_lower, n=1)
    return f"; did you mean {by_lower[near[0]]!r}?" if near else ""


def shown(value: Any) -> str:
    """A value as an error message quotes it."""
    if value is None:
        return "nothing"
    text = f"the date {value}" if isinstance(value, date) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _message(item: ErrorDetails, model: type[BaseModel]) -> str:
    kind, given = item["type"], item["input"]
    context = item.get("ctx", {})
    message = _MESSAGES.get(
        kind, item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    )
    hint = ""
    if kind == "union_tag_invalid":
        tags = context["expected_tags"]
        message = f"there is no kind {context['tag']!r}; allowed: {tags}"
        hint = did_you_mean(context["tag"], _unquoted(tags))
    elif kind in _NAME_FIELDS:
        fields = _fields_at(model, item["loc"][:-1] if kind == "extra_forbidden" else item["loc"])
        message += f"; allowed: {', '.join(fields)}" if fields else ""
        hint = did_you_mean(item["loc"][-1], fields) if kind == "extra_forbidden" else ""
    elif kind == "literal_error":
        hint = did_you_mean(given, _unquoted(context["expected"]))
    elif kind == "string_type" and isinstance(given, int | float | date):
        made = "as true or false" if isinstance(given, bool) else "as a number or a date"
        hint = f"; YAML reads it {made}: put quotes around it"
    elif given in ("True", "False"):
        hint = "; YAML reads yes, no, on and off as true and false"
    return f"{message}{'' if kind in _SAY_WHAT_WAS_GIVEN else f', got {shown(given)}'}{hint}"


def _unquoted(listed: str) -> list[str]:
    """`'a', 'b' or 'c'` -> a, b, c."""
    return listed.split("'")[1::2]


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The fields that may stand at a place: of a union of which the kind is not known, `kind` and its values."""
    here: list[type[BaseModel]] = [model]
    for step in location:
        found: list[type[BaseModel]] = []
        for candidate in here:
            if step in _own_tags(candidate):
                found = [candidate]
                break
            field = candidate.model_fields.get(str(step))
            if field is not None:
                found.extend(_models_in(field.annotation))
        here = found
    if len(here) > 1:
        return [f"{{kind: {tag}, ...}}" for candidate in here for tag in _own_tags(candidate)]
    return sorted({name for candidate in here for name in candidate.model_fields})


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, BaseModel) else []
    return [model for argument in get_args(annotation) for model in _models_in(argument)]


def _own_tags(model: type[BaseModel]) -> tuple[str, ...]:
    tag = model.model_fields.get("kind")
    return get_args(tag.annotation) if tag else ()


def _steps(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterator[str]:
    """A location as it stands in the file: without pydantic's `[key]`, and the kind that stands behind the name of a union."""
    here: list[type[BaseModel]] = [model]
    behind_a_name = False
    for step in location:
        of_kind = [candidate for candidate in here if step in _own_tags(candidate)]
        if behind_a_name and of_kind:
            here, behind_a_name = of_kind, False
            continue
        if step != _KEY_OF_A_MAPPING:
            yield str(step)
        fields = [candidate.model_fields.get(str(step)) for candidate in here]
        here = [inner for field in fields if field is not None for inner in _models_in(field.annotation)]
        behind_a_name = True
