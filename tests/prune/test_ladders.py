"""Ladders against refits by least squares, literal elimination with numpy, and brute force over removed units."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from toolkit.dg.batches import Batch
from toolkit.models.groups import Key
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.prune import bases
from toolkit.prune.calibration import Calibration
from toolkit.prune.compensate import compensation
from toolkit.prune.compensate.repairing import Settings
from toolkit.prune.covariances import collect, input_of
from toolkit.prune.elimination import PANEL, Elimination
from toolkit.prune.ladders import Ladder, ladders
from toolkit.prune.least_squares import LinearLayer, damped, refit
from toolkit.prune.rungs import LadderSettings, unit_rungs
from toolkit.prune.spectra import qk_spectrum

Array = npt.NDArray[np.float64]


def problem(inputs: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random W [5, inputs] and positive definite H [inputs, inputs]."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(3 * inputs, inputs, generator=generator, dtype=torch.float64)
    rows = rows @ torch.randn(inputs, inputs, generator=generator, dtype=torch.float64)
    weight = torch.randn(5, inputs, generator=generator, dtype=torch.float64)
    return weight, rows.T @ rows / len(rows) + 1e-3 * torch.eye(inputs, dtype=torch.float64)


def cost(weight: Tensor, matrix: Tensor, kept: Sequence[int]) -> float:
    """tr((W' - W) H (W' - W)^T) for the best W' with these inputs."""
    change = -weight.clone()
    change[:, list(kept)] += refit(weight, matrix, torch.tensor(list(kept)))
    return float((change @ matrix * change).sum())


def published(weight: Array, matrix: Array, count: int) -> tuple[list[int], Array, float]:
    """Optimal brain surgeon literally: order of removal, weights and error after `count` removals."""
    weight, inverse = weight.copy(), np.linalg.inv(matrix)
    order: list[int] = []
    error = 0.0
    for _ in range(count):
        costs = (weight**2).sum(axis=0) / np.diag(inverse).clip(1e-300)
        costs[order] = np.inf
        j = int(costs.argmin())
        error += float(costs[j])
        pivot = inverse[j, j]
        weight = weight - np.outer(weight[:, j], inverse[j]) / pivot
        inverse = inverse - np.outer(inverse[:, j], inverse[j]) / pivot
        inverse[j], inverse[:, j], weight[:, j] = 0.0, 0.0, 0.0
        order.append(j)
    return order, weight, error


@pytest.mark.parametrize("counts", [(1, 1, 5), (4, 4, 4, 30), (37,), (PANEL + 6,)])
def test_elimination_is_the_published_update_and_equals_a_refit(counts: tuple[int, ...]) -> None:
    weight, matrix = problem(PANEL + 16)
    state = Elimination(weight, matrix)
    segments = torch.zeros(weight.shape[1], dtype=torch.long)
    for count in counts:
        state.remove_inputs(torch.tensor([count]), segments)
    order, expected, error = published(weight.numpy(), matrix.numpy(), sum(counts))
    assert state.removed == order
    assert state.cost == pytest.approx(error, rel=1e-9)
    np.testing.assert_allclose(state.weight.numpy(), expected[:, state.remaining], atol=1e-9)
    torch.testing.assert_close(state.weight, refit(weight, matrix, state.remaining), atol=1e-6, rtol=1e-6)
    assert state.cost == pytest.approx(cost(weight, matrix, state.remaining.tolist()), rel=1e-6)
    expected[:, state.removed] = 0.0
    assert state.change == pytest.approx(float(np.square(expected - weight.numpy()).sum()))


def test_quotas_hold_for_each_segment() -> None:
    weight, matrix = problem(12)
    state = Elimination(weight, matrix)
    segments = torch.arange(12) // 4
    state.remove_inputs(torch.tensor([2, 0, 3]), segments)
    assert torch.bincount(segments[state.removed], minlength=3).tolist() == [2, 0, 3]
    torch.testing.assert_close(state.weight, refit(weight, matrix, state.remaining))


def test_groups_are_removed_in_the_literal_order() -> None:
    """The cheapest group is that whose removal, tried literally with a refit, leaves the smallest error."""
    weight, matrix = problem(12, seed=3)
    groups = list(torch.arange(12).split(3))
    state = Elimination(weight, matrix)
    left = [0, 1, 2, 3]
    while len(left) > 1:
        errors = [
            cost(weight, matrix, [int(unit) for other in left if other != group for unit in groups[other]])
            for group in left
        ]
        chosen = left[state.remove_group([groups[group] for group in left])]
        assert chosen == left[errors.index(min(errors))]
        assert state.cost == pytest.approx(min(errors), rel=1e-9)
        left.remove(chosen)
        torch.testing.assert_close(state.weight, refit(weight, matrix, state.remaining))


def apply(ladder: Ladder, kept: int, model: Model) -> Model:
    """The model without the units of a rung, with the rung's weights."""
    rung = ladder.rung(kept)
    slim = remove(model, [ladder.cut(rung)]).model
    place, axis = ladder.key
    layer = slim.module.get_submodule(f"{place}.fc2" if axis == "mlp" else f"{place}.proj")
    repaired = ladder.repaired(rung)
    with torch.no_grad():
        layer.get_parameter("weight").copy_(repaired.weight)
        layer.get_parameter("bias").add_(repaired.shift)
    return slim


def output_error(model: Model, slim: Model, name: str, images: Tensor) -> float:
    """Mean squared difference of a layer's outputs, summed over channels, on all tokens."""
    outputs = []
    for each in (model, slim):
        received: list[Tensor] = []
        layer = each.module.get_submodule(name)
        hook = layer.register_forward_hook(lambda _, inputs, output, received=received: received.append(output))
        with torch.inference_mode():
            each.module.eval()(images)
        hook.remove()
        outputs.append(received[0].double())
    return float((outputs[0] - outputs[1]).square().sum(dim=-1).mean())


@pytest.mark.parametrize(
    ("key", "kept", "layer"),
    [(("blocks.0.mlp", "mlp"), 24, "blocks.0.mlp.fc2"), (("blocks.0.attn", "v"), 12, "blocks.0.attn.proj"),
     (("blocks.0.attn", "head"), 2, "blocks.0.attn.proj")],
    ids=["mlp", "v", "head"],
)  # fmt: skip
def test_errors_are_those_of_the_repaired_model(
    small: Callable[..., Model], calibration: Calibration, batches: list[Batch], key: Key, kept: int, layer: str
) -> None:
    """Also: weights of a rung are those of `ridge` and `obs` for the same units."""
    model = small()
    settings = LadderSettings(round_to=4, damping=0.02)
    ladder = ladders(model, calibration, (key[1],), settings)[key]
    slim = apply(ladder, kept, model)
    images = torch.cat([batch.images for batch in batches])
    assert ladder.rung(kept).error == pytest.approx(output_error(model, slim, layer, images), rel=1e-3)
    assert ladder.layer is not None
    assert ladder.rung(kept).relative == pytest.approx(ladder.rung(kept).error / ladder.layer.energy)
    for name in ("ridge", "obs"):
        removal = remove(model, [ladder.cut(ladder.rung(kept))])
        repaired = compensation(name, Settings(damping=0.02)).repair(model, removal, calibration)
        for key, tensor in repaired.module.state_dict().items():
            torch.testing.assert_close(tensor, slim.module.state_dict()[key], atol=1e-5, rtol=1e-4)


def test_rungs_are_multiples_nested_and_grow_in_error(small: Callable[..., Model], calibration: Calibration) -> None:
    found = ladders(small(), calibration, ("mlp", "v", "qk", "head"), LadderSettings(round_to=3))
    assert {axis for _, axis in found} == {"mlp", "v", "qk", "head"}
    for (_, axis), ladder in found.items():
        first, *later = ladder.rungs
        assert (first.removed, first.error) == ((), pytest.approx(0, abs=1e-9))
        assert all(set(one.removed) < set(two.removed) for one, two in zip(ladder.rungs, later, strict=False))
        errors = [rung.error for rung in ladder.rungs]
        assert errors == sorted(errors)
        assert 0 <= ladder.rungs[-1].relative <= 1.01
        expected = {"mlp": [48, *range(45, 0, -3)], "v": [24, 18, 9], "qk": [24, 18, 9], "head": [3, 2, 1]}[axis]
        assert [sum(rung.widths) for rung in ladder.rungs] == expected
        if axis in ("v", "qk"):
            assert all(len(set(rung.widths)) == 1 for rung in ladder.rungs)


def test_rungs_of_wide_groups_are_further_apart(small: Callable[..., Model], calibration: Calibration) -> None:
    """The widest and the narrowest stay, and every rung is the refit of what it keeps."""
    ladder = ladders(small(), calibration, ("mlp",), LadderSettings(round_to=3, most_rungs=4))["blocks.0.mlp", "mlp"]
    assert [sum(rung.widths) for rung in ladder.rungs] == [48, 36, 24, 12, 9, 6, 3]
    layer = ladder.layer
    assert layer is not None
    for rung in ladder.rungs:
        expected = layer.repaired(ladder.kept_columns(rung))
        torch.testing.assert_close(ladder.repaired(rung).weight, expected.weight)
        torch.testing.assert_close(ladder.repaired(rung).shift, expected.shift)


def test_uneven_heads_compete(small: Callable[..., Model], calibration: Calibration) -> None:
    """Along qk the cheapest chunks go first whatever their head: no other choice of as many chunks has less error."""
    model = bases.rotate("svd", small(depth=1), calibration)
    settings = LadderSettings(round_to=2, even=False)
    ladder = ladders(model, calibration, ("qk",), settings)["blocks.0.attn", "qk"]
    widths = [rung.widths for rung in ladder.rungs]
    assert [sum(width) for width in widths] == list(range(24, 5, -2))
    energies = [[float(step) for step in own] for own in qk_steps(model, calibration)]  # [head][chunk], last first
    for rung in ladder.rungs[1:]:
        lost = len(rung.removed) // 2
        best = min(
            sum(sum(own[:gone]) for own, gone in zip(energies, split, strict=True))
            for split in combinations_of(lost, (3, 3, 3))
        )
        assert rung.error == pytest.approx(best, rel=1e-3)
    values = ladders(model, calibration, ("v",), settings)["blocks.0.attn", "v"]
    assert [sum(rung.widths) for rung in values.rungs] == list(range(24, 5, -2))
    assert values.rungs[-1].widths == (2, 2, 2)


def combinations_of(total: int, limits: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """All numbers of chunks for three heads that sum to `total`."""
    return [
        (a, b, total - a - b)
        for a in range(limits[0] + 1)
        for b in range(limits[1] + 1)
        if 0 <= total - a - b <= limits[2]
    ]


def qk_steps(model: Model, calibration: Calibration) -> list[Tensor]:
    """For each head, the error of its last chunk of two units, of the chunk before, ..."""
    ((errors),) = qk_spectrum(model, calibration).values()
    return [(own[:-2:2] - own[2::2]).flip(0) for own in errors]


def test_worst_is_the_largest_of_the_domains(small: Callable[..., Model], batches: list[Batch]) -> None:
    calibration = Calibration(lambda names: [batches[int(name)] for name in names], ("0", "1"), 0)
    model = small(depth=1)
    mean, worst = (
        ladders(model, calibration, ("mlp", "qk"), LadderSettings(2, aggregate=aggregate))
        for aggregate in ("mean", "worst")
    )
    for key, ladder in worst.items():
        for one, other in zip(mean[key].rungs, ladder.rungs, strict=True):
            assert one.removed == other.removed
            assert one.error == pytest.approx(other.error)
            assert one.relative <= other.relative * 1.2 + 1e-12
        assert ladder.rungs[-1].relative > 0


def test_a_layer_of_a_real_model(real: Model, pictures: Calibration) -> None:
    """DeiT-Tiny's MLP of 768 units: weights of a rung equal numpy's least squares for the kept units."""
    name = "blocks.5.mlp.fc2"
    ((_, moments),) = collect(real.module, {name: input_of(name, real.module)}, pictures)
    layer = LinearLayer(real.module.get_parameter(f"{name}.weight").detach().double(), True, moments)
    columns = torch.arange(768).split(1)
    ladder = Ladder(
        ("blocks.5.mlp", "mlp"), unit_rungs(layer, columns, (768,), LadderSettings(64)), layer, name, columns
    )
    rung = ladder.rung(576)
    kept = ladder.kept_columns(rung)
    rows = torch.linalg.cholesky(damped(layer.mixture, layer.damping)).T.numpy()  # rows with the second moments H
    solution, *_ = np.linalg.lstsq(rows[:, kept], rows @ layer.weight.numpy().T, rcond=None)
    np.testing.assert_allclose(ladder.repaired(rung).weight.numpy(), solution.T, atol=1e-6)
    state = Elimination(layer.weight, damped(layer.mixture, layer.damping))
    state.remove_inputs(torch.tensor([192]), torch.zeros(768, dtype=torch.long))
    assert sorted(state.removed) == list(rung.removed)
    np.testing.assert_allclose(state.weight.numpy(), solution.T, atol=1e-6)
    assert 0 < rung.relative < 0.2
