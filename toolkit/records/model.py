"""Models: description and sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal, TypeAlias

from toolkit import hashing
from toolkit.preprocessing import Preprocessing
from toolkit.records.schema import since

DENSE = "dense"
"""Name of the model before pruning."""


SLIM = "slim"
"""Name of the model after pruning and fine-tuning."""


Setting: TypeAlias = int | float | bool | str | None
"""Value of an argument of a timm model."""


@dataclass(frozen=True)
class HeadLayout:
    """(qk_dim, v_dim) of each head of an attention, in memory order; equal heads are adjacent."""

    heads: tuple[tuple[int, int], ...]

    @property
    def qk_width(self) -> int:
        """Total width of the queries, which is that of the keys."""
        return sum(qk for qk, _ in self.heads)

    @property
    def v_width(self) -> int:
        """Total width of the values: the input width of the output projection."""
        return sum(v for _, v in self.heads)

    @property
    def buckets(self) -> tuple[tuple[int, int, int], ...]:
        """Buckets of adjacent equal heads: (number of heads, qk_dim, v_dim)."""
        return tuple((len(list(run)), qk, v) for (qk, v), run in groupby(self.heads))


Matching: TypeAlias = Literal["bipartite", "grid"]
"""Rule by which tokens are merged: see `toolkit.models.merge`."""


@dataclass(frozen=True)
class Merge:
    """Merging of tokens in a block."""

    block: int
    """Index in the source architecture."""
    tokens: int
    """Number of tokens that remain after the attention of this block."""
    matching: Matching = since(3, "bipartite")


@dataclass(frozen=True)
class ModelInfo:
    """`model.json` of a model folder: how to build the model for the tensors in `model.safetensors`."""

    name: str
    """timm's name of the architecture."""
    args: dict[str, Setting]
    """timm's arguments: image size, depth, ..."""
    classes: tuple[str, ...] = field(repr=False)
    image_size: int
    """Height and width of the input, in pixels."""
    preprocessing: Preprocessing
    removed_blocks: tuple[int, ...]
    """Indices in the source architecture."""
    layouts: tuple[HeadLayout, ...]
    """Heads of each remaining attention, in order."""
    parameters: int
    macs: int
    """Multiply-accumulates for one image, including the two products of attention."""
    weights_sha256: str
    """Hash of model.safetensors, which identifies the model in other records."""
    made_from: str | None = None
    """`weights_sha256` of the model that this one was pruned or fine-tuned from."""
    merges: tuple[Merge, ...] = since(2, ())
    """Blocks that merge tokens, in order."""
    trim_last_block: bool = since(3, False)
    """Whether the last block computes only the tokens that the classifier reads."""
    schema: int = 3

    @property
    def identity(self) -> str:
        """Hash of all that determines the logits of an input image: the weights' hash, unless tokens are merged or left
        out. Models of other image sizes have other weights: position embeddings or tables."""
        if not self.merges and not self.trim_last_block:
            return self.weights_sha256
        merges = [[merge.block, merge.tokens, merge.matching] for merge in self.merges]
        return hashing.digest([self.weights_sha256, merges, self.trim_last_block])


@dataclass(frozen=True)
class BlockSummary:
    """Sizes of a transformer block."""

    block: int
    """Index in the source architecture."""
    layout: HeadLayout
    mlp_width: int
    parameters: int
    macs: int
    tokens_in: int
    """Number of tokens that attention reads."""
    tokens_out: int
    """Number of tokens that the MLP computes: fewer after a merge, and in a trimmed last block."""


@dataclass(frozen=True)
class ModelSummary:
    """Sizes of a model, block by block, for `toolkit inspect` and the report."""

    name: str
    image_size: int
    preprocessing: Preprocessing
    embed_width: int
    parameters: int
    macs: int
    bytes_moved: int
    """Weights and activations read and written for one image in float32, once per layer."""
    blocks: tuple[BlockSummary, ...]
    trim_last_block: bool
    """Whether the last block computes only the tokens that the classifier reads."""
