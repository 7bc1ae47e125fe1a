"""Find the prunable groups of a model.

Outside attention they come from torch-pruning's dependency graph (DepGraph, Fang et al., 2023), in which attention is
a single layer whose input and output are the residual channels. Inside attention they follow from the `HeadLayout`.
The graph is traced on the meta device; only names and sizes are used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
import torch_pruning as tp
from torch import Tensor, nn

from toolkit.errors import UnsupportedModel
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.block import attentions, named_blocks
from toolkit.models.groups import BLOCKS, RESIDUAL, Group, Groups, Slice
from toolkit.models.modes import evaluating
from toolkit.models.pooling import AttentionPool
from toolkit.models.shapes import copy_sharing_tensors
from toolkit.records import Axis


def find_groups(model: nn.Module, inputs: Mapping[str, Tensor], classifiers: Collection[str]) -> Groups:
    """All groups of a canonical model, traced with `inputs` by argument. The outputs of `classifiers` are logits."""
    groups = [*_coupled_groups(model, inputs, classifiers)]
    _check_prunable(model, groups)
    for place, attention in attentions(model).items():
        groups += attention_groups(place, attention)
    return Groups(model, [*groups, _block_group(model)])


def _check_prunable(model: nn.Module, coupled: Sequence[Group]) -> None:
    """Raise UnsupportedModel unless each unit has exactly one index in each coupled weight."""
    for group in coupled:
        for piece in group.slices:
            width = model.get_parameter(piece.parameter).shape[piece.dim]
            if width != group.units:
                raise UnsupportedModel(
                    f"{piece.parameter} has size {width} for {group.units} units of {group.place}, "
                    "which cannot be pruned yet"
                )


def attention_groups(place: str, attention: HeadwiseAttention) -> list[Group]:
    """The head, query/key and value groups of one attention."""
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
        indices = torch.arange(len(heads))
        whole += (Slice(f"{place}.relative_position_bias_table", 1, indices, indices),)
    return [
        Group(place, "head", (len(heads),), whole),
        Group(place, "qk", tuple(qk for qk, _ in heads), slices(queries, None), attention.q_norm is not None),
        Group(place, "v", tuple(v for _, v in heads), slices(None, values)),
    ]


def _block_group(model: nn.Module) -> Group:
    """The group of blocks: each block is a unit, with all of its parameters."""
    blocks = named_blocks(model)
    slices = []
    for index, (place, block) in enumerate(blocks.items()):
        for name, parameter in block.named_parameters():
            positions = torch.arange(parameter.shape[0])
            slices.append(Slice(f"{place}.{name}", 0, positions, torch.full_like(positions, index)))
    return Group(*BLOCKS, (len(blocks),), tuple(slices))


def _coupled_groups(model: nn.Module, inputs: Mapping[str, Tensor], classifiers: Collection[str]) -> Iterator[Group]:
    """Groups of residual channels and MLP hidden units, from the dependency graph."""
    model = copy_sharing_tensors(model, "meta")
    metrics = _without_token_reduction(model)
    with evaluating(model), _as_one_node(model):
        graph = tp.DependencyGraph().build_dependency(
            model,
            example_inputs={name: tensor.to("meta") for name, tensor in inputs.items()},
            customized_pruners={
                HeadwiseAttention: _AttentionPruner(),
                nn.RMSNorm: _RmsNormPruner(),
                AttentionPool: _POOL,
            },
            verbose=False,
        )
    names: dict[object, str] = {module: name for name, module in model.named_modules()}
    names |= {parameter: name for name, parameter in model.named_parameters()}
    ignored = [model.get_submodule(name) for name in classifiers]
    places = {layer: names[block.mlp] for block in named_blocks(model).values() for layer in block.mlp_inputs}
    for group in graph.get_all_groups(ignored_layers=ignored, root_module_types=[nn.Conv2d, nn.Linear]):
        root = group[0].dep.target.module
        if any(isinstance(item.dep.target.module, HeadwiseAttention) for item in group):
            residual = _converted(group, names, *RESIDUAL)
            channels = torch.arange(residual.units)
            compared = tuple(Slice(f"{name}.weight", 1, channels, channels) for name in metrics)
            yield replace(residual, slices=residual.slices + compared)
        elif root in places:
            yield _converted(group, names, places[root], "mlp")
        else:
            raise UnsupportedModel(f"the output channels of {names[root]} belong to no axis that can be pruned")


def _without_token_reduction(model: nn.Module) -> list[str]:
    """Let all blocks compute all tokens, in place; names of the layers whose inputs merges compare."""
    metrics = []
    for name, block in named_blocks(model).items():
        block.attn.num_queries = None
        if block.merge is not None:
            metrics.append(f"{name}.merge.metric")
            block.merge = None
    return metrics


def _converted(group: tp.Group, names: Mapping[object, str], place: str, axis: Axis) -> Group:
    """Convert a torch-pruning group of (layer, direction, indices) to slices of named parameters."""
    slices: dict[tuple[str, int], Slice] = {}
    units = len(group[0].idxs)
    for item in group:
        module, positions = item.dep.target.module, torch.tensor(item.idxs)
        roots = torch.tensor(item.root_idxs)
        for name, dim in _dimensions(module, item.dep, names):
            slices.setdefault((name, dim), Slice(name, dim, positions, roots))
    return Group(place, axis, (units,), tuple(slices.values()))


def _dimensions(module: object, dep: tp.Dependency, names: Mapping[object, str]) -> list[tuple[str, int]]:
    """(parameter, dimension) pairs that torch-pruning's pruning function would shorten."""
    name = names.get(module, "")
    if isinstance(module, nn.Parameter):
        return [(name, dep.target.pruning_dim % module.dim())]
    inputs = dep.handler in (tp.prune_linear_in_channels, tp.prune_conv_in_channels, _POOL.prune_in_channels)
    if isinstance(module, HeadwiseAttention):
        pairs = [(f"{name}.qkv.weight", 1), (f"{name}.proj.weight", 0)]
        return pairs + ([(f"{name}.proj.bias", 0)] if module.proj.bias is not None else [])
    if isinstance(module, AttentionPool):
        return [(f"{name}.kv.weight", 1)] if inputs else []
    if isinstance(module, nn.RMSNorm):
        return [(f"{name}.weight", 0)]
    if isinstance(module, nn.Linear | nn.Conv2d | nn.LayerNorm):
        pairs = [(f"{name}.weight", 1 if inputs else 0)]
        return pairs + ([(f"{name}.bias", 0)] if module.bias is not None and not inputs else [])
    return []  # reshapes, additions and the like have no parameters


class _AttentionPruner(tp.BasePruningFunc):  # type: ignore[misc]
    """Declares to the graph that input and output channels of attention are coupled; never prunes."""

    def prune_out_channels(self, layer: HeadwiseAttention, idxs: Sequence[int]) -> HeadwiseAttention:
        return layer

    prune_in_channels = prune_out_channels

    def get_out_channels(self, layer: HeadwiseAttention) -> int:
        return layer.proj.out_features

    def get_in_channels(self, layer: HeadwiseAttention) -> int:
        return layer.proj.out_features


class _RmsNormPruner(_AttentionPruner):
    """Declares that input and output channels of a norm are coupled; never prunes."""

    def get_out_channels(self, layer: nn.RMSNorm) -> int:  # type: ignore[override]
        return layer.normalized_shape[0]

    get_in_channels = get_out_channels  # type: ignore[assignment]


class _PoolPruner(tp.BasePruningFunc):  # type: ignore[misc]
    """Declares that an attention pooling's input and output channels are not coupled; never prunes."""

    def prune_out_channels(self, layer: AttentionPool, idxs: Sequence[int]) -> AttentionPool:
        return layer

    def prune_in_channels(self, layer: AttentionPool, idxs: Sequence[int]) -> AttentionPool:
        return layer

    def get_out_channels(self, layer: AttentionPool) -> int:
        return layer.proj.out_features

    def get_in_channels(self, layer: AttentionPool) -> int:
        return layer.kv.in_features


_POOL = _PoolPruner()


class _OneNode(torch.autograd.Function):
    """A single node of the autograd graph, whose values do not matter."""

    @staticmethod
    def forward(ctx: object, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        return x.new_zeros(shape)

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        raise NotImplementedError("gradients are never computed")


@contextmanager
def _as_one_node(model: nn.Module) -> Iterator[None]:
    """Trace each attention, pooling and RMS norm as a single operation."""
    layers = [layer for layer in model.modules() if isinstance(layer, HeadwiseAttention | AttentionPool | nn.RMSNorm)]
    for layer in layers:
        layer.forward = partial(_forward_as_one_node, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def _forward_as_one_node(layer: nn.Module, x: Tensor, key_bias: Tensor | None = None) -> Tensor:
    shape = (len(x), layer.proj.out_features) if isinstance(layer, AttentionPool) else tuple(x.shape)
    output: Tensor = _OneNode.apply(x, shape)
    return output
