"""The file that `toolkit init` writes."""

from __future__ import annotations

import yaml

from toolkit.recipe import Recipe
from toolkit.section import Section
from toolkit.template import commented


def test_the_template_parses_to_the_defaults() -> None:
    assert Recipe.model_validate(yaml.safe_load(commented())) == Recipe()


def test_every_setting_follows_its_help() -> None:
    lines = commented().splitlines()
    for name, field in Recipe.model_fields.items():
        settings = type(field.default).model_fields if isinstance(field.default, Section) else {name: field}
        for setting in settings:
            number = next(index for index, line in enumerate(lines) if line.strip().startswith(f"{setting}:"))
            assert lines[number - 1].strip().startswith("# "), setting


def test_lines_are_short() -> None:
    assert max(map(len, commented().splitlines())) <= 120
