"""What a user asks for: a share of units to remove, or a share of MACs or parameters to leave."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from toolkit import recipe
from toolkit.errors import RecipeError, suggestion
from toolkit.models.profile import Cost

Quantity: TypeAlias = Literal["ratio", "macs", "params"]
TOLERANCE = 0.01
"""MACs and parameters are met within this share of the budget, from below."""


@dataclass(frozen=True)
class Budget:
    """`ratio=0.5` removes half of the units; `macs=0.5` and `params=0.5` leave half of the dense model's."""

    quantity: Quantity
    share: float

    def __str__(self) -> str:
        return f"{self.quantity}={self.share:g}"

    def left(self, cost: Cost, dense: Cost) -> float:
        """Share of the quantity that is left at `cost`."""
        if self.quantity == "macs":
            return cost.macs / dense.macs
        return cost.parameters / dense.parameters


def budget_of(settings: recipe.Prune) -> Budget:
    """The budget of a recipe; half of the MACs where it names none."""
    if settings.ratio is not None:
        return Budget("ratio", settings.ratio)
    quantity, _, share = (settings.budget or "macs=0.5").partition("=")
    kinds = [kind for kind in get_args(Quantity) if kind != "ratio"]
    if quantity not in kinds:
        raise RecipeError(f"unknown budget {quantity!r} in prune.budget", suggestion(quantity, kinds))
    try:
        number = float(share)
    except ValueError:
        number = 0.0
    if not 0 < number < 1:
        raise RecipeError(
            f"prune.budget {settings.budget!r} needs a share between 0 and 1", f"for example {quantity}=0.5"
        )
    return Budget(cast(Quantity, quantity), number)
