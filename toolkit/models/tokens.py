"""Fewer tokens in a model's blocks: token merging, and a last block that computes only what the classifier reads.

Trimming the last block changes no logit; merging does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn

from toolkit.errors import PlanError, UnsupportedModel
from toolkit.models.architectures import Parts
from toolkit.models.block import named_blocks
from toolkit.models.merge import TokenMerge, split_of
from toolkit.models.model import Model
from toolkit.records import Merge, ModelInfo


def with_tokens(model: Model, merges: Sequence[Merge] = (), trim_last_block: bool = False) -> Model:
    """A copy of `model` that merges tokens, or computes only the classifier's tokens in its last block, or both.

    `model` itself, which may be trimmed but has no merges yet, is not changed; it is returned if there is nothing to
    do. Raises UnsupportedModel for a model whose tokens cannot be merged, PlanError for merges that do not fit it.
    """
    trim = trim_last_block or model.info.trim_last_block
    if not merges and trim == model.info.trim_last_block:
        return model
    if model.info.merges:
        raise PlanError("the model merges tokens already", "start from the model before merging")
    if trim:
        _check_classifier(model, "the last block computes them all")
    if merges:
        check_merges(model, merges)
    other = model.copied()
    info = replace(model.info, merges=tuple(merges), trim_last_block=trim)
    set_tokens(other.module, info, model.parts)
    return Model(other.module, info, model.fresh).with_current_info()


def set_tokens(module: nn.Module, info: ModelInfo, parts: Parts) -> None:
    """Let the blocks of `module` merge and trim tokens as in `info`, in place."""
    blocks, indices = list(named_blocks(module).values()), block_indices(info)
    for merge in info.merges:
        block = blocks[indices.index(merge.block)]
        block.merge = TokenMerge(merge.tokens, parts.prefix_tokens, merge.matching)
    for block in blocks:
        block.attn.num_queries = None
    blocks[-1].attn.num_queries = parts.classifier_tokens if info.trim_last_block else None


def can_merge(model: Model) -> bool:
    """Whether the tokens of a model can be merged."""
    try:
        check_merges(model, ())
    except UnsupportedModel:
        return False
    return True


def check_merges(model: Model, merges: Sequence[Merge]) -> None:
    """Raise UnsupportedModel or PlanError if these merges are not possible in `model`."""
    _check_classifier(model, "merging would change their mean")
    if any(block.attn.relative_position_index is not None for _, block in model.blocks):
        raise UnsupportedModel(
            f"tokens of {model.info.name} cannot be merged: its attention depends on the tokens' positions",
            "prune without merging tokens",
        )
    indices, prefix = block_indices(model.info), model.parts.prefix_tokens
    tokens = tokens_of(model)
    for number, merge in enumerate(merges):
        if merge.block not in indices[:-1]:
            raise PlanError(
                f"tokens cannot be merged in block {merge.block}",
                f"choose from {', '.join(map(str, indices[:-1]))}: nothing follows the last block",
            )
        if number and merge.block <= merges[number - 1].block:
            raise PlanError("merges must be in the order of their blocks, at most one per block")
        split_of(merge.matching, tokens - prefix, merge.tokens - prefix)
        tokens = merge.tokens


def _check_classifier(model: Model, consequence: str) -> None:
    if model.parts.classifier_tokens is None:
        raise UnsupportedModel(
            f"the classifier of {model.info.name} reads all tokens, and {consequence}",
            "only models that classify by class tokens can have fewer tokens",
        )


def tokens_of(model: Model) -> int:
    """Number of tokens at the first block."""
    return model.layer_calls[f"{model.blocks[0][0]}.attn"].positions


def tokens_in_block(model: Model, place: str) -> tuple[int, int]:
    """Number of tokens that the attention of the block at `place` reads, and number that its MLP computes."""
    block = named_blocks(model.module)[place]
    output = next(f"{place}.{name}" for name, part in block.named_modules() if part is block.mlp_output)
    return model.layer_calls[f"{place}.attn"].positions, model.layer_calls[output].positions


def block_indices(info: ModelInfo) -> tuple[int, ...]:
    """Index in the source architecture of each block of a model."""
    depth = len(info.removed_blocks) + len(info.layouts)
    return tuple(index for index in range(depth) if index not in info.removed_blocks)
