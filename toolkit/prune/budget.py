"""Pruning budgets: a fraction of the units to remove, or of the MACs or parameters to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from toolkit import recipe
from toolkit.errors import RecipeError, suggestion
from toolkit.models.profile import Cost

Quantity: TypeAlias = Literal["ratio", "macs", "params"]
TOLERANCE = 0.01
"""Relative tolerance of MACs and parameters budgets, from below."""


@dataclass(frozen=True)
class Budget:
    """`ratio=0.5` removes half of the units; `macs=0.5` and `params=0.5` keep half of the dense model's."""

    quantity: Quantity
    fraction: float

    def __str__(self) -> str:
        return f"{self.quantity}={self.fraction:g}"

    def remaining(self, cost: Cost, dense: Cost) -> float:
        """Remaining fraction of the dense model's MACs or parameters at `cost`."""
        if self.quantity == "macs":
            return cost.macs / dense.macs
        return cost.parameters / dense.parameters


def budget_of(settings: recipe.Prune) -> Budget:
    """The budget of a recipe; default: half of the MACs."""
    if settings.ratio is not None:
        return Budget("ratio", settings.ratio)
    quantity, _, text = (settings.budget or "macs=0.5").partition("=")
    kinds = [kind for kind in get_args(Quantity) if kind != "ratio"]
    if quantity not in kinds:
        raise RecipeError(f"unknown budget {quantity!r} in prune.budget", suggestion(quantity, kinds))
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < 1:
        raise RecipeError(
            f"prune.budget {settings.budget!r} needs a fraction between 0 and 1", f"for example {quantity}=0.5"
        )
    return Budget(cast(Quantity, quantity), fraction)
