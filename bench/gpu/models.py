"""Whole models: dense and pruned, eager, compiled, and compiled in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from random import Random
from typing import Any

import timm
import torch
from torch import Tensor, nn

from toolkit.bench.gpu.clock import Clock
from toolkit.bench.gpu.names import DENSE, MODELS, MODES, PRUNED, TIMM
from toolkit.models.adapt import canonicalise
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.profile import profile
from toolkit.models.shapes import blocks_of
from toolkit.records import HeadLayout

BATCHES = (128, 1)
IMAGE_SIZE = 224
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
    heads = len(attention.layout.heads)
    kept = max(1, heads - random.randint(heads // 6, heads // 3))
    widths = sorted((random.choice(WIDTHS) for _ in range(kept)), reverse=True)
    widest = max(map(max, attention.layout.heads))
    layout = HeadLayout(tuple((min(width, widest), min(width, widest)) for width in widths))
    channels = attention.proj.out_features
    block.register_module("attn", HeadwiseAttention(layout, channels, attention.scale, None))
    fewer = round(wide.out_features * random.uniform(0.4, 0.65) / 8) * 8
    mlp.register_module("fc1", nn.Linear(channels, fewer))
    mlp.register_module("fc2", nn.Linear(fewer, channels))


def results(
    graphs: Clock, stream: Clock, goes_on: Callable[[], bool], known: Collection[tuple[str, int, str]]
) -> Iterator[dict[str, Any]]:
    """One for each model, batch and mode that is not known yet, until there is no more time."""
    for name in MODELS:
        models = built(name)
        macs = {kind: profile(model, IMAGE_SIZE).macs for kind, model in models.items() if kind != TIMM}
        for batch in BATCHES:
            missing = [mode for mode in MODES if (name, batch, mode) not in known]
            torch.compiler.reset()  # it gives up compiling a function after eight models
            for mode in missing:
                if not goes_on():
                    return
                yield {
                    "model": name,
                    "batch": batch,
                    "mode": mode,
                    "macs": macs,
                    **_timed(models, batch, mode, graphs, stream),
                }


def _timed(models: Mapping[str, nn.Module], batch: int, mode: str, graphs: Clock, stream: Clock) -> dict[str, Any]:
    images = torch.randn(batch, 3, IMAGE_SIZE, IMAGE_SIZE, device="cuda", dtype=torch.bfloat16)
    calls = {}
    for kind, model in models.items():
        ready = model.cuda().bfloat16().eval()
        calls[kind] = [_inference(ready if mode == "eager" else torch.compile(ready, dynamic=False), images)]
    times = (graphs if mode == "graph" else stream)(calls)
    return {"us": times.us, "errors": times.errors}


def _inference(model: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return call
