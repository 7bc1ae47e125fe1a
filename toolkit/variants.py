"""Variants of a pruning: combinations of the values that `--compare KEY=VALUE,VALUE` gives to settings of `prune`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeAlias, get_origin

from pydantic.fields import FieldInfo

from toolkit import hashing, plugins, recipe, yaml_file
from toolkit.errors import RecipeError, UnknownName
from toolkit.resolve import Flags, Resolved
from toolkit.section import settings_type

SECTION = "prune"
FLAG = "--compare"
EXAMPLE = f"for example {FLAG} method=grouped,oneshot"
LONGEST_NAME = 100
"""In characters; file systems allow 255 bytes."""

Resolve: TypeAlias = Callable[[Flags, Mapping[str, str]], Resolved]
"""The settings of the command with these flags as well; the mapping says how each was written."""


class Value(NamedTuple):
    """A value of a compared setting."""

    text: str
    """As written."""
    value: Any


@dataclass(frozen=True)
class Variant:
    """One of the prunings that are compared."""

    name: str
    """Name of its result: "method-oneshot,steps-2"."""
    settings: Mapping[str, str]
    """The compared settings, as written: {"method": "oneshot", "steps": "2"}."""
    resolved: Resolved

    @property
    def prune(self) -> recipe.Prune:
        """All its settings."""
        return self.resolved.recipe.prune


def variants_of(words: Sequence[str], origins: Mapping[str, str], resolve: Resolve) -> tuple[Variant, ...]:
    """The variants that the values of `--compare` ask for: the product of several.

    `origins` are the settings on the command line and their flags. Raises UnknownName for a setting that `prune` does
    not have, RecipeError for a value that it cannot have, and for what cannot be read.
    """
    compared: dict[str, list[Value]] = {}
    for word in words:
        key, values = _parsed(word)
        if key in compared:
            raise RecipeError(f"{FLAG} {key} is given twice", f"name all of its values at once: {FLAG} {key}=A,B")
        if flag := origins.get(f"{SECTION}.{key}"):
            raise RecipeError(f"{SECTION}.{key} is set by {flag} and by {FLAG} {key}", "leave one of them out")
        compared[key] = values
    written = {f"{SECTION}.{key}": f"{FLAG} {key}" for key in compared}
    variants = []
    for chosen in itertools.product(*compared.values()):
        settings = {key: each.text for key, each in zip(compared, chosen, strict=True)}
        flags = {f"{SECTION}.{key}": each.value for key, each in zip(compared, chosen, strict=True)}
        variants.append(Variant(name_of(settings), settings, resolve(flags, written)))
    if "method" not in compared and len(methods := sorted({variant.prune.method for variant in variants})) > 1:
        raise RecipeError(
            f"the values of {FLAG} {', '.join(compared)} choose different methods: {', '.join(methods)}",
            f"--method {methods[0]}",
        )
    return tuple(variants)


def name_of(settings: Mapping[str, str]) -> str:
    """A folder's name for these settings; names of different settings differ."""
    text = ",".join(f"{key}-{value}" for key, value in settings.items())
    safe = re.sub(r"[^A-Za-z0-9.,_=+-]", "-", text)[:LONGEST_NAME]
    return safe if safe == text else f"{safe}-{hashing.digest(dict(settings))[:8]}"


def _parsed(word: str) -> tuple[str, list[Value]]:
    """ "steps=1,2" -> ("steps", [1, 2]); values are read as YAML, lists are written with a plus: "axes=head+mlp"."""
    written, equals, text = word.partition("=")
    if not equals or not written:
        raise RecipeError(f"{FLAG} {word!r} does not have the form KEY=VALUE,VALUE", EXAMPLE)
    key, field = _setting(written)
    texts = [part.strip() for part in text.split(",")]
    if not any(texts):
        raise RecipeError(f"{FLAG} {word!r} names no values", EXAMPLE)
    if "" in texts:
        raise RecipeError(f"{FLAG} {word!r} has an empty value", f"{FLAG} {key}={','.join(filter(None, texts))}")
    values = [Value(each, _value(each, key, field)) for each in texts]
    for one, other in itertools.combinations(values, 2):
        if repr(one.value) == repr(other.value):
            raise RecipeError(f"{FLAG} {key} has the value {other.text!r} twice", "keep one of them")
    return key, values


def _value(text: str, key: str, field: FieldInfo) -> Any:
    if get_origin(field.annotation) is tuple:
        return text.replace("+", ",")
    return yaml_file.parse(text, f"the value {text!r} of {FLAG} {key}")


def _setting(written: str) -> tuple[str, FieldInfo]:
    """Name and field of a setting of `prune` or of one of its plug-ins, written as in the recipe or as a flag is:
    "round_to", "prune.round_to", "round-to", "optin.tau"."""
    plugin, dot, last = written.removeprefix(f"{SECTION}.").rpartition(".")
    key, fields = f"{plugin}{dot}{last.replace('-', '_')}", recipe.Prune.model_fields
    if key in fields:
        return key, fields[key]
    known = dict(_settings_of_plugins())
    if key not in known:
        owners = get_close_matches(plugin, {name.partition(".")[0] for name in known}, cutoff=0.75)
        near = [name for name in known if name.partition(".")[0] in owners]
        raise UnknownName(f"setting of {SECTION}", written, near or fields)
    return key, known[key]


def _settings_of_plugins() -> Iterator[tuple[str, FieldInfo]]:
    """Settings of the plug-ins that `prune` may name: "optin.tau"."""
    for mark in recipe.Prune.kinds().values():
        for name, plugin in plugins.importable(mark.package):
            if kind := settings_type(plugin):
                yield from ((f"{name}.{setting}", field) for setting, field in kind.model_fields.items())
