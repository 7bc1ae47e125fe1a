"""Change a model's structure: remove blocks, replace parameters, set shapes."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping

import torch
from torch import nn

from toolkit.errors import WeightsError
from toolkit.models.architectures import Architecture
from toolkit.models.block import attentions, blocks_of
from toolkit.models.norms import NORMS


def drop_blocks(model: nn.Module, removed: Collection[int]) -> None:
    """Remove the blocks with these indices, in place."""
    blocks = blocks_of(model)
    for index in sorted(removed, reverse=True):
        del blocks[index]


def set_shapes(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Replace every parameter by one of this shape on the meta device."""
    own = dict(model.named_parameters())
    if unexpected := sorted(own.keys() ^ shapes.keys()):
        raise WeightsError(f"missing or unexpected tensors for {type(model).__name__}: {', '.join(unexpected[:8])}")
    for name, shape in shapes.items():
        if own[name].dim() != len(shape):
            raise WeightsError(f"{name} has {len(shape)} dimensions, the model needs {own[name].dim()}")
        replace_parameter(model, name, torch.empty(shape, device="meta"))


def copy_sharing_tensors(model: nn.Module, device: str | None = None) -> nn.Module:
    """A copy of the modules that shares parameters and buffers with `model`, or has them moved to `device`."""

    def moved(tensor: torch.Tensor) -> torch.Tensor:
        if device is None:
            return tensor
        result = tensor.detach().to(device)
        return nn.Parameter(result, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else result

    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): moved(tensor) for tensor in tensors})


def replace_parameter(model: nn.Module, name: str, value: torch.Tensor) -> None:
    """Replace a parameter by a tensor, possibly of another shape."""
    parent, _, child = name.rpartition(".")
    old = model.get_parameter(name)
    setattr(model.get_submodule(parent), child, nn.Parameter(value, requires_grad=old.requires_grad))


def sync_sizes(model: nn.Module, architecture: Architecture) -> None:
    """Set size attributes of layers and model (which are printed, exported and profiled) from their weights."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.Conv2d):
            module.out_channels = module.weight.shape[0]
        elif isinstance(module, NORMS):
            module.normalized_shape = tuple(module.weight.shape)
    architecture.set_width(model, width_of(model))


def width_of(model: nn.Module) -> int:
    """Number of residual channels of a canonical model."""
    return next(iter(attentions(model).values())).proj.weight.shape[0]
