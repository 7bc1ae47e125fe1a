"""Flags of the command line, from the recipe and from plug-ins: one per setting, with its docstring as help.

A flag of plug-ins applies to every plug-in that has a setting of its name.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from toolkit import plugins
from toolkit.resolve import Flags
from toolkit.section import FlagName, PluginSection, PluginsOf, settings_type
from toolkit.setting_names import section_type

NO_FLAG = ("model.args", "export.targets")
"""Settings without a flag of their own."""
RESERVED = (
    "run", "recipe", "set", "seed", "json", "dry-run", "force", "forget", "verbose", "quiet", "help",
    "until", "allow-invalid", "target", "compare", "no-latency",
)  # fmt: skip
"""Flags that are not settings."""
OWN_SECTIONS = {
    "train": ("model", "data", "train"),
    "prune": ("model", "data", "prune"),
    "run": ("model", "data"),
    "report": (),
}
"""Recipe sections whose settings are flags of a command, by command; default: the section of the same name."""


def sections_of(command: str) -> tuple[str, ...]:
    """Recipe sections whose settings are flags of a command."""
    return OWN_SECTIONS.get(command, (command,))


@dataclass(frozen=True)
class SettingFlag:
    """A flag and the settings that it sets."""

    name: str
    """Without dashes in front: "batch-size"."""
    settings: tuple[str, ...]
    """Dotted names of the settings; several if plug-ins share the flag."""
    field: FieldInfo
    panel: str
    """Heading in the help."""

    @property
    def parameter(self) -> str:
        """Name of the Typer parameter."""
        return parameter_of(self.name)


def flags_in(values: Mapping[str, Any], sections: Sequence[str]) -> tuple[Flags, dict[str, str]]:
    """Settings on the command line by dotted name, and the flag of each."""
    flags: Flags = {}
    origins: dict[str, str] = {}
    for flag in setting_flags(sections):
        if (value := values.get(flag.parameter)) is not None:
            flags |= dict.fromkeys(flag.settings, value)
            origins |= dict.fromkeys(flag.settings, f"--{flag.name}")
    for setting, plugins_by_flag in switches_of(sections).items():
        if chosen := [flag for flag in plugins_by_flag if values.get(parameter_of(flag))]:
            flags[setting] = [plugins_by_flag[flag][0] for flag in chosen]
            origins[setting] = " ".join(f"--{flag}" for flag in chosen)
    return flags, origins


def parameter_of(flag: str) -> str:
    """Name of the Typer parameter of a flag."""
    return flag.replace("-", "_")


def setting_flags(sections: Sequence[str]) -> list[SettingFlag]:
    """The flags of these sections' settings, then of their plug-ins'. A plug-in's setting whose flag name is taken has
    no flag; --set sets it."""
    flags = {_flag_name(name, field): SettingFlag(_flag_name(name, field), (name,), field, _panel(name))
             for name, field in fields(sections)}  # fmt: skip
    taken = {*flags, *RESERVED}
    shared: dict[str, list[tuple[str, FieldInfo]]] = {}
    for name, field in _plugin_fields(sections):
        shared.setdefault(_flag_name(name, field), []).append((name, field))
    for flag, settings in shared.items():
        if flag not in taken:
            names = [name for name, _ in settings]
            owners = ", ".join(name.split(".")[1] for name in names)
            flags[flag] = SettingFlag(flag, tuple(names), settings[0][1], f"Settings of {owners}")
    return list(flags.values())


def fields(sections: Sequence[str]) -> list[tuple[str, FieldInfo]]:
    """Settings of these sections that have a flag, by dotted name; without those of plug-ins."""
    settings = [
        (f"{section}.{name}", field)
        for section in sections
        for name, field in section_type(section).model_fields.items()
    ]
    return [(name, field) for name, field in settings if name not in NO_FLAG]


def switches_of(
    sections: Sequence[str], tell: Callable[[str], None] = plugins.ignore
) -> dict[str, dict[str, tuple[str, Any]]]:
    """Settings with a flag for each of their plug-ins: name and plug-in, by flag, by dotted setting.

    `tell` is called with a message about each plug-in that cannot be imported, and so has no flag.
    """
    return {
        f"{section}.{setting}": {plugin.flag: (name, plugin) for name, plugin in plugins.importable(mark.package, tell)}
        for section, setting, mark in _kinds(sections)
        if mark.flags
    }


def settings_help(sections: Sequence[str], words: Sequence[str]) -> str:
    """Help for the settings of the plug-ins that these words of a command line choose, such as --method p3b."""
    paragraphs = []
    for section, setting, mark in _kinds(sections):
        flag = f"--{setting.replace('_', '-')}"
        following = [after for word, after in itertools.pairwise(words) if word == flag]
        for name in following + [word.partition("=")[2] for word in words if word.startswith(f"{flag}=")]:
            kind = settings_type(plugins.find(mark.package, name))
            heading = f"Settings of {plugins.kind_of(mark.package)} {name}"
            if kind is None:
                paragraphs.append(f"{heading}: none.")
                continue
            paragraphs.append(f"{heading} (--set {section}.{name}.SETTING=VALUE):")
            paragraphs += [
                f"  {setting}: {help_text(field)} (default: {default_text(field)})"
                for setting, field in kind.model_fields.items()
            ]
            if defaults := plugins.defaults_of(plugins.find(mark.package, name)):
                others = ", ".join(f"{setting} {value}" for setting, value in defaults.items())
                paragraphs.append(f"With {name}, the defaults of other settings are: {others}.")
    return "\n\n".join(paragraphs)


def _kinds(sections: Sequence[str]) -> Iterator[tuple[str, str, PluginsOf]]:
    """Section, setting and mark of every setting that names plug-ins."""
    for section in sections:
        kind = section_type(section)
        if issubclass(kind, PluginSection):
            for setting, mark in kind.kinds().items():
                yield section, setting, mark


def _plugin_fields(sections: Sequence[str]) -> Iterator[tuple[str, FieldInfo]]:
    """Settings of plug-ins that are flags, by dotted name."""
    for section, _, mark in _kinds(sections):
        for name, plugin in plugins.importable(mark.package) if mark.flags else ():
            if kind := settings_type(plugin):
                for setting, field in kind.model_fields.items():
                    yield f"{section}.{name}.{setting}", field


def _flag_name(name: str, field: FieldInfo) -> str:
    """The flag of a setting: "prune.round_to" is --round-to."""
    own = next((mark.name for mark in field.metadata if isinstance(mark, FlagName)), name.rpartition(".")[2])
    return own.replace("_", "-")


def _panel(name: str) -> str:
    return "Model and data" if name.startswith(("model.", "data.")) else "Stage"


def default_text(field: FieldInfo) -> str:
    """Default of a setting as it is written on the command line."""
    return ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)


def help_text(field: FieldInfo) -> str:
    """Help text of a setting, with its choices or the names of the plug-ins that it selects."""
    choices = list(get_args(field.annotation)) if get_origin(field.annotation) is Literal else []
    for mark in field.metadata:
        choices = plugins.names(mark.package) if isinstance(mark, PluginsOf) else choices
    text = field.description or ""
    return f"{text} One of: {', '.join(choices)}." if choices else text
