"""Small models whose latencies tell those of single blocks: a few blocks of a source model, cut to given sizes.

A probe is an ordinary model, which every target exports and every runtime runs: the source model's patch embedding,
`count` equal blocks, one last block, and the classifier. The time of a probe without the equal blocks is subtracted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor, nn

from toolkit.errors import UnsupportedModel
from toolkit.models.block import attentions, blocks_of
from toolkit.models.model import Model
from toolkit.models.resize import resized
from toolkit.models.surgery import remove
from toolkit.models.tokens import block_indices, with_tokens
from toolkit.prune.cost_table import CountedTable
from toolkit.prune.grid import CHAIN, LONGEST_CHAIN
from toolkit.records import BlockShape, Cut, Matching, Merge, Probe


def probe_model(source: Model, probe: Probe, matching: Matching | None) -> Model:
    """The model of a probe, with a hash. Its blocks have the weights of the source model's first units.

    matching: how its block merges tokens, if it does.
    """
    shapes = [*([probe.block] * probe.count if probe.block else []), probe.last]
    first = shapes[0]
    model = _first_blocks(resized(source, probe.image_size), len(shapes))
    _shorten(model.module, first.tokens_in)
    if first.tokens_out < first.tokens_in and matching:
        block = block_indices(model.info)[0]
        model = with_tokens(model, (Merge(block, first.tokens_out, matching),))
    cuts = [cut for (place, _), shape in zip(model.blocks, shapes, strict=True) for cut in cuts_to(model, place, shape)]
    small = remove(model, cuts).model if cuts else model
    if probe.sized:
        blocks_of(small.module).register_forward_pre_hook(_with_sizes)
    return Model(small.module, small.info).with_current_info().identified()


def _first_blocks(model: Model, count: int) -> Model:
    """A copy with the first blocks."""
    last = tuple(range(count, len(model.blocks)))
    if last:
        model = remove(model, [Cut("blocks", "block", last)]).model
    return Model(model.copied().module, model.info)  # nothing is cached on it: the number of its tokens changes


def with_chains(probes: list[Probe], source: Model) -> list[Probe]:
    """The probes with chains as long as it takes for their blocks to cost about as much as the rest of the model.

    Raises UnsupportedModel for a model of one block.
    """
    longest = min(LONGEST_CHAIN, len(source.blocks) - 1)
    if longest < 1:
        raise UnsupportedModel("latencies of single blocks cannot be measured in a model of one block")
    macs = CountedTable(source, "MACs")

    def length(probe: Probe) -> int:
        if probe.block is None:
            return 0
        if probe.block.tokens_out < probe.block.tokens_in:
            return 1
        needed = -(-macs.rest(source.info.image_size) // macs.block(probe.block))
        return min(max(CHAIN, needed), longest)

    return [replace(probe, count=length(probe)) for probe in probes]


def cuts_to(model: Model, place: str, shape: BlockShape) -> Iterator[Cut]:
    """Cuts of a block that leave its first heads, the first channels of each, and the first MLP units."""
    heads, qk, v = shape.heads, shape.qk // shape.heads, shape.v // shape.heads
    for group in model.groups:
        if not group.place.startswith(f"{place}.") or group.axis not in ("head", "qk", "v", "mlp"):
            continue
        width = group.segments[0]
        if group.axis in ("head", "mlp"):
            units = tuple(range(heads if group.axis == "head" else shape.mlp, group.units))
        else:
            kept = qk if group.axis == "qk" else v
            units = tuple(head * width + unit for head in range(heads) for unit in range(kept, width))
        if units:
            yield Cut(group.place, group.axis, units)


def _shorten(module: nn.Module, tokens: int) -> None:
    """Let the blocks compute the first tokens only, in place."""
    blocks_of(module).register_forward_pre_hook(_FirstTokens(tokens))
    for attention in attentions(module).values():
        if attention.relative_position_index is not None:
            attention.relative_position_index = attention.relative_position_index[:tokens, :tokens]


class _FirstTokens:
    """Forward hook that keeps the first tokens of an image."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens

    def __call__(self, blocks: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return inputs[0][:, : self._tokens], *inputs[1:]


def _with_sizes(blocks: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Forward hook that gives tokens a size; it depends on the image, so that no exporter computes with it early."""
    x = inputs[0]
    return x, 1 + x[..., 0].square()
