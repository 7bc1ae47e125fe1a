"""Pruning to half of the MACs, with surgery and verification, is faster than torch-pruning's own step, measured
interleaved.

    pytest -m speed -s tests/prune/test_speed.py

prints all durations. torch-pruning's is that of `BasePruner.step()` alone, without its dependency graph and a proof;
0.7 of the widths are about half of the MACs.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter

import pytest
import timm
import torch
import torch_pruning
from timm.layers.attention import Attention
from torch import Tensor, nn

from toolkit import recipe
from toolkit.models.build import build
from toolkit.models.model import Model
from toolkit.prune import pruning
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job

ROUNDS = 5
RATIO = 0.3

pytestmark = [pytest.mark.slow, pytest.mark.speed]


def ours(dense: Model) -> Callable[[], None]:
    """Plan, surgery and verification, with the dependency graph and all traces."""
    model = Model(dense.module, dense.info)  # nothing is cached on it
    settings = recipe.Prune(budget="macs=0.5", criterion="magnitude-l2")
    job = Job(settings, Calibration(lambda domains: [], (), seed=0), seed=0)

    def prune() -> None:
        slim = pruning.prune(model, job).slim
        assert 0.495 <= slim.info.macs / dense.info.macs <= 0.5

    return prune


def theirs(name: str) -> Callable[[], None]:
    """A step of torch-pruning on timm's model, whose attention reads the number of heads from its widths."""
    module = timm.create_model(name, num_classes=1000).eval()
    heads: dict[nn.Module, int] = {}
    for layer in module.modules():
        if isinstance(layer, Attention):
            heads[layer.qkv] = layer.num_heads
            layer.forward = _attend.__get__(layer)
    pruner = torch_pruning.pruner.BasePruner(
        module,
        torch.zeros(1, 3, 224, 224),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=[module.head],
        unwrapped_parameters=[(module.cls_token, 2), (module.pos_embed, 2)],
        num_heads=heads,
        prune_num_heads=True,
        head_pruning_ratio=RATIO,
    )
    step: Callable[[], None] = pruner.step
    return step


def _attend(self: Attention, x: Tensor, attn_mask: None = None, is_causal: bool = False) -> Tensor:
    batch, tokens, _ = x.shape
    qkv = self.qkv(x).reshape(batch, tokens, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    weights = (q * self.scale @ k.transpose(-2, -1)).softmax(-1)
    output: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, -1))
    return output


def seconds(call: Callable[[], None]) -> float:
    start = perf_counter()
    call()
    return perf_counter() - start


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "vit_large_patch16_224"])
def test_pruning_is_faster_than_torch_prunings_step(name: str) -> None:
    torch.set_num_threads(2)
    dense = build(recipe.Model(name=name, weights="none"), [str(label) for label in range(1000)], seed=0)
    pairs = []
    for _ in range(ROUNDS):
        pairs.append((seconds(ours(dense)), seconds(theirs(name))))
        print(f"{name}: ours {pairs[-1][0]:.2f} s, torch-pruning's step {pairs[-1][1]:.2f} s")
    ratio = statistics.median(mine / other for mine, other in pairs)
    print(f"{name}: ours / theirs {ratio:.2f}, median of {ROUNDS}")
    assert ratio < 1
