"""Pruning large models takes no more time and memory than a laptop has."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Measured = Callable[[str, str], dict[str, float]]

PROGRAM = """
import json, resource, sys, time
from dataclasses import replace
from toolkit import recipe
from toolkit.models.build import build
from toolkit.models.surgery import remove
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job, method

settings = recipe.Model(name=sys.argv[1], weights="none")
model = build(settings, ("cat", "dog"), seed=0)
start = time.perf_counter()
prune = recipe.Prune(criterion="magnitude-l2", budget="macs=0.5")
plan = method("grouped").prune(model, Job(prune, Calibration(lambda _: [], (), 0), 0)).plan
remove(model, plan.cuts)
seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": seconds, "peak_bytes": peak, "met": plan.achieved}))
"""


@pytest.mark.slow
@pytest.mark.speed
@pytest.mark.parametrize(
    ("name", "seconds", "peak_bytes"),
    [("vit_base_patch16_224", 20, 3 << 30), ("vit_large_patch16_224", 60, None)],
)
def test_pruning_half_of_the_macs_by_magnitude(
    measured: Measured, name: str, seconds: float, peak_bytes: int | None
) -> None:
    result = measured(PROGRAM, name)
    assert 0.495 <= result["met"] <= 0.5
    assert result["seconds"] < seconds
    assert peak_bytes is None or result["peak_bytes"] < peak_bytes
