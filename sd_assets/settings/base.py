"""What all sections of an entry are made of, and the kinds of values that several have."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from sd_assets.blocked import normal_host


class Settings(BaseModel):
    """Knows its fields and refuses others; does not change.

    Attributes:
        WITHOUT_EFFECT: fields that say how to work, not what comes out: timeouts, retries, batch sizes.
    """

    # What pydantic itself writes of a mistake quotes no input: it may hold a key or a password.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    WITHOUT_EFFECT: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _truth_values_are_no_numbers(cls, values: Any) -> Any:
        # `retries: yes` would be 1. As a text, the truth value fails where numbers are read.
        if not isinstance(values, Mapping):
            return values
        return {
            name: str(value) if isinstance(value, bool) and cls._is_number(name) else value
            for name, value in values.items()
        }

    @classmethod
    def _is_number(cls, name: str) -> bool:
        field = cls.model_fields.get(name)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        return int in kinds or float in kinds

    def effects(self) -> dict[str, Any]:
        """The fields that change what comes out, as JSON."""
        return self.model_dump(mode="json", exclude=set(self.WITHOUT_EFFECT))


Texts = tuple[Annotated[str, Field(min_length=1)], ...]


def host_name(text: str) -> str:
    normal = normal_host(text)
    if normal is None:
        raise PydanticCustomError(
            "host",
            "must be the name or address of a host, without scheme, port, path or `*` (it stands for its sub-domains, too)",
        )
    return normal


Host = Annotated[str, AfterValidator(host_name)]
Pixels = Annotated[int, Field(ge=1)]
Cosine = Annotated[float, Field(ge=-1, le=1)]
