"""Pruning budgets: a fraction of the units to remove, or of the MACs, parameters or latency to keep."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast, get_args

from toolkit import recipe
from toolkit.errors import RecipeError, suggestion
from toolkit.models.profile import Cost

Quantity: TypeAlias = Literal["ratio", "macs", "params", "latency"]
TOLERANCE = 0.01
"""Relative tolerance of MACs and parameters budgets, from below."""
UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}
"""Units of a latency in milliseconds."""
LATENCY_RANGE_MS = (1e-3, 6e5)
"""Latencies outside of this range, a microsecond to ten minutes, are typing errors."""


@dataclass(frozen=True)
class Budget:
    """`ratio=0.5` removes half of the units; `macs=0.5`, `params=0.5` and `latency=0.5` keep half of the dense model's;
    `latency=4ms` is a latency."""

    quantity: Quantity
    fraction: float = math.nan
    """NaN for a latency in milliseconds."""
    milliseconds: float | None = None

    def __str__(self) -> str:
        if self.milliseconds is not None:
            return f"{self.quantity}={self.milliseconds:g}ms"
        return f"{self.quantity}={self.fraction:g}"

    def remaining(self, cost: Cost, dense: Cost) -> float:
        """Remaining fraction of the dense model's MACs or parameters at `cost`."""
        if self.quantity == "macs":
            return cost.macs / dense.macs
        return cost.parameters / dense.parameters

    def limit(self, dense: float) -> float:
        """The largest cost within the budget, if the dense model costs `dense` MACs, parameters or milliseconds."""
        return self.fraction * dense if self.milliseconds is None else self.milliseconds


def budget_of(settings: recipe.Prune) -> Budget:
    """The budget of a recipe; default: half of the MACs."""
    if settings.ratio is not None:
        return Budget("ratio", settings.ratio)
    quantity, _, text = (settings.budget or "macs=0.5").partition("=")
    kinds = [kind for kind in get_args(Quantity) if kind != "ratio"]
    if quantity not in kinds:
        raise RecipeError(f"unknown budget {quantity!r} in prune.budget", suggestion(quantity, kinds))
    if quantity == "latency" and (written := re.fullmatch(r"\s*(\S*\d\.?)\s*([a-zµμ]+)\s*", text)):
        return Budget("latency", milliseconds=_milliseconds(settings.budget or "", *written.groups()))
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction < 1:
        example = f"for example {quantity}=0.5" + (" or latency=4ms" if quantity == "latency" else "")
        alternative = ", or a number with a unit," if quantity == "latency" else ""
        raise RecipeError(f"prune.budget {settings.budget!r} needs a fraction between 0 and 1{alternative}", example)
    return Budget(cast(Quantity, quantity), fraction)


def _milliseconds(budget: str, number: str, unit: str) -> float:
    if (scale := UNITS.get(re.sub("[µμ]", "u", unit))) is None:
        raise RecipeError(
            f"unknown unit {unit!r} in prune.budget {budget!r}", f"units of a latency: {', '.join(UNITS)}"
        )
    try:
        value = float(number) * scale
    except ValueError:
        value = math.nan
    low, high = LATENCY_RANGE_MS
    if not low <= value <= high:
        raise RecipeError(
            f"prune.budget {budget!r} is not a latency between {low * 1e3:g} us and {high / 1e3:g} s",
            "for example latency=4ms",
        )
    return value
