"""Kinds of settings that plain types do not say: how they are written, and what they accept."""

from __future__ import annotations

import re
from math import isfinite
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from toolkit.preprocessing import by_channel, not_zero
from toolkit.records import Setting


def _listed(value: object) -> object:
    """ "1,8" and 8 stand for lists, on a command line and in a file."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else value


def _one_value(value: object) -> object:
    """A number, a text, true, false or null."""
    if not isinstance(value, int | float | str | None) or (isinstance(value, float) and not isfinite(value)):
        raise ValueError("it should be one number or text, true, false or null; images and patches are square")
    return value


def _architectures(value: str) -> str:
    if not re.fullmatch(r"sm_\d+(,sm_\d+)*", value):
        raise ValueError("it should be sm_ and a number, or several, as in sm_86,sm_89")
    return value


class Conflict(ValueError):
    """Settings of one section that do not go together: `settings`, by name; `said` of them; `hint`: what to do."""

    def __init__(self, settings: dict[str, Any], said: str, hint: str) -> None:
        super().__init__(said)
        self.settings, self.hint = settings, hint


Items = TypeVar("Items", bound=tuple[Any, ...])


def _some(values: Items) -> Items:
    if not values:
        raise ValueError("it should name at least one")
    return values


def _ascending(sizes: tuple[int, ...]) -> tuple[int, ...]:
    if len(sizes) not in (0, 1, 3) or list(sizes) != sorted(sizes):
        raise ValueError("it should be one number, or three that ascend: the least, the usual, the largest")
    return sizes


Listed = BeforeValidator(_listed)
Some = AfterValidator(_some)
Ascending = AfterValidator(_ascending)
Architectures = Annotated[str, AfterValidator(_architectures)]
Mean = Annotated[tuple[float, ...] | None, Listed, AfterValidator(by_channel)]
Std = Annotated[tuple[float, ...] | None, Listed, AfterValidator(by_channel), AfterValidator(not_zero)]
Argument = Annotated[Setting, PlainValidator(_one_value)]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]
