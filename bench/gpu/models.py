"""Whole models: dense and pruned, eager, compiled, and compiled in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from random import Random
from typing import Any

import timm
import torch
from torch import Tensor, nn

from toolkit.bench.gpu.clock import Clock
from toolkit.models.adapt import canonicalise
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.count import count
from toolkit.models.shapes import blocks_of
from toolkit.records import HeadLayout

NAMES = ("deit_small_patch16_224", "vit_base_patch16_224")
BATCHES = (128, 1)
MODES = ("eager", "compiled", "graph")
TIMM, DENSE, PRUNED = "timm", "dense", "pruned"
WIDTHS = (64, 48, 40, 32, 24, 16)
"""Of pruned heads."""


def built(name: str, depth: int = 12) -> dict[str, nn.Module]:
    """The same architecture three times, with random weights: as timm has it, canonical, and pruned."""
    original, dense, pruned = (timm.create_model(name, depth=depth) for _ in range(3))
    canonicalise(dense)
    canonicalise(pruned)
    for index, block in enumerate(blocks_of(pruned)):
        _prune(block, Random(index))
    return {TIMM: original, DENSE: dense, PRUNED: pruned}


def _prune(block: nn.Module, random: Random) -> None:
    """Take about half away: a quarter of the heads, units of the others, and half of the hidden units.

    Which ones says nothing about the time it takes; how many is drawn for each head and block.
    """
    attention, mlp = block.get_submodule("attn"), block.get_submodule("mlp")
    wide = mlp.get_submodule("fc1")
    assert isinstance(attention, HeadwiseAttention)
    assert isinstance(wide, nn.Linear)
    count_ = len(attention.layout.heads)
    kept = max(1, count_ - random.randint(count_ // 6, count_ // 3))
    widths = sorted((random.choice(WIDTHS) for _ in range(kept)), reverse=True)
    widest = max(map(max, attention.layout.heads))
    layout = HeadLayout(tuple((min(width, widest), min(width, widest)) for width in widths))
    channels = attention.proj.out_features
    block.register_module("attn", HeadwiseAttention(layout, channels, attention.scale, None))
    fewer = round(wide.out_features * random.uniform(0.4, 0.65) / 8) * 8
    mlp.register_module("fc1", nn.Linear(channels, fewer))
    mlp.register_module("fc2", nn.Linear(fewer, channels))


def results(graphs: Clock, stream: Clock, goes_on: Callable[[], bool]) -> Iterator[dict[str, Any]]:
    """One for each model, batch and mode, until there is no more time."""
    for name, batch in product(NAMES, BATCHES):
        models = {kind: model.cuda().bfloat16().eval() for kind, model in built(name).items()}
        macs = {kind: count(model, 224).macs for kind, model in built(name).items() if kind != TIMM}
        images = torch.randn(batch, 3, 224, 224, device="cuda", dtype=torch.bfloat16)
        compiled = {kind: torch.compile(model, dynamic=False) for kind, model in models.items()}
        for mode in MODES:
            if not goes_on():
                return
            chosen = models if mode == "eager" else compiled
            calls = {kind: [_inference(model, images)] for kind, model in chosen.items()}
            times = (graphs if mode == "graph" else stream)(calls)
            yield {"model": name, "batch": batch, "mode": mode, "macs": macs, "us": times.us, "errors": times.errors}


def _inference(model: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return call
