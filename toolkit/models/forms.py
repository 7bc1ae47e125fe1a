"""What a model may be made of. Whatever else timm can build is refused by its place and its class."""

from __future__ import annotations

from collections.abc import Iterator

from timm.layers import norm
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import Mlp
from timm.models import beit, vision_transformer
from timm.models.deit import VisionTransformerDistilled
from torch import nn

from toolkit.errors import UnsupportedModel
from toolkit.models.adapt import fault_of_attention
from toolkit.models.shapes import blocks_of

MODELS = (vision_transformer.VisionTransformer, VisionTransformerDistilled, beit.Beit)
BLOCKS = (vision_transformer.Block, vision_transformer.ResPostBlock, beit.Block)
"""Blocks of one attention and one MLP, one after the other."""
NORMS = (nn.LayerNorm, norm.LayerNorm, norm.LayerNormFp32)
"""Norms over the channels of a token, of which some may be left out of the statistics."""
LAYERS = (nn.Linear, nn.Conv2d, nn.LayerNorm, nn.PReLU, LayerScale)
"""Layers with weights of their own."""


def check_forms(model: nn.Module, name: str) -> None:
    """Raise UnsupportedModel for a model that holds a part which cannot be cut. `name` is timm's for it."""
    if type(model) not in MODELS:
        raise UnsupportedModel(f"{name} is a {type(model).__name__}, which cannot be cut")
    if fault := next(_faults(model), ""):
        raise UnsupportedModel(f"{name} cannot be cut yet: {fault}", "docs/models.md says which models can be")


def _faults(model: nn.Module) -> Iterator[str]:
    blocks = blocks_of(model)
    if getattr(model, "rel_pos_bias", None) is not None:
        yield "its blocks share one table of relative positions (rel_pos_bias)"
    if (pool := getattr(model, "attn_pool", None)) is not None:
        yield f"it pools with attention (attn_pool is a {type(pool).__name__})"
    if not getattr(model, "global_pool", None):
        yield "with global_pool='' it answers for every token, not for an image"
    for index, block in enumerate(blocks):
        yield from _faults_of_block(f"blocks.{index}", block)
    for name, layer in model.named_modules():
        # By name, as norms have no base in common; exactly, as their subclasses may norm another dimension.
        strange_norm = "norm" in type(layer).__name__.lower() and type(layer) not in NORMS
        leaf = bool([*layer.parameters()]) and not [*layer.children()]
        if strange_norm or (leaf and not isinstance(layer, LAYERS)):
            yield f"{name} is a {type(layer).__name__}"


def _faults_of_block(place: str, block: nn.Module) -> Iterator[str]:
    if type(block) not in BLOCKS:
        yield f"{place} is a {type(block).__name__}, not one attention and one MLP in turn"
        return
    if fault := fault_of_attention(f"{place}.attn", block.get_submodule("attn")):
        yield fault
    mlp = block.get_submodule("mlp")
    if type(mlp) is not Mlp:
        yield f"{place}.mlp is a {type(mlp).__name__}, not a plain MLP of two layers"
    elif not isinstance(mlp.norm, nn.Identity):
        yield f"{place}.mlp.norm is a {type(mlp.norm).__name__} between the two layers of the MLP"
