"""Sizes and costs of a model, per block."""

from __future__ import annotations

from toolkit.models.model import Model
from toolkit.models.shapes import width_of
from toolkit.records import BlockSummary, ModelSummary


def summarise(model: Model) -> ModelSummary:
    """Summary of the model and its blocks, which are numbered as in the source model."""
    info, cost, blocks = model.info, model.cost, model.blocks
    kept = [index for index in range(len(blocks) + len(info.removed_blocks)) if index not in info.removed_blocks]
    return ModelSummary(
        name=info.name,
        image_size=info.image_size,
        preprocessing=info.preprocessing,
        embed_width=width_of(model.module),
        parameters=cost.parameters,
        macs=cost.macs,
        bytes_moved=sum(call.bytes_moved for call in model.layer_calls.values()),
        blocks=tuple(
            BlockSummary(
                block=source,
                layout=layout,
                mlp_width=block.mlp_output.weight.shape[1],
                parameters=sum(parameter.numel() for parameter in block.parameters()),
                macs=sum(call.macs for name, call in model.layer_calls.items() if name.startswith(f"{place}.")),
            )
            for source, (place, block), layout in zip(kept, blocks, model.layouts, strict=True)
        ),
    )
