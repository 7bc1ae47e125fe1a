"""float16 and bfloat16 by the types in the graph, float32 where a format cannot hold what occurs.

Linear layers and attention's products compute in the lower format. Layer norms, softmax and the residual sum do too,
unless the numbers seen on calibration images are too large for the format or too coarse in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from toolkit.export.attention import HIDDEN, FlatAttention, Run, by_products
from toolkit.export.calibrate import Images, batches
from toolkit.models.shapes import blocks_of

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
COARSEST_LOGIT = 1 / 16
"""Largest rounding step of a softmax's input: e^(1/16) is 6 % of an attention weight."""
COARSEST_SUM = 0.1
"""Largest rounding step in the residual sum, as a share of its typical (median) value."""


@dataclass(frozen=True)
class Ranges:
    """Largest absolute values that occur, by the name of the layer."""

    norms: dict[str, float] = field(default_factory=dict)
    """Inputs of layer norms."""
    logits: dict[str, float] = field(default_factory=dict)
    """Inputs of softmax, by attention."""
    linears: dict[str, float] = field(default_factory=dict)
    """Outputs of linear layers."""
    typical: dict[str, float] = field(default_factory=dict)
    """Median absolute input of layer norms, of the residual sum; that of the batch where it is smallest."""


@dataclass(frozen=True)
class Kept:
    """What stays float32."""

    residual: bool = False
    norms: frozenset[str] = frozenset()
    softmax: frozenset[str] = frozenset()
    blocks: frozenset[int] = frozenset()
    """Blocks that stay so altogether."""

    def and_blocks(self, blocks: Collection[int]) -> Kept:
        """The same, and these blocks."""
        return replace(self, blocks=self.blocks.union(blocks))


def ranges(module: nn.Module, images: Images) -> Ranges:
    """What occurs in a flat float32 module on these images."""
    found = Ranges()
    with _watched(module, found), torch.inference_mode():
        for batch in batches(images):
            module(torch.from_numpy(batch))
    return found


def kept_by(found: Ranges, dtype: torch.dtype) -> Kept:
    """What the format cannot hold of the ranges."""
    limits = torch.finfo(dtype)
    most, step = limits.max / 2, limits.eps  # half: other images reach further
    residual = any(
        largest > most or largest * step > COARSEST_SUM * found.typical[name] for name, largest in found.norms.items()
    )
    return Kept(
        residual=residual,
        norms=frozenset(name for name, largest in found.norms.items() if largest**2 > most),  # its square is summed
        softmax=frozenset(name for name, largest in found.logits.items() if largest * step > COARSEST_LOGIT),
        blocks=frozenset(
            block
            for name, largest in [*found.linears.items(), *found.logits.items()]
            if largest > most and (block := _block(name)) is not None
        ),
    )


def lower(module: nn.Module, dtype: torch.dtype, kept: Kept) -> None:
    """Let a flat module compute in `dtype`, in place, but for what is kept. Logits stay float32."""
    residual = torch.float32 if kept.residual else dtype
    for name, parameter in module.named_parameters(recurse=False):
        setattr(module, name, nn.Parameter(parameter.detach().to(residual)))  # class token, positions, ...
    for name, layer in list(module.named_modules()):
        whole = _block(name) in kept.blocks
        if isinstance(layer, FlatAttention):
            layer.layer = layer.layer._replace(softmax_float32=name in kept.softmax and not whole)
            layer.to(torch.float32 if whole else dtype)
        elif isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm):
            whole |= isinstance(layer, nn.Conv2d) and dtype is torch.bfloat16  # ONNX has no such Conv before opset 22
            own = torch.float32 if whole or name in kept.norms else dtype
            layer.to(own).register_forward_pre_hook(partial(_cast_input, own))
        elif name and next(layer.parameters(recurse=False), None) is not None:  # layer scales
            layer.to(torch.float32 if whole else dtype)
    for part in (module.get_submodule("patch_embed"), *blocks_of(module)):
        part.register_forward_hook(partial(_cast_output, residual))
    module.register_forward_hook(partial(_cast_output, torch.float32))


def _cast_input(dtype: torch.dtype, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].to(dtype), *inputs[1:])


def _cast_output(dtype: torch.dtype, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.to(dtype)


def _block(name: str) -> int | None:
    """Index of the block that a layer is in."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blocks" and len(parts) > 1 else None


@contextmanager
def _watched(module: nn.Module, found: Ranges) -> Iterator[None]:
    """Note what the layers of `module` see and give."""

    def note(where: dict[str, float], name: str, values: Tensor) -> None:
        where[name] = max(where.get(name, 0.0), float(values.abs().max()))

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def norm(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            note(found.norms, name, inputs[0])
            typical = float(inputs[0].abs().median())
            found.typical[name] = min(found.typical.get(name, typical), typical)

        def linear(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            note(found.linears, name, output)

        return layer.register_forward_hook(norm if isinstance(layer, nn.LayerNorm) else linear)

    def step(name: str, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, run: Run) -> Tensor:
        queries, keys = (part.unflatten(-1, (run.heads, run.qk_dim)).transpose(1, 2) for part in (q, k))
        logits = queries * run.scale @ keys.transpose(2, 3)
        note(found.logits, name, logits if bias is None else logits + bias.where(bias != HIDDEN, 0.0))
        return by_products(q, k, v, bias, run)

    layers = [(name, each) for name, each in module.named_modules() if isinstance(each, nn.Linear | nn.LayerNorm)]
    handles = [watch(name, each) for name, each in layers]
    flat = {name: each for name, each in module.named_modules() if isinstance(each, FlatAttention)}
    for name, each in flat.items():
        each.step = partial(step, name)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for each in flat.values():
            each.step = by_products
