"""The commented toolkit.yaml that `toolkit init` writes: all settings with help and defaults."""

from __future__ import annotations

import textwrap

import yaml

from toolkit.recipe import Recipe, Section

HEADER = "# Settings of a run. Delete what you do not change; `toolkit run` reads this file.\n"


def commented() -> str:
    """The recipe's defaults as YAML, with a comment above each setting."""
    parts = [HEADER]
    for name, field in Recipe.model_fields.items():
        if isinstance(field.default, Section):
            parts.append(f"\n{name}:\n{textwrap.indent(_settings(field.default), '  ')}")
        else:
            parts.append(_setting(name, field.default, field.description))
    return "".join(parts)


def _settings(section: Section) -> str:
    fields = type(section).model_fields
    return "".join(_setting(name, getattr(section, name), field.description) for name, field in fields.items())


def _setting(name: str, value: object, help_: str | None) -> str:
    comment = textwrap.fill(help_ or "", width=100, initial_indent="# ", subsequent_indent="# ")
    plain = list(value) if isinstance(value, tuple) else value
    return f"{comment}\n{yaml.safe_dump({name: plain}, default_flow_style=False)}"
