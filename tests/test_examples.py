"""The recipes in examples/ and the built-in one are recipes."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.prune.budget import budget_of
from toolkit.prune.methods import check_quantity
from toolkit.resolve import resolve

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", [*sorted((ROOT / "examples").glob("*.yaml")), ROOT / "toolkit" / "default.yaml"])
def test_an_example_is_a_recipe(file: Path, tmp_path: Path) -> None:
    recipe = resolve(file, tmp_path / "run", {}).recipe
    assert recipe.train.epochs > 0
    check_quantity(recipe.prune.method, budget_of(recipe.prune))
    assert budget_of(recipe.prune).fraction == 0.5
