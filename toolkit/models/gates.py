"""Soft masks: one factor per unit, between 1 (the unit is unchanged) and 0 (it is removed).

A gate scales the contribution of a unit to the rest of the model. MLP units, value units, heads and residual channels:
the input columns of the layers that read them; for residual channels, also their weight in the statistics of norms.
Query/key units: the query. Blocks: the difference between output and input. The derivative with respect to a gate is
that of the mask variable in Michel et al., "Are sixteen heads really better than one?" (2019).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization, remove_parametrizations

from toolkit.errors import PlanError
from toolkit.models.block import attentions, named_blocks
from toolkit.models.groups import Group, Key, Slice
from toolkit.models.model import Model
from toolkit.models.norms import NORMS, eps_of

BlockOutput: TypeAlias = tuple[Tensor, Tensor | None]
"""Tokens and their sizes."""


@contextmanager
def gated(model: Model, keys: Collection[Key]) -> Iterator[dict[Key, nn.Parameter]]:
    """Gates of these groups, [units] each, initially 1. The model's outputs depend on them until the context ends.

    Within the context, `model.module` has the gates as additional parameters, and gated weights have other names. On
    exit the module has its own parameters again, without the gates. Raises PlanError for a group that does not exist.
    """
    groups = [model.groups.find(*key) for key in keys]
    device = next(model.module.parameters()).device
    gates = {group.key: nn.Parameter(torch.ones(group.units, device=device)) for group in groups}
    with ExitStack() as stack:
        model.module.register_module("gates", nn.ParameterList(gates.values()))
        stack.callback(delattr, model.module, "gates")
        for group in groups:
            _attach(model.module, group, gates[group.key], stack)
        yield gates


def _attach(module: nn.Module, group: Group, gate: nn.Parameter, stack: ExitStack) -> None:
    """Make the module depend on a group's gate, until the stack is closed."""
    if group.axis == "block":
        for index, block in enumerate(named_blocks(module).values()):
            if block.merge is not None:
                raise PlanError(f"block {index} merges tokens, so it has no gate", "merge in another block")
            stack.callback(block.register_forward_hook(_interpolated(gate, index)).remove)
        return
    if group.axis == "embed":
        for norm in group.norms(module).values():
            stack.callback(norm.register_forward_hook(_weighted_norm(gate)).remove)
    for piece in read_slices(module, group):
        owner, _, name = piece.parameter.rpartition(".")
        layer = module.get_submodule(owner)
        stack.callback(_restore_parameter, layer, name, list(layer._parameters))
        register_parametrization(layer, name, _Scaled(gate, piece))


def read_slices(module: nn.Module, group: Group) -> list[Slice]:
    """The slices by which the rest of the model receives the units of a group.

    The input columns of the linear layers that read them; for `qk`, whose units are products of a query and a key
    channel, the query's weights and bias.
    """
    if group.axis == "qk":
        queries = attentions(module)[group.place].layout.qk_width
        own = [piece for piece in group.slices if not piece.parameter.endswith(".k_bias")]
        return [piece for piece in own if int(piece.positions.max()) < queries]
    return [
        piece
        for piece in group.slices
        if piece.dim == 1 and isinstance(module.get_submodule(piece.parameter.rpartition(".")[0]), nn.Linear)
    ]


class _Scaled(nn.Module):
    """A parameter whose slices are multiplied by their units' gates."""

    def __init__(self, gate: nn.Parameter, piece: Slice) -> None:
        super().__init__()
        self._gate = (gate,)  # in a tuple, because it is registered as a parameter of the model
        self._piece = piece

    def forward(self, weight: Tensor) -> Tensor:
        gate, piece = self._gate[0], self._piece
        ones = gate.new_ones(weight.shape[piece.dim])
        scale = ones.index_copy(0, piece.positions.to(gate.device), gate[piece.units.to(gate.device)])
        return weight * scale.view(-1, *[1] * (weight.dim() - piece.dim - 1))


def _restore_parameter(layer: nn.Module, name: str, order: Sequence[str]) -> None:
    """Remove the parametrizations of a parameter, and restore this order of the layer's parameters."""
    if is_parametrized(layer, name):  # false after another group's gate on the same parameter was removed
        remove_parametrizations(layer, name, leave_parametrized=False)
    for parameter in order:
        layer._parameters[parameter] = layer._parameters.pop(parameter)


def _interpolated(gate: nn.Parameter, index: int) -> Callable[..., BlockOutput]:
    """Tokens of a block between its input (gate 0) and its own output (gate 1)."""

    def hook(block: nn.Module, inputs: tuple[Tensor, ...], output: BlockOutput) -> BlockOutput:
        tokens, sizes = output
        return torch.lerp(inputs[0][:, : tokens.shape[1]], tokens, gate[index]), sizes  # all, or the first ones

    return hook


def _weighted_norm(gate: nn.Parameter) -> Callable[..., Tensor]:
    """Norm with statistics over the gated channels: E[x] = sum(g * x) / sum(g)."""

    def hook(norm: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(norm, NORMS)
        x, total = inputs[0], gate.sum()
        centred = x if isinstance(norm, nn.RMSNorm) else x - (x * gate).sum(dim=-1, keepdim=True) / total
        variance = (centred.square() * gate).sum(dim=-1, keepdim=True) / total
        normed = centred * torch.rsqrt(variance + eps_of(norm))
        if norm.weight is not None:
            normed = normed * norm.weight
        return normed if isinstance(norm, nn.RMSNorm) or norm.bias is None else normed + norm.bias

    return hook
