"""Parameters, multiply-accumulates (MACs) and memory traffic of a model, traced on the meta device.

MACs include convolutions, linear layers and attention (QK^T and PV). Norms, activations and additions are excluded, as
is usual. FLOPs are about twice the MACs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call

from toolkit.models.attention import HeadwiseAttention
from toolkit.models.merge import TokenMerge, merge_macs
from toolkit.models.modes import evaluating
from toolkit.models.norms import NORMS
from toolkit.models.pooling import AttentionPool

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Cost:
    """Parameters of a model, and MACs for one image."""

    parameters: int
    macs: int


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer, for one image."""

    positions: int
    """How often the weights are applied: number of tokens, number of patches, or 1."""
    macs: int
    bytes_moved: int
    """Memory traffic in float32 if inputs and weights are read once and outputs are written once."""


def profile(model: nn.Module, inputs: Mapping[str, Tensor]) -> Cost:
    """Cost of the whole model for these inputs, by argument, which are for one image."""
    return total_cost(model, trace(model, inputs))


def total_cost(model: nn.Module, calls: Mapping[str, LayerCall]) -> Cost:
    """Cost of the whole model, from the layer calls that `trace` returns."""
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(call.macs for call in calls.values()),
    )


def trace(model: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, LayerCall]:
    """Calls of all layers with weights, by module name, on the meta device. `inputs` are as in `profile`."""
    with _recorded(model) as calls:
        logits_shape(model, inputs)
    return calls


def logits_shape(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Output shape for these inputs, on the meta device: [1, classes]."""
    weights = {name: tensor.detach().to("meta") for name, tensor in model.named_parameters()}
    weights |= {name: tensor.to("meta") for name, tensor in model.named_buffers()}
    on_meta = {name: tensor.to("meta") for name, tensor in inputs.items()}
    with evaluating(model), torch.no_grad():
        logits: Tensor = functional_call(model, weights, (), on_meta)
    return tuple(logits.shape)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, LayerCall]]:
    calls: dict[str, LayerCall] = {}
    names = {module: name for name, module in model.named_modules()}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls[names[module]] = _layer_call(module, inputs[0], output)

    kinds = (nn.Linear, nn.Conv2d, *NORMS, HeadwiseAttention, TokenMerge, AttentionPool)
    hooks = [module.register_forward_hook(record) for module in names if isinstance(module, kinds)]
    with _shapes_only(names):
        try:
            yield calls
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def _shapes_only(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Compute only the output shapes of norms and attention, which take most of a call's time on the meta device."""
    replaced = [module for module in modules if isinstance(module, (*NORMS, HeadwiseAttention))]
    for module in replaced:
        shape = partial(_attention_shape, module) if isinstance(module, HeadwiseAttention) else _same_shape
        module.forward = shape  # type: ignore[method-assign]
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _same_shape(x: Tensor) -> Tensor:
    return x


def _attention_shape(attention: HeadwiseAttention, x: Tensor, key_bias: Tensor | None = None) -> Tensor:
    queries = x[:, : attention.num_queries]
    output: Tensor = attention.proj(queries.new_empty(*queries.shape[:-1], attention.layout.v_width))
    return output


def _layer_call(module: nn.Module, x: Tensor, y: object) -> LayerCall:
    """Cost of one call. x, y: [1, tokens, channels], [1, channels, height, width] or [1, channels]; y of a merge is a
    `Merging`."""
    if isinstance(module, HeadwiseAttention):  # the output projection is a separate layer
        return _attention_call(module, x)
    if isinstance(module, TokenMerge):  # the metric is a separate layer
        return _merge_call(module, x)
    if isinstance(module, AttentionPool):  # its projections are separate layers
        tokens = x.shape[1]
        moved = x.numel() + module.latent.numel() + 2 * tokens * module.proj.in_features
        return LayerCall(tokens, tokens * module.macs_per_token, moved * FLOAT32_BYTES)
    assert isinstance(y, Tensor)
    weights = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    moved = (x.numel() + weights + y.numel()) * FLOAT32_BYTES
    if isinstance(module, NORMS):
        return LayerCall(x.numel() // x.shape[-1], 0, moved)
    assert isinstance(module, nn.Linear | nn.Conv2d)
    positions = y.numel() // module.weight.shape[0]
    return LayerCall(positions, positions * module.weight.numel(), moved)


def _attention_call(attention: HeadwiseAttention, x: Tensor) -> LayerCall:
    tokens, width, layout = x.shape[1], x.shape[2], attention.layout
    queries = tokens if attention.num_queries is None else attention.num_queries
    projected = queries * layout.qk_width + tokens * (layout.qk_width + layout.v_width)  # elements
    products = queries * tokens * (layout.qk_width + layout.v_width)
    moved = x.numel() + attention.qkv.weight.numel() + 2 * projected + queries * layout.v_width
    return LayerCall(tokens, projected * width + products, moved * FLOAT32_BYTES)


def _merge_call(merge: TokenMerge, x: Tensor) -> LayerCall:
    tokens, width = x.shape[1:]
    compared, by_channel = merge_macs(tokens, merge)
    moved = tokens * merge.metric.out_features + (tokens + merge.tokens) * width + 2 * by_channel
    return LayerCall(tokens, compared + by_channel * width, moved * FLOAT32_BYTES)
