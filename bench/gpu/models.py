"""Whole models, dense and pruned: eager, compiled, and compiled in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from random import Random
from typing import Any

import timm
import torch
from torch import Tensor, nn

from toolkit.bench.gpu.clock import Clock
from toolkit.bench.gpu.names import DENSE, MODELS, MODES, PRUNED, TIMM
from toolkit.models.architectures import architecture
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.block import HeadwiseBlock, named_blocks
from toolkit.models.profile import profile
from toolkit.records import HeadLayout

BATCHES = (128, 1)
IMAGE_SIZE = 224
WIDTHS = (64, 48, 40, 32, 24, 16)
"""Head widths to draw from."""


def build_variants(name: str, depth: int = 12) -> dict[str, nn.Module]:
    """Three variants of an architecture with random weights: timm's own, with headwise attention, and pruned."""
    original, dense, pruned = (timm.create_model(name, depth=depth) for _ in range(3))
    for module in (dense, pruned):
        architecture("timm").canonicalise(module)
    for index, block in enumerate(named_blocks(pruned).values()):
        _prune(block, Random(index))
    return {TIMM: original, DENSE: dense, PRUNED: pruned}


def _prune(block: HeadwiseBlock, rng: Random) -> None:
    """Replace about half of a block: a quarter of the heads, units of the others, and half of the MLP's hidden units.

    Counts are drawn per head and block. Which units remain does not affect the speed, so their weights are random.
    """
    attention, hidden = block.attn, block.mlp_input.out_features
    heads = len(attention.layout.heads)
    kept = max(1, heads - rng.randint(heads // 6, heads // 3))
    widths = sorted((rng.choice(WIDTHS) for _ in range(kept)), reverse=True)
    widest = max(map(max, attention.layout.heads))
    layout = HeadLayout(tuple((min(width, widest), min(width, widest)) for width in widths))
    channels = attention.proj.out_features
    block.attn = HeadwiseAttention(layout, channels, attention.scale, None)
    hidden = round(hidden * rng.uniform(0.4, 0.65) / 8) * 8
    block.mlp.register_module("fc1", nn.Linear(channels, hidden))
    block.mlp.register_module("fc2", nn.Linear(hidden, channels))


def results(
    graphs: Clock, stream: Clock, has_time: Callable[[], bool], finished: Collection[tuple[str, int, str]]
) -> Iterator[dict[str, Any]]:
    """Yield one result per unfinished (model, batch, mode) until the time budget is spent."""
    for name in MODELS:
        models, example = build_variants(name), {"x": torch.empty(1, 3, IMAGE_SIZE, IMAGE_SIZE, device="meta")}
        macs = {kind: profile(model, example).macs for kind, model in models.items() if kind != TIMM}
        for batch in BATCHES:
            missing = [mode for mode in MODES if (name, batch, mode) not in finished]
            torch.compiler.reset()  # torch.compile stops recompiling a function after eight variants
            for mode in missing:
                if not has_time():
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
        eager = model.cuda().bfloat16().eval()
        calls[kind] = [_inference(eager if mode == "eager" else torch.compile(eager, dynamic=False), images)]
    times = (graphs if mode == "graph" else stream)(calls)
    return {"us": times.us, "errors": times.errors}


def _inference(model: Callable[[Tensor], Tensor], images: Tensor) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.inference_mode():
            return model(images)

    return call
