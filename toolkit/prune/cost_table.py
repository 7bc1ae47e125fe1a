"""Cost of a model as a sum over its blocks: in MACs, in parameters, or in measured milliseconds (`measured_table`).

A search asks for the cost of thousands of blocks; each is computed once. Blocks have heads of equal widths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, Protocol

from toolkit.errors import UnsupportedModel
from toolkit.models.groups import Group, Groups
from toolkit.models.merge import TokenMerge, macs_per_channel
from toolkit.models.model import Model
from toolkit.models.resize import resized
from toolkit.models.shapes import width_of
from toolkit.models.tokens import tokens_in_block
from toolkit.records import BlockShape, HeadLayout, Matching


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model."""

    blocks: tuple[BlockShape, ...]
    image_size: int
    trim_last_block: bool = False
    """Whether the last block computes only the tokens that the classifier reads; all tokens are its keys and values."""


class CostTable(Protocol):
    """Cost of any configuration of the blocks of one source model."""

    unit: str
    """"MACs", "parameters" or "ms"."""

    def block(self, shape: BlockShape) -> float:
        """Cost of a block that is not the last one. Raises BadInput for a shape outside of what was measured."""
        ...

    def last_block(self, shape: BlockShape, trimmed: bool) -> float:
        """Cost of the last block. `trimmed` has no effect on latencies: exported files trim it if they can."""
        ...

    def rest(self, image_size: int) -> float:
        """Cost of everything outside of the blocks: patch embedding, positions, norm, classifier."""
        ...


def total(table: CostTable, shape: ModelShape) -> float:
    """Cost of a whole model."""
    *blocks, last = shape.blocks
    return (
        table.rest(shape.image_size)
        + sum(table.block(block) for block in blocks)
        + table.last_block(last, shape.trim_last_block)
    )


def shape_of(model: Model) -> ModelShape:
    """The sizes of a model. Raises UnsupportedModel if the heads of an attention differ in width."""
    blocks = []
    for place, block in model.blocks:
        layout = block.attn.layout
        check_equal_heads(layout, f"{place}.attn")
        tokens = tokens_in_block(model, place)
        hidden = block.mlp_output.weight.shape[1]
        blocks.append(BlockShape(*tokens, len(layout.heads), layout.qk_width, layout.v_width, hidden))
    trimmed = model.info.trim_last_block
    if trimmed:
        blocks[-1] = replace(blocks[-1], tokens_out=blocks[-1].tokens_in)
    return ModelShape(tuple(blocks), model.info.image_size, trimmed)


def check_equal_heads(layout: HeadLayout, place: str) -> None:
    """Raise UnsupportedModel if the heads at `place` differ in width."""
    if len(layout.buckets) > 1:
        raise UnsupportedModel(
            f"the heads of {place} differ in width, and cost tables are for blocks of equal heads",
            "use the dense model, or a budget in MACs or parameters with --method grouped",
        )


class CountedTable:
    """MACs or parameters, equal to those of `Model.cost_model`."""

    def __init__(self, model: Model, unit: Literal["MACs", "parameters"], matching: Matching = "bipartite") -> None:
        """matching: how blocks with fewer tokens at their MLP merge them.

        Raises UnsupportedModel for blocks that differ in more than their `BlockShape`.
        """
        self.unit: str = unit
        self._model, self._matching = model, matching
        self._blocks: dict[tuple[BlockShape, bool], int] = {}
        self._rests: dict[int, int] = {}
        own = {_Parameters.of(model, place) for place, _ in model.blocks}
        if len(own) > 1:
            raise UnsupportedModel("the blocks of this model have different parts", "use --method grouped")
        self._parameters = own.pop()

    def block(self, shape: BlockShape) -> int:
        """Cost of a block; PlanError for tokens that cannot be merged."""
        return self.last_block(shape, trimmed=False)

    def last_block(self, shape: BlockShape, trimmed: bool) -> int:
        """Cost of a block that computes all tokens, or those that the classifier reads."""
        key = (shape, trimmed)
        if key not in self._blocks:
            self._blocks[key] = self._macs(shape, trimmed) if self.unit == "MACs" else self._parameters.of_block(shape)
        return self._blocks[key]

    def rest(self, image_size: int) -> int:
        """Total cost of the source model for images of this size without that of its blocks."""
        if image_size not in self._rests:
            model = resized(self._model, image_size)
            cost = model.cost.macs if self.unit == "MACs" else model.cost.parameters
            *blocks, last = (dense := shape_of(model)).blocks
            inside = sum(map(self.block, blocks)) + self.last_block(last, dense.trim_last_block)
            self._rests[image_size] = cost - inside
        return self._rests[image_size]

    def _macs(self, shape: BlockShape, trimmed: bool) -> int:
        """MACs of the linear layers, and of both products of attention."""
        outputs = self._classifier_tokens if trimmed else shape.tokens_out
        queries = self._classifier_tokens if trimmed else shape.tokens_in
        tokens, width = shape.tokens_in, self._width
        projections = width * (queries * shape.qk + tokens * (shape.qk + shape.v) + queries * shape.v)
        products = queries * tokens * (shape.qk + shape.v)
        merging = self._merging(shape) if shape.tokens_out < tokens else 0
        return projections + products + merging + outputs * width * shape.mlp * self._mlp_layers

    def _merging(self, shape: BlockShape) -> int:
        """MACs of merging tokens."""
        prefix = self._model.parts.prefix_tokens
        return self._width * macs_per_channel(shape.tokens_in, TokenMerge(shape.tokens_out, prefix, self._matching))

    @cached_property
    def _width(self) -> int:
        return width_of(self._model.module)

    @cached_property
    def _mlp_layers(self) -> int:
        """Linear layers of an MLP: two, or three if it is gated."""
        return len(self._model.blocks[0][1].mlp_inputs) + 1

    @cached_property
    def _classifier_tokens(self) -> int:
        tokens = self._model.parts.classifier_tokens
        if tokens is None:
            raise UnsupportedModel("the classifier reads all tokens, so that the last block cannot be trimmed")
        return tokens


@dataclass(frozen=True)
class _Parameters:
    """Parameters of a block: a constant, and a number for each unit along an axis."""

    constant: int
    head: int
    qk: int
    v: int
    mlp: int

    @classmethod
    def of(cls, model: Model, place: str) -> _Parameters:
        """Those of the block of this name."""
        groups, block = model.groups, model.module.get_submodule(place)
        widths = [groups.find(f"{place}.attn", axis) for axis in ("qk", "v")]
        inside = {(piece.parameter, piece.dim) for group in widths for piece in group.slices}
        heads = groups.find(f"{place}.attn", "head")
        mlp = next(group for group in groups if group.axis == "mlp" and group.place.startswith(f"{place}."))
        head = _per_unit(model, groups, heads, inside)
        qk, v, hidden = (_per_unit(model, groups, group) for group in (*widths, mlp))
        every = sum(parameter.numel() for parameter in block.parameters())
        units = (heads.units, *(group.units for group in (*widths, mlp)))
        constant = every - sum(count * each for count, each in zip(units, (head, qk, v, hidden), strict=True))
        return cls(constant, head, qk, v, hidden)

    def of_block(self, shape: BlockShape) -> int:
        return (
            self.constant
            + shape.heads * self.head
            + shape.qk * self.qk
            + shape.v * self.v
            + shape.mlp * self.mlp
        )  # fmt: skip


def _per_unit(model: Model, groups: Groups, group: Group, excluded: set[tuple[str, int]] | None = None) -> int:
    """Number of parameters for each unit of a group, apart from those along excluded dimensions."""
    count = 0
    for piece in group.slices:
        if (piece.parameter, piece.dim) not in (excluded or set()):
            others = model.module.get_parameter(piece.parameter).numel() // groups.size(piece.parameter, piece.dim)
            count += len(piece.positions) // group.units * others
    return count
