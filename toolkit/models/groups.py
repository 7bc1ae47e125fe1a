"""What can be removed from a model, and what must go with it.

A `Group` is a set of units of one kind at one place: the hidden units of an MLP, the heads of an attention, the
residual channels. Each unit lives in `Slice`s: positions along one dimension of one parameter. Scores are sums over
slices, costs are products of what is left of them, and surgery keeps the rest; none of the three knows architectures.

Outside attention the groups come from torch-pruning's dependency graph (DepGraph, Fang et al., 2023), with attention
registered as one layer: the residual goes in and comes out, and nothing inside couples outward. Inside attention they
follow from the `HeadLayout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch_pruning as tp
from torch import Tensor, nn

from toolkit.errors import PlanError, UnsupportedModel
from toolkit.models.adapt import attentions
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.modes import evaluating
from toolkit.models.shapes import blocks_of
from toolkit.records import Axis

Key = tuple[str, Axis]
"""Place and axis: the name of a group."""

Unit = tuple[Key, int]
"""One unit of a group."""

Scores = dict[Key, Tensor]
"""Importance of every unit of every group, [units] float64; higher is more important."""


@dataclass(frozen=True)
class Slice:
    """Positions along dimension `dim` of a parameter and the unit that each belongs to, both [positions] int64."""

    parameter: str
    dim: int
    positions: Tensor
    units: Tensor


@dataclass(frozen=True)
class Group:
    """Units of one kind at one place. `segments` are the sizes of the runs of units of which one must always stay:
    one run as a rule, one for each head along qk and v."""

    place: str
    axis: Axis
    segments: tuple[int, ...]
    slices: tuple[Slice, ...]

    @property
    def key(self) -> Key:
        return self.place, self.axis

    @property
    def units(self) -> int:
        return sum(self.segments)

    def members(self, segment: int | None = None) -> frozenset[Unit]:
        """All units, or those of one segment."""
        first = sum(self.segments[:segment]) if segment is not None else 0
        count = self.units if segment is None else self.segments[segment]
        return frozenset((self.key, unit) for unit in range(first, first + count))


class Groups:
    """All groups of one model, by place and axis."""

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        self._parameters = dict(model.named_parameters())
        self.by_key: Mapping[Key, Group] = {group.key: group for group in groups}

    def __iter__(self) -> Iterator[Group]:
        return iter(self.by_key.values())

    def along(self, axes: Sequence[Axis]) -> Groups:
        """Only the groups of these axes."""
        chosen = Groups.__new__(Groups)
        chosen._parameters = self._parameters
        chosen.by_key = {key: group for key, group in self.by_key.items() if group.axis in axes}
        return chosen

    def find(self, place: str, axis: Axis) -> Group:
        if (place, axis) not in self.by_key:
            raise PlanError(f"there is no axis {axis!r} at {place!r} in this model")
        return self.by_key[place, axis]

    def members(self) -> frozenset[Unit]:
        """Every unit of every group."""
        return frozenset(unit for group in self for unit in group.members())

    def inside(self, unit: Unit) -> Iterator[Unit]:
        """Those of these units that go with this one: a head's queries, keys and values, everything in a block."""
        (place, axis), index = unit
        for group in self if axis in ("block", "head") else ():
            if axis == "block" and in_block(group.place, index):
                yield from group.members()
            elif axis == "head" and group.place == place and group.axis in ("qk", "v"):
                yield from group.members(index)

    def reduce(self, importance: Callable[[str, Tensor], Tensor]) -> Scores:
        """Sum an element-wise importance over each unit's coupled weights.

        `importance(name, parameter)` gives a tensor of the parameter's shape; it is asked once for each parameter.
        """
        slices: dict[str, list[tuple[Key, Slice]]] = {}
        for group in self:
            for piece in group.slices:
                slices.setdefault(piece.parameter, []).append((group.key, piece))
        scores = {group.key: torch.zeros(group.units, dtype=torch.float64) for group in self}
        for name, pieces in slices.items():
            values = importance(name, self._parameters[name].detach())
            for key, piece in pieces:
                others = [dim for dim in range(values.dim()) if dim != piece.dim]
                along = values.sum(dim=others) if others else values  # [size of dim]
                scores[key].index_add_(0, piece.units, along[piece.positions].double())
        return scores


def find_groups(model: nn.Module, image_size: int) -> Groups:
    """Every group of a canonical model (all attention is `HeadwiseAttention`)."""
    found = [*_coupled_groups(model, image_size)]
    _check_cuttable(model, found)
    for place, attention in attentions(model).items():
        found += attention_groups(place, attention)
    return Groups(model, [*found, _block_group(model)])


def in_block(name: str, index: int) -> bool:
    """Whether the module or parameter of this name is part of the block."""
    return name.startswith(f"blocks.{index}.")


def _check_cuttable(model: nn.Module, coupled: Sequence[Group]) -> None:
    """One position a unit in every coupled weight."""
    for group in coupled:
        for piece in group.slices:
            width = model.get_parameter(piece.parameter).shape[piece.dim]
            if width != group.units:
                raise UnsupportedModel(
                    f"{piece.parameter} has {width} positions for {group.units} units of {group.place}, "
                    "which cannot be cut yet"
                )


def attention_groups(place: str, attention: HeadwiseAttention) -> list[Group]:
    """Heads, query/key units and value units of one attention."""
    heads = attention.layout.heads
    qk_width = attention.layout.qk_width
    qk_head = torch.repeat_interleave(torch.tensor([qk for qk, _ in heads]))  # [Q] head of each query row
    v_head = torch.repeat_interleave(torch.tensor([v for _, v in heads]))  # [V]
    queries, values = torch.arange(qk_width), torch.arange(len(v_head))

    def slices(qk_unit: Tensor | None, v_unit: Tensor | None) -> tuple[Slice, ...]:
        pieces: list[Slice] = []
        if qk_unit is not None:
            pieces.append(Slice(f"{place}.qkv.weight", 0, queries, qk_unit))
            pieces.append(Slice(f"{place}.qkv.weight", 0, queries + qk_width, qk_unit))
            biases = [name for name in ("q_bias", "k_bias") if getattr(attention, name) is not None]
            pieces += [Slice(f"{place}.{name}", 0, queries, qk_unit) for name in biases]
        if v_unit is not None:
            pieces.append(Slice(f"{place}.qkv.weight", 0, values + 2 * qk_width, v_unit))
            pieces.append(Slice(f"{place}.proj.weight", 1, values, v_unit))
            if attention.v_bias is not None:
                pieces.append(Slice(f"{place}.v_bias", 0, values, v_unit))
        return tuple(pieces)

    whole = slices(qk_head, v_head)
    if attention.relative_position_bias_table is not None:
        each = torch.arange(len(heads))
        whole += (Slice(f"{place}.relative_position_bias_table", 1, each, each),)
    return [
        Group(place, "head", (len(heads),), whole),
        Group(place, "qk", tuple(qk for qk, _ in heads), slices(queries, None)),
        Group(place, "v", tuple(v for _, v in heads), slices(None, values)),
    ]


def _block_group(model: nn.Module) -> Group:
    """A block is a unit; all of its parameters belong to it."""
    blocks = blocks_of(model)
    slices = []
    for index, block in enumerate(blocks):
        for name, parameter in block.named_parameters():
            positions = torch.arange(parameter.shape[0])
            slices.append(Slice(f"blocks.{index}.{name}", 0, positions, torch.full_like(positions, index)))
    return Group("blocks", "block", (len(blocks),), tuple(slices))


def _coupled_groups(model: nn.Module, image_size: int) -> Iterator[Group]:
    """Residual channels and MLP hidden units, from the dependency graph."""
    with evaluating(model), _one_node_attention(model):
        graph = tp.DependencyGraph().build_dependency(
            model,
            example_inputs=torch.zeros(1, 3, image_size, image_size, device=next(model.parameters()).device),
            customized_pruners={HeadwiseAttention: _AttentionPruner()},
            verbose=False,
        )
    names: dict[object, str] = {module: name for name, module in model.named_modules()}
    names |= {parameter: name for name, parameter in model.named_parameters()}
    classifiers = [module for name, module in model.named_modules() if name in ("head", "head_dist")]
    for group in graph.get_all_groups(ignored_layers=classifiers, root_module_types=[nn.Conv2d, nn.Linear]):
        root = names[group[0].dep.target.module]
        if any(names.get(item.dep.target.module) == "patch_embed.proj" for item in group):
            yield _translated(group, names, "residual", "embed")
        elif root.endswith(".mlp.fc1"):
            yield _translated(group, names, root.removesuffix(".fc1"), "mlp")
        else:
            raise UnsupportedModel(f"the channels that {root} writes belong to no axis that this toolkit can cut")


def _translated(group: tp.Group, names: Mapping[object, str], place: str, axis: Axis) -> Group:
    """torch-pruning's (layer, direction, indices) as slices of named parameters."""
    slices: dict[tuple[str, int], Slice] = {}
    units = len(group[0].idxs)
    for item in group:
        module, positions = item.dep.target.module, torch.tensor(item.idxs)
        roots = torch.tensor(item.root_idxs)
        for name, dim in _dimensions(module, item.dep, names):
            slices.setdefault((name, dim), Slice(name, dim, positions, roots))
    return Group(place, axis, (units,), tuple(slices.values()))


def _dimensions(module: object, dep: tp.Dependency, names: Mapping[object, str]) -> list[tuple[str, int]]:
    """The (parameter, dimension) pairs that a pruning function of torch-pruning would shorten."""
    name = names.get(module, "")
    if isinstance(module, nn.Parameter):
        return [(name, dep.target.pruning_dim % module.dim())]
    inputs = dep.handler in (tp.prune_linear_in_channels, tp.prune_conv_in_channels)
    if isinstance(module, HeadwiseAttention):
        pairs = [(f"{name}.qkv.weight", 1), (f"{name}.proj.weight", 0)]
        return pairs + ([(f"{name}.proj.bias", 0)] if module.proj.bias is not None else [])
    if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm):
        pairs = [(f"{name}.weight", 1 if inputs else 0)]
        return pairs + ([(f"{name}.bias", 0)] if module.bias is not None and not inputs else [])
    return []  # reshapes, additions and the like hold no parameter


class _AttentionPruner(tp.BasePruningFunc):  # type: ignore[misc]
    """Tells the graph that attention takes and gives `width` channels that must stay equal; it never cuts."""

    def prune_out_channels(self, layer: HeadwiseAttention, idxs: Sequence[int]) -> HeadwiseAttention:
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: HeadwiseAttention) -> int:
        return layer.proj.out_features

    def get_in_channels(self, layer: HeadwiseAttention) -> int:
        return layer.proj.out_features


class _OneNode(torch.autograd.Function):
    """The identity, as a single node of the autograd graph."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


@contextmanager
def _one_node_attention(model: nn.Module) -> Iterator[None]:
    """While the graph is traced, attention is one operation and not the many inside it."""
    layers = list(attentions(model).values())
    for layer in layers:
        layer.forward = _forward_as_one_node  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward_as_one_node(x: Tensor, **unused: object) -> Tensor:
    output: Tensor = _OneNode.apply(x)
    return output
