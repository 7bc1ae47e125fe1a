"""Module classes that can be pruned and exported. Anything else that timm builds is refused by name and class."""

from __future__ import annotations

from collections.abc import Iterator

from timm.layers import norm
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import GluMlp, Mlp, SwiGLU
from timm.models import beit, vision_transformer
from torch import nn

from toolkit.errors import UnsupportedModel
from toolkit.models.architectures.timm_vit.canonical import MODELS, unsupported_attention

BLOCKS = (vision_transformer.Block, vision_transformer.ResPostBlock, beit.Block)
"""Blocks of one attention followed by one MLP."""
NORMS = (nn.LayerNorm, norm.LayerNorm, norm.LayerNormFp32, norm.RmsNorm, norm.RmsNormFp32)
"""Norms over a token's channels; their statistics can be restricted to the kept channels."""
MLPS = (Mlp, SwiGLU, GluMlp)
"""MLPs of two layers, or with a second first layer as a gate."""
LAYERS = (nn.Linear, nn.Conv2d, nn.LayerNorm, norm.RmsNorm, norm.RmsNormFp32, nn.PReLU, LayerScale)
"""Leaf layers with weights."""


def check_parts(model: nn.Module, name: str) -> None:
    """Raise UnsupportedModel for a model with parts that cannot be pruned. `name` is the model's name in timm."""
    if type(model) not in MODELS:
        raise UnsupportedModel(f"{name} is a {type(model).__name__}, which cannot be pruned")
    if problem := next(_problems(model), ""):
        raise UnsupportedModel(f"{name} cannot be pruned yet: {problem}", "docs/models.md lists the supported models")


def _problems(model: nn.Module) -> Iterator[str]:
    blocks = [*model.get_submodule("blocks").children()]
    if not blocks:
        yield "it has no blocks"
    if getattr(model, "rel_pos_bias", None) is not None:
        yield "its blocks share one relative position table (rel_pos_bias)"
    if (pool := getattr(model, "attn_pool", None)) is not None:
        yield from _pool_problems(pool)
    if not getattr(model, "global_pool", None):
        yield "with global_pool='' it outputs one result per token, not one per image"
    for index, block in enumerate(blocks):
        yield from _block_problems(f"blocks.{index}", block)
    for name, layer in model.named_modules():
        # Norms have no common base class, so find them by name. Exact types, since subclasses may use other dimensions.
        unknown_norm = "norm" in type(layer).__name__.lower() and type(layer) not in NORMS
        leaf = bool([*layer.parameters()]) and not [*layer.children()]
        if unknown_norm or (leaf and not isinstance(layer, LAYERS)):
            yield f"{name} is a {type(layer).__name__}"


def _pool_problems(pool: nn.Module) -> Iterator[str]:
    if type(pool) is not AttentionPoolLatent:
        yield f"it uses attention pooling (attn_pool is a {type(pool).__name__})"
    elif pool.pos_embed is not None or not isinstance(pool.q_norm, nn.Identity) or pool.mlp is None:
        yield "its attention pooling has positions or norms of queries and keys, or no output projection"


def _block_problems(place: str, block: nn.Module) -> Iterator[str]:
    if type(block) not in BLOCKS:
        yield f"{place} is a {type(block).__name__}, not one attention followed by one MLP"
        return
    if problem := unsupported_attention(f"{place}.attn", block.get_submodule("attn")):
        yield problem
    mlp = block.get_submodule("mlp")
    if type(mlp) not in MLPS:
        yield f"{place}.mlp is a {type(mlp).__name__}, neither a two-layer MLP nor a gated one"
    elif not isinstance(mlp.norm, nn.Identity):
        yield f"{place}.mlp.norm is a {type(mlp.norm).__name__} between the two layers of the MLP"
