"""Cost tables predict the latencies of whole exported models, before any correction.

    pytest -m speed -s tests/bench/test_predicted_latencies.py

prints predictions and measurements. It takes about ten minutes on two cores; nothing else may run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit import recipe
from toolkit.bench.deployment import deployment_of
from toolkit.bench.latency_meter import Meter
from toolkit.bench.probes import cuts_to
from toolkit.models.build import build
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.models.tokens import with_tokens
from toolkit.prune.cost_table import shape_of, total
from toolkit.prune.grid import grid_of
from toolkit.records import BlockShape, Merge

TOLERANCE = 0.1
Shapes = Callable[[int, BlockShape], BlockShape]
"""Shape of a block, from its index and the dense shape."""
CUT: dict[str, Shapes] = {
    "MLP half": lambda _, block: replace(block, mlp=block.mlp // 2),
    "heads 2 of 3": lambda _, block: replace(block, heads=2, qk=2 * 64, v=2 * 64),
    "qk half": lambda _, block: replace(block, qk=block.qk // 2),
    "mixed": lambda index, block: (
        replace(block, heads=2, qk=2 * 48, v=2 * 64, mlp=640) if index % 2 else replace(block, qk=3 * 32, mlp=384)
    ),
}
SITES = (Merge(3, 136), Merge(5, 96), Merge(7, 64))

pytestmark = [pytest.mark.slow, pytest.mark.speed]


def cut(model: Model, shapes: Shapes) -> Model:
    cuts = [
        piece
        for index, ((place, _), block) in enumerate(zip(model.blocks, shape_of(model).blocks, strict=True))
        for piece in cuts_to(model, place, shapes(index, block))
    ]
    return remove(model, cuts).model.identified()


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_predictions_of_whole_models(runtime: str, batch: int, tmp_path: Path) -> None:
    dense = build(recipe.Model(weights="none"), [str(label) for label in range(1000)], seed=0).identified()
    merged = with_tokens(dense, SITES, trim_last_block=True).identified()
    models = {"dense": dense, **{name: cut(dense, shapes) for name, shapes in CUT.items()}}
    models |= {"merged": merged, "merged, mixed": cut(merged, CUT["mixed"])}
    settings = recipe.Prune(runtime=runtime, at_batch=batch)
    with Meter(deployment_of(settings, recipe.Export(), recipe.Bench()), tmp_path) as meter:
        table = meter.table(dense, grid_of(dense, ("head", "qk", "mlp"), matching="bipartite"))
        whole = meter.measure(dense, [*models.values()][1:])
    errors = []
    for name, model, ms in zip(models, models.values(), (whole.dense_ms, *whole.models_ms), strict=True):
        errors.append(total(table, shape_of(model)) / ms - 1)
        print(f"{name:14} measured {ms:8.3f} ms ({ms / whole.dense_ms:.3f} of dense), predicted {errors[-1]:+.1%}")
    assert max(map(abs, errors)) <= TOLERANCE
