"""Sections of settings, including the settings of plug-ins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, create_model, field_validator, model_validator

from toolkit import plugins
from toolkit.errors import PluginError


class Section(BaseModel):
    """Immutable settings that reject unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _reject_booleans(cls, value: object, info: ValidationInfo) -> object:
        """Reject `epochs: yes`, which pydantic would read as 1."""
        if isinstance(value, bool) and cls.model_fields[str(info.field_name)].annotation is not bool:
            raise ValueError("it should not be true or false, nor yes, no, on or off without quotes")
        return value


@dataclass(frozen=True)
class FlagName:
    """Marks a setting whose flag has another name."""

    name: str


@dataclass(frozen=True)
class PluginsOf:
    """Marks a setting that names plug-ins of a package."""

    package: str
    flags: bool = False
    """The plug-ins and their settings are flags of the command; they can be imported without torch."""


class PluginSection(Section):
    """Settings that name plug-ins, and these plug-ins' own settings by the plug-in's name.

        prune: {method: p3b, p3b: {floor: 0.4}}

    Settings of plug-ins that are not chosen are validated and kept.
    """

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _validate_plugins(cls, values: object) -> object:
        """Validate every key that is not a field as settings of a plug-in."""
        if not isinstance(values, dict):
            return values
        values = cls._defaults_of_plugins(values) | values
        others = {name: value for name, value in values.items() if name not in cls.model_fields}
        if not others:
            return values
        types = {name: cls.settings_of(name) for name in others if name in cls.plugin_names()}
        fields: dict[str, Any] = {f"plugin{i}": (types[name], Field(alias=name)) for i, name in enumerate(types)}
        validated = create_model("Plugins", __base__=Section, **fields).model_validate(others)
        return values | dict(zip(types, dict(validated).values(), strict=True))

    @classmethod
    def _defaults_of_plugins(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Defaults that the plug-ins named in `values` bring for other settings of the section (`plugins.defaults_of`).
        Plug-ins that are chosen by default bring none, and are not imported."""
        defaults: dict[str, Any] = {}
        for setting, mark in cls.kinds().items():
            name = values.get(setting)
            known = isinstance(name, str) and name in plugins.names(mark.package)
            if known and name != cls.model_fields[setting].default:
                defaults |= plugins.defaults_of(plugins.find(mark.package, str(name)))
        return {name: value for name, value in defaults.items() if name in cls.model_fields}

    @classmethod
    def with_other_defaults(cls) -> set[str]:
        """Settings whose default depends on a plug-in."""
        found = [plugin for mark in cls.kinds().values() for _, plugin in plugins.importable(mark.package)]
        return {name for plugin in found for name in plugins.defaults_of(plugin)} & {*cls.model_fields}

    @classmethod
    def kinds(cls) -> dict[str, PluginsOf]:
        """The settings that name plug-ins."""
        marks = ((name, mark) for name, field in cls.model_fields.items() for mark in field.metadata)
        return {name: mark for name, mark in marks if isinstance(mark, PluginsOf)}

    @classmethod
    def plugin_names(cls) -> set[str]:
        """Names of all plug-ins that the section may name."""
        return {name for mark in cls.kinds().values() for name in plugins.names(mark.package)}

    @classmethod
    def settings_of(cls, name: str) -> type[Section]:
        """Type of the settings of the plug-in called `name`. PluginError if two plug-ins of this name, of different
        kinds, have settings."""
        packages = [mark.package for mark in cls.kinds().values() if name in plugins.names(mark.package)]
        types = {package: kind for package in packages if (kind := settings_type(plugins.find(package, name)))}
        if len(types) > 1:
            kinds = " and a ".join(plugins.kind_of(package) for package in types)
            raise PluginError(f"{name!r} is the name of a {kinds}, and both have settings", "rename one of them")
        return next(iter(types.values()), Section)

    @classmethod
    def plugins_with(cls, setting: str) -> list[str]:
        """Sorted names of the plug-ins that have a setting of this name."""
        found = [pair for mark in cls.kinds().values() for pair in plugins.importable(mark.package)]
        types = {name: kind for name, plugin in found if (kind := settings_type(plugin))}
        return sorted(name for name, kind in types.items() if setting in kind.model_fields)

    def own(self, plugin: str) -> Section | None:
        """Settings of this plug-in in the recipe; None: its defaults."""
        settings: Section | None = (self.model_extra or {}).get(plugin)
        return settings

    def chosen(self) -> dict[str, Section]:
        """The settings of the plug-ins that this section names, as far as they have any."""
        result = {}
        for package, name in self._named():
            settings = default_settings(plugins.find(package, name))
            if settings is not None and name in type(self).model_fields:
                raise PluginError(
                    f"{plugins.kind_of(package)} {name!r} has the name of another setting of its section", "rename it"
                )
            if settings is not None:
                result[name] = self.own(name) or settings
        return result

    def needs(self) -> tuple[str, ...]:
        """Packages needed by the plug-ins that this section names, by module name."""
        return tuple(need for package, name in self._named() for need in plugins.needs_of(plugins.find(package, name)))

    def _named(self) -> Iterator[tuple[str, str]]:
        """Package and name of every plug-in that this section names."""
        for setting, mark in self.kinds().items():
            value = getattr(self, setting)
            for name in value if isinstance(value, tuple) else (value,) if value else ():
                yield mark.package, name


def default_settings(plugin: Any) -> Section | None:
    """The settings that a plug-in has without a recipe; None if it has none."""
    settings: Section | None = getattr(plugin, "settings", None)
    return settings


def settings_type(plugin: Any) -> type[Section] | None:
    """Type of a plug-in's settings; None if it has none."""
    settings = default_settings(plugin)
    return None if settings is None else type(settings)
