"""Base model and field types of the tables of config.toml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    ValidationInfo,
)

from milepost.journal.retention.field_kinds import is_zone

if TYPE_CHECKING:
    from collections.abc import Callable

# The validation context for values from a file or a variable.
AS_WRITTEN = {"as_written": True}


def quantity(
    parse: Callable[[str], float], at_least: str, at_most: str
) -> BeforeValidator:
    """Return a validator for text with a unit, between `at_least` and `at_most`.

    In a file and in the environment a bare number is refused, because its unit is not
    visible.  In Python numbers are accepted: the field's name contains the unit.
    """
    low, high = parse(at_least), parse(at_most)

    def check(value: object, info: ValidationInfo) -> object:
        is_number = isinstance(value, (int, float))
        if isinstance(value, str) or (is_number and info.context == AS_WRITTEN):
            value = parse(str(value))
        if isinstance(value, (int, float)) and not low <= value <= high:
            raise ValueError(f"expected {at_least} to {at_most}")
        return value

    return BeforeValidator(check)


def _zone(name: str) -> str:
    if not is_zone(name):
        raise ValueError('expected a time zone such as "Europe/Berlin"')
    return name


Zone = Annotated[str, AfterValidator(_zone)]


class Table(BaseModel):
    """One table of config.toml: frozen; an unknown key is an error."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )
