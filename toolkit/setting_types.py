"""Pydantic types of settings: accepted notations and validation."""

from __future__ import annotations

import re
from math import isfinite
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from toolkit.preprocessing import by_channel, not_zero
from toolkit.records import Setting


def _listed(value: object) -> object:
    """Split "1,8" and wrap a single number: both are accepted for lists."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


def _one_value(value: object) -> object:
    """Accept a number, a text, true, false or null."""
    if not isinstance(value, int | float | str | None) or (isinstance(value, float) and not isfinite(value)):
        raise ValueError("it should be one number, a text, true, false or null (images and patches are square)")
    return value


def _architectures(value: str) -> str:
    if not re.fullmatch(r"sm_\d+(,sm_\d+)*", value):
        raise ValueError("it should be sm_ and a number, or several such as sm_86,sm_89")
    return value


class Conflict(ValueError):
    """Conflicting settings of one section: `settings` by name, the `message` about them, and a `hint`."""

    def __init__(self, settings: dict[str, Any], message: str, hint: str) -> None:
        super().__init__(message)
        self.settings, self.hint = settings, hint


Items = TypeVar("Items", bound=tuple[Any, ...])


def _not_empty(values: Items) -> Items:
    if not values:
        raise ValueError("it should name at least one")
    return values


def _ascending(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if len(sizes) not in (0, 1, 3) or list(sizes) != sorted(sizes):
        raise ValueError("it should be one number, or three in ascending order: minimum, typical, maximum")
    return sizes


Listed = BeforeValidator(_listed)
Some = AfterValidator(_not_empty)
Ascending = AfterValidator(_ascending)
Architectures = Annotated[str, AfterValidator(_architectures)]
Mean = Annotated[tuple[float, ...] | None, Listed, AfterValidator(by_channel)]
Std = Annotated[tuple[float, ...] | None, Listed, AfterValidator(by_channel), AfterValidator(not_zero)]
Argument = Annotated[Setting, PlainValidator(_one_value)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
