"""Parameters, multiply-accumulates (MACs) and bytes moved, measured on the real module by running it on shapes alone.

Counted are the products of convolutions, linear layers and attention (q k^T and its product with v); norms,
activations and additions are not, as is the field's custom. FLOPs are about twice the MACs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from toolkit.models.attention import HeadwiseAttention
from toolkit.models.modes import evaluating

FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Counts:
    """For one image: `macs`, and `bytes_moved` when every layer reads and writes memory once in float32."""

    parameters: int
    macs: int
    bytes_moved: int


@dataclass(frozen=True)
class Layer:
    """One call of one layer during one image."""

    positions: int
    """How often its weights are applied: tokens, patches, or 1."""
    macs: int
    bytes_moved: int


def count(model: nn.Module, image_size: int) -> Counts:
    """Counts of the whole model for one image of `image_size` x `image_size` pixels."""
    return count_layers(model, trace(model, image_size))


def count_layers(model: nn.Module, layers: Mapping[str, Layer]) -> Counts:
    """`count` from the layers of `trace`."""
    return Counts(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=sum(layer.macs for layer in layers.values()),
        bytes_moved=sum(layer.bytes_moved for layer in layers.values()),
    )


def trace(model: nn.Module, image_size: int) -> dict[str, Layer]:
    """Every layer that has weights, by module name, as one image passes through the model on the meta device."""
    with _recorded(model) as layers:
        shape_of_logits(model, image_size)
    return layers


def shape_of_logits(model: nn.Module, image_size: int) -> tuple[int, ...]:
    """What comes out when one image of `image_size` x `image_size` pixels passes through the model, on the meta device:
    [1, classes]."""
    weights = {name: tensor.detach().to("meta") for name, tensor in model.named_parameters()}
    weights |= {name: tensor.to("meta") for name, tensor in model.named_buffers()}
    images = torch.empty(1, 3, image_size, image_size, device="meta")
    with evaluating(model), torch.no_grad():
        logits: Tensor = functional_call(model, weights, (images,))
    return tuple(logits.shape)


@contextmanager
def _recorded(model: nn.Module) -> Iterator[dict[str, Layer]]:
    layers: dict[str, Layer] = {}
    names = {module: name for name, module in model.named_modules()}

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        layers[names[module]] = _measure(module, inputs[0], output)

    kinds = (nn.Linear, nn.Conv2d, nn.LayerNorm, HeadwiseAttention)
    hooks = [module.register_forward_hook(record) for module in names if isinstance(module, kinds)]
    try:
        yield layers
    finally:
        for hook in hooks:
            hook.remove()


def _measure(module: nn.Module, x: Tensor, y: Tensor) -> Layer:
    """One call of a layer. x, y: [1, tokens, channels], [1, channels, rows, columns] or [1, channels]."""
    if isinstance(module, HeadwiseAttention):  # its output projection is a layer of its own
        tokens, weight, layout = x.shape[1], module.qkv.weight, module.layout
        products = tokens * tokens * (layout.qk_width + layout.v_width)
        moved = x.numel() + weight.numel() + 2 * tokens * weight.shape[0] + tokens * layout.v_width
        return Layer(tokens, tokens * weight.numel() + products, moved * FLOAT32_BYTES)
    own = sum(parameter.numel() for parameter in module.parameters(recurse=False))
    moved = (x.numel() + own + y.numel()) * FLOAT32_BYTES
    if isinstance(module, nn.LayerNorm):
        return Layer(x.numel() // x.shape[-1], 0, moved)
    assert isinstance(module, nn.Linear | nn.Conv2d)
    positions = y.numel() // module.weight.shape[0]
    return Layer(positions, positions * module.weight.numel(), moved)
