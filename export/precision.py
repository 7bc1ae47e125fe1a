"""float16 and bfloat16 as tensor types in the graph, and float32 for values that do not fit them.

Linear layers and attention's products compute in the lower precision. Layer norms, softmax and the residual sum do too,
unless calibration images show values that overflow the dtype or are too coarse in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from toolkit.export.attention import HeadBucket, decomposed
from toolkit.export.calibrate import batches
from toolkit.export.flat_attention import MASKED, FlatAttention
from toolkit.models.block import block_of, named_blocks
from toolkit.models.norms import NORMS
from toolkit.pixels import Array

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
MAX_LOGIT_STEP = 1 / 16
"""Largest rounding step of a softmax's input: e^(1/16) changes an attention weight by 6 %."""
MAX_RESIDUAL_STEP = 0.1
"""Largest rounding step in the residual sum, as a fraction of its median absolute value."""


@dataclass(frozen=True)
class Ranges:
    """Largest absolute activations by layer name."""

    norms: dict[str, float] = field(default_factory=dict)
    """Inputs of layer norms."""
    logits: dict[str, float] = field(default_factory=dict)
    """Inputs of softmax, by attention."""
    linears: dict[str, float] = field(default_factory=dict)
    """Outputs of linear layers."""
    typical: dict[str, float] = field(default_factory=dict)
    """Median absolute input of layer norms, the residual sum; the minimum over batches."""


@dataclass(frozen=True)
class Fp32Layers:
    """Layers kept in fp32."""

    residual: bool = False
    norms: frozenset[str] = frozenset()
    softmax: frozenset[str] = frozenset()
    blocks: frozenset[int] = frozenset()
    """Blocks kept in fp32 as a whole."""

    def with_blocks(self, blocks: Collection[int]) -> Fp32Layers:
        """These layers and additional blocks."""
        return replace(self, blocks=self.blocks.union(blocks))


def measure_ranges(module: nn.Module, images: Array) -> Ranges:
    """Ranges of activations in a flattened float32 module on these images."""
    ranges = Ranges()
    with _recording(module, ranges), torch.inference_mode():
        for batch in batches(images):
            module(torch.from_numpy(batch))
    return ranges


def layers_in_fp32(ranges: Ranges, dtype: torch.dtype, blocks: Sequence[str]) -> Fp32Layers:
    """Layers whose ranges overflow or are too coarse for `dtype`, in a module with blocks of these names."""
    limits = torch.finfo(dtype)
    largest, step = limits.max / 2, limits.eps  # half of the range: other images may have larger values
    residual = any(
        value > largest or value * step > MAX_RESIDUAL_STEP * ranges.typical[name]
        for name, value in ranges.norms.items()
    )
    return Fp32Layers(
        residual=residual,
        norms=frozenset(name for name, value in ranges.norms.items() if value**2 > largest),  # norms sum squares
        softmax=frozenset(name for name, value in ranges.logits.items() if value * step > MAX_LOGIT_STEP),
        blocks=frozenset(
            block
            for name, value in [*ranges.linears.items(), *ranges.logits.items()]
            if value > largest and (block := block_of(name, blocks)) is not None
        ),
    )


def lower(module: nn.Module, dtype: torch.dtype, in_fp32: Fp32Layers, patches: str) -> None:
    """Let a flattened module compute in `dtype`, in place, except for the layers kept in fp32. Logits stay float32.

    patches: name of the module that embeds patches.
    """
    blocks = named_blocks(module)
    residual = torch.float32 if in_fp32.residual else dtype
    for name, parameter in module.named_parameters(recurse=False):
        setattr(module, name, nn.Parameter(parameter.detach().to(residual)))  # class token, position embeddings, ...
    for name, layer in list(module.named_modules()):
        fp32 = block_of(name, [*blocks]) in in_fp32.blocks
        if isinstance(layer, FlatAttention):
            layer.spec = layer.spec._replace(softmax_float32=name in in_fp32.softmax and not fp32)
            layer.to(torch.float32 if fp32 else dtype)
        elif isinstance(layer, nn.Linear | nn.Conv2d | nn.LayerNorm | nn.RMSNorm):
            fp32 |= isinstance(layer, nn.Conv2d) and dtype is torch.bfloat16  # ONNX has no bf16 Conv before opset 22
            compute = torch.float32 if fp32 or name in in_fp32.norms else dtype
            layer.to(compute).register_forward_pre_hook(partial(_cast_input, compute))
        elif name and next(layer.parameters(recurse=False), None) is not None:  # layer scales
            layer.to(torch.float32 if fp32 else dtype)
    module.get_submodule(patches).register_forward_hook(partial(_cast_output, residual))
    for block in blocks.values():
        block.register_forward_hook(partial(_cast_tokens, residual))
    module.register_forward_hook(partial(_cast_output, torch.float32))


def _cast_input(dtype: torch.dtype, layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (inputs[0].to(dtype), *inputs[1:])


def _cast_output(dtype: torch.dtype, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return output.to(dtype)


def _cast_tokens(
    dtype: torch.dtype, block: nn.Module, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor | None]
) -> tuple[Tensor, Tensor | None]:
    return output[0].to(dtype), output[1]


@contextmanager
def _recording(module: nn.Module, ranges: Ranges) -> Iterator[None]:
    """Record activations of `module` in `ranges`."""

    def record(largest: dict[str, float], name: str, values: Tensor) -> None:
        largest[name] = max(largest.get(name, 0.0), float(values.abs().max()))

    def add_hook(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def norm(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            record(ranges.norms, name, inputs[0])
            typical = float(inputs[0].abs().median())
            ranges.typical[name] = min(ranges.typical.get(name, typical), typical)

        def linear(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            record(ranges.linears, name, output)

        return layer.register_forward_hook(norm if isinstance(layer, NORMS) else linear)

    def op(name: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bucket: HeadBucket) -> Tensor:
        queries, keys = (part.unflatten(-1, (bucket.heads, bucket.qk_dim)).transpose(1, 2) for part in (q, k))
        logits = queries * bucket.scale @ keys.transpose(2, 3)
        record(ranges.logits, name, logits if mask is None else logits + mask.where(mask > MASKED, 0.0))
        return decomposed(q, k, v, mask, bucket)

    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, (nn.Linear, *NORMS))]
    handles = [add_hook(name, layer) for name, layer in layers]
    attentions = {name: layer for name, layer in module.named_modules() if isinstance(layer, FlatAttention)}
    for name, attention in attentions.items():
        attention.op = partial(op, name)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for attention in attentions.values():
            attention.op = decomposed
