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
            plain = [line.strip().removeprefix("# ") for line in lines]
            number = next(index for index, line in enumerate(plain) if line.startswith(f"{setting}:"))
            assert lines[number - 1].strip().startswith("# "), setting


def test_lines_are_short() -> None:
    assert max(map(len, commented().splitlines())) <= 120


def test_defaults_that_depend_on_a_plugin_are_not_fixed() -> None:
    values = yaml.safe_load(commented())
    values["finetune"]["objective"] = "matching"
    settings = Recipe.model_validate(values).finetune
    assert (settings.learning_rate, settings.schedule, settings.crop_scale) == (5e-5, "poly", 0.2)
    assert settings.color_jitter == Recipe().finetune.color_jitter
    values["finetune"]["learning_rate"] = 1e-4
    assert Recipe.model_validate(values).finetune.learning_rate == 1e-4
