"""The settings themselves: defaults, bounds, and that every one is explained."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from toolkit import resolve
from toolkit.prune.methods.oneshot import DEFAULTS
from toolkit.recipe import Prune, Recipe
from toolkit.section import Section


def test_every_setting_has_a_help_text() -> None:
    sections = [field.default for field in Recipe.model_fields.values() if isinstance(field.default, Section)]
    missing = [
        f"{type(section).__name__}.{name}"
        for section in sections
        for name, field in type(section).model_fields.items()
        if not field.description
    ]
    assert missing == []


def test_settings_cannot_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Recipe().seed = 3


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": -1},
        {"prune": {"ratio": 0.0}},
        {"prune": {"ratio": 1.0}},
        {"prune": {"ratio": 0.5, "budget": "macs=0.5"}},
        {"prune": {"axes": []}},
        {"data": {"validation_share": 1.0}},
        {"bench": {"samples": 1}},
        {"bench": {"batch_size": [0]}},
        {"export": {"precision": "fp8"}},
        {"export": {"batch_size": [8, 1, 64]}},
        {"export": {"batch_size": [1, 8]}},
        {"finetune": {"distill_weight": 1.5}},
        {"train": {"unknown": 1}},
    ],
)
def test_what_has_no_meaning_is_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(settings)


@pytest.mark.parametrize("sizes", [[1, 8], "1,8", "1, 8", ["1", "8"]])
def test_a_list_may_be_written_with_commas(sizes: object) -> None:
    assert Recipe.model_validate({"bench": {"batch_size": sizes}}).bench.batch_size == (1, 8)
    assert Recipe.model_validate({"bench": {"batch_size": 8}, "prune": {"axes": "mlp"}}).bench.batch_size == (8,)


def test_sections_do_not_share_state() -> None:
    assert Prune(axes=("mlp",)).axes == ("mlp",)
    assert Recipe().prune.axes == ("qk", "v", "mlp")
    assert Recipe.model_validate({"model": {"args": {"depth": 2}}}).model.args == {"depth": 2}
    assert Recipe().model.args == {}


@pytest.mark.parametrize(
    ("values", "method", "axes"),
    [
        ({}, "oneshot", ("qk", "v", "mlp")),
        ({"axes": "mlp, v", "compensation": "obs"}, "oneshot", ("mlp", "v")),
        ({"ratio": 0.5}, "grouped", ("head", "mlp")),
        ({"criterion": "lamp", "axes": ["qk"]}, "grouped", ("qk",)),
        ({"scope": "local", "budget": "macs=0.5"}, "grouped", ("head", "mlp")),
        ({"steps": 2}, "grouped", ("head", "mlp")),
        ({"axes": "mlp, embed"}, "grouped", ("mlp", "embed")),
        ({"axes": ("block",)}, "grouped", ("block",)),
        ({"method": "oneshot", "criterion": "lamp"}, "oneshot", ("qk", "v", "mlp")),
        ({"method": "optin"}, "optin", ("head", "mlp")),
    ],
)
def test_the_method_is_chosen_by_settings(values: dict[str, object], method: str, axes: tuple[str, ...]) -> None:
    prune = resolve.recipe_of({"prune": values}).prune
    assert (prune.method, prune.axes) == (method, axes)
    repairs = ("svd", values.get("compensation", "sequential")) if method == "oneshot" else ("none", "none")
    assert (prune.basis, prune.compensation) == repairs


def test_the_default_method_has_the_defaults_of_the_section() -> None:
    """A method that is chosen by default brings none of its own."""
    assert Recipe().prune.method == "oneshot"
    assert all(getattr(Recipe().prune, name) == value for name, value in DEFAULTS.items())
