"""Names of settings: renamed ones, and candidates for misspelt ones."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, TypeAlias

from toolkit.recipe import Recipe
from toolkit.section import PluginSection, Section

Values: TypeAlias = dict[str, Any]
"""A recipe as read, not validated: sections of settings."""

FORMER_NAMES = {
    "export.target": "export.gpus",
    "prune.oneshot.finalists": "prune.finalists",
    "prune.oneshot.aggregate": "prune.aggregate",
    "prune.ridge.aggregate": "prune.aggregate",
    "prune.obs.aggregate": "prune.aggregate",
}
"""Later names of renamed settings."""


def section_type(name: str) -> type[Section]:
    """Type of a section of the recipe; Section if there is none of this name."""
    field = Recipe.model_fields.get(name)
    return type(field.default) if field and isinstance(field.default, Section) else Section


def current_names(name: str) -> list[str]:
    """Current names for a dotted name of an earlier version; for a setting that all plug-ins had in common, one for
    each plug-in that has it. The name itself if it never changed."""
    name = FORMER_NAMES.get(name, name)
    section, _, setting = name.partition(".")
    kind = section_type(section)
    if not issubclass(kind, PluginSection) or setting in kind.model_fields or "." in setting:
        return [name]
    if setting in kind.plugin_names():
        return [name]
    return [f"{section}.{plugin}.{setting}" for plugin in kind.plugins_with(setting)] or [name]


def with_current_names(values: Values) -> Values:
    """The recipe of an earlier version with the current names."""
    result: Values = {}
    for section, settings in copy.deepcopy(values).items():
        if not isinstance(settings, dict):
            result[section] = settings
            continue
        for setting, value in settings.items():
            for name in current_names(f"{section}.{setting}"):
                *parents, last = name.split(".")
                if value is not None or len(parents) == 1:
                    place = result
                    for parent in parents:
                        place = place.setdefault(parent, {})
                    place.setdefault(last, value)
    return result


def known_names(path: Sequence[str]) -> list[str]:
    """Names of the settings next to this one, and of plug-ins that may have a section there."""
    if len(path) == 1:
        return list(Recipe.model_fields)
    kind = section_type(path[0])
    if issubclass(kind, PluginSection) and len(path) > 2:
        return list(kind.settings_of(path[1]).model_fields)
    return [*kind.model_fields, *(sorted(kind.plugin_names()) if issubclass(kind, PluginSection) else ())]


def plugin_packages() -> list[str]:
    """Packages of all plug-ins that the recipe may name, in its order."""
    kinds = [section_type(section) for section in Recipe.model_fields]
    marks = [mark for kind in kinds if issubclass(kind, PluginSection) for mark in kind.kinds().values()]
    return list(dict.fromkeys(mark.package for mark in marks))
