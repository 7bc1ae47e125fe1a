"""The commented toolkit.yaml that `toolkit init` writes: all settings with help and defaults.

Commented out are settings of plug-ins, and those that choose a plug-in or depend on one.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

import yaml

from toolkit import plugins
from toolkit.recipe import Recipe
from toolkit.section import PluginSection, Section, default_settings
from toolkit.setting_flags import help_text

HEADER = "# Settings of a run. Delete what you do not change; `toolkit run` reads this file.\n"


def commented() -> str:
    """The recipe's defaults as YAML, with a comment above each setting."""
    parts = [HEADER]
    for name, field in Recipe.model_fields.items():
        if isinstance(field.default, Section):
            parts.append(f"\n{name}:\n{textwrap.indent(_settings(field.default), '  ')}")
            if isinstance(field.default, PluginSection):
                parts += [textwrap.indent(text, "  # ") for text in _of_plugins(field.default)]
        else:
            parts.append(_setting(name, field.default, help_text(field)))
    return "".join(parts)


def _settings(section: Section) -> str:
    """Settings at their defaults; those that choose a plug-in, or depend on one, are commented out."""
    fields, kind = type(section).model_fields, type(section)
    dependent = kind.with_other_defaults() if issubclass(kind, PluginSection) else set()
    parts = []
    for name, field in fields.items():
        text = _setting(name, getattr(section, name), help_text(field))
        parts.append(textwrap.indent(text, "# ", lambda line: not line.startswith("#")) if name in dependent else text)
    return "".join(parts)


def _of_plugins(section: PluginSection) -> Iterator[str]:
    """Settings of every plug-in that the section may name, plug-in by plug-in."""
    for mark in section.kinds().values():
        for name, plugin in plugins.importable(mark.package):
            if settings := default_settings(plugin):
                kind = plugins.kind_of(mark.package)
                yield f"Settings of {kind} {name}:\n{name}:\n{textwrap.indent(_settings(settings), '  ')}"


def _setting(name: str, value: object, help_: str) -> str:
    comment = textwrap.fill(help_, width=100, initial_indent="# ", subsequent_indent="# ")
    plain = list(value) if isinstance(value, tuple) else value
    return f"{comment}\n{yaml.safe_dump({name: plain}, default_flow_style=False)}"
