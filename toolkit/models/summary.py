"""Sizes and costs of a model, per block."""

from __future__ import annotations

from toolkit.models.block import HeadwiseBlock
from toolkit.models.model import Model
from toolkit.models.shapes import width_of
from toolkit.models.tokens import block_indices, tokens_in_block
from toolkit.records import BlockSummary, ModelSummary


def summarise(model: Model) -> ModelSummary:
    """Summary of the model and its blocks, which are numbered as in the source model."""
    info, cost = model.info, model.cost
    return ModelSummary(
        name=info.name,
        image_size=info.image_size,
        preprocessing=info.preprocessing,
        embed_width=width_of(model.module),
        parameters=cost.parameters,
        macs=cost.macs,
        bytes_moved=sum(call.bytes_moved for call in model.layer_calls.values()),
        blocks=tuple(
            _summary_of(source, place, block, model)
            for source, (place, block) in zip(block_indices(info), model.blocks, strict=True)
        ),
        trim_last_block=info.trim_last_block,
    )


def _summary_of(source: int, place: str, block: HeadwiseBlock, model: Model) -> BlockSummary:
    """Summary of a block, which is number `source` of the source model."""
    tokens_in, tokens_out = tokens_in_block(model, place)
    return BlockSummary(
        block=source,
        layout=block.attn.layout,
        mlp_width=block.mlp_output.weight.shape[1],
        parameters=sum(parameter.numel() for parameter in block.parameters()),
        macs=sum(call.macs for name, call in model.layer_calls.items() if name.startswith(f"{place}.")),
        tokens_in=tokens_in,
        tokens_out=tokens_out,
    )
