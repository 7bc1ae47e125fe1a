"""Estimated trajectory scores: their mean, and their ranks on DeiT-Tiny."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

import toolkit
from toolkit.dg.decoding import decode
from toolkit.dg.transforms import evaluation_transform
from toolkit.models.groups import Key
from toolkit.models.model import Model
from toolkit.prune.trajectory import (
    Comparison,
    Masking,
    Terms,
    attach_gate,
    classifier_of,
    index_of,
    recorded,
)
from toolkit.prune.trajectory_gradients import Probes, estimated_terms

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def second_order(model: Model, key: Key, block: int) -> tuple[Tensor, Tensor]:
    """2 |dF F^T|^2 and 1/2 dz^T (diag(p) - p p^T) dz of every unit, from central differences of its gate."""
    comparison, group = Comparison(1000, temperature=4.0), model.groups.find(*key)

    def features_and_logits(gate: Tensor) -> tuple[Tensor, ...]:
        with ExitStack() as stack:
            attach_gate(model.module, group, gate.expand(len(IMAGES), -1), stack)
            made = recorded(model.module, IMAGES, comparison)
        later = made.outputs[block + 1 :] or made.outputs[-1:]
        return (*(comparison.features(output)[0] for output in later), made.logits)

    results, step = [], 1e-4
    gates = torch.eye(group.units, dtype=torch.float64)[:, None] * step
    with torch.no_grad():
        *dense, logits = features_and_logits(1 + 0 * gates[0])
        p = (logits / 4).softmax(dim=-1)
        for gate in gates:
            above, below = features_and_logits(1 + gate), features_and_logits(1 - gate)
            *changes, dz = ((a - b) / (2 * step) for a, b in zip(above, below, strict=True))
            squares = [2 * (change @ f.T).square().sum() for change, f in zip(changes, dense, strict=True)]
            curvature = 0.5 * ((p * dz**2).sum(dim=1) - (p * dz).sum(dim=1) ** 2).mean()
            results.append((torch.stack(squares).sum(), curvature))
    distances, divergences = zip(*results, strict=True)
    return torch.stack(distances), torch.stack(divergences)


@pytest.mark.parametrize("key", [("blocks.0.attn", "head"), ("blocks.0.mlp", "mlp"), ("blocks.1.mlp", "mlp")], ids=str)
def test_the_mean_of_estimates_is_the_second_order_part(double: Callable[..., Model], key: Key) -> None:
    model = double()
    expected = second_order(model, key, int(key[0].split(".")[1]))
    terms = estimated_terms(model, model.groups.along((key[1],)), IMAGES, Comparison(1000), Probes(200, 0))
    for actual, mean in zip((terms.distances[key], terms.divergences[key]), expected, strict=True):
        ratio = actual / mean  # its standard deviation is at most sqrt(2 / 200)
        assert float(ratio.mean()) == pytest.approx(1, abs=0.05 if key[1] == "mlp" else 0.2)
        assert float((ratio - 1).abs().max()) < 0.4


@pytest.fixture
def deit_tiny(shared: Path) -> Model:
    """DeiT-Tiny with its ImageNet weights."""
    names = (shared / "data" / "imagenet_samples" / "wnids.txt").read_text().split()
    weights = shared / "weights" / "deit_tiny_patch16_224.safetensors"
    return toolkit.load("deit_tiny_patch16_224", names, weights=str(weights))


@pytest.fixture
def pictures(deit_tiny: Model, shared: Path) -> Tensor:
    """16 ImageNet pictures for DeiT-Tiny."""
    files = sorted((shared / "data" / "imagenet_samples").glob("*/*.*"))[::30][:16]
    transform = evaluation_transform(deit_tiny.info)
    return torch.stack([transform(decode(file, "white").pixels) for file in files])


class Work:
    """Counts images times blocks: 1 for a forward pass, 2 for a backward pass."""

    def __init__(self, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        differentiate = torch.autograd.grad

        def grad(output: Tensor, *more: Any, **named: Any) -> Any:
            self.count += 2 * len(output)
            return differentiate(output, *more, **named)

        def forward(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self.count += len(inputs[0])

        monkeypatch.setattr(torch.autograd, "grad", grad)
        for _, block in model.blocks:
            block.register_forward_pre_hook(forward)


@pytest.mark.slow
def test_fast_scores_rank_deit_tinys_units_like_exact_ones(
    deit_tiny: Model, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All 36 heads and 500 random MLP units."""
    model, comparison, work = deit_tiny, Comparison(), Work(deit_tiny, monkeypatch)
    groups = model.groups.along(("head", "mlp"))
    fast = estimated_terms(model, groups, pictures, comparison, Probes(4, 0))
    fast_work, work.count = work.count, 0

    chosen = torch.randperm(12 * 768, generator=torch.Generator().manual_seed(0))[:500]
    model.module.eval()
    masking = Masking(model, recorded(model.module, pictures, comparison), classifier_of(model.module, pictures))
    work.count = expected_work = 0
    exact, estimated = Terms({}, {}), Terms({}, {})
    for group in groups:
        index = index_of(group, model)
        units = torch.arange(3) if group.axis == "head" else chosen[chosen // 768 == index] % 768
        parts = [masking.terms(group, unit) for unit in units.split(1)]
        exact.distances[group.key], exact.divergences[group.key] = map(torch.cat, zip(*parts, strict=True))
        estimated.distances[group.key] = fast.distances[group.key][units]
        estimated.divergences[group.key] = fast.divergences[group.key][units]
        expected_work += len(units) * (12 - index) * len(pictures)
    assert work.count == expected_work
    exact_work = sum(group.units * (12 - index_of(group, model)) for group in groups) * len(pictures)
    assert exact_work > 50 * fast_work, "exact scores of all units"

    scores, estimates = exact.scores(exact.factor(10)), estimated.scores(estimated.factor(10))
    for axes in (("head",), ("mlp",), ("head", "mlp")):
        pairs = [(scores[key], estimates[key]) for key in scores if key[1] in axes]
        ranked, approximately = (torch.cat(values).numpy() for values in zip(*pairs, strict=True))
        correlation = spearmanr(ranked, approximately).statistic
        print(f"{axes}: Spearman {correlation:.3f}, work {exact_work / fast_work:.0f} times less")
        assert correlation > 0.9, axes
