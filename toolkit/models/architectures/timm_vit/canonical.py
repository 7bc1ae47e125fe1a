"""The canonical form of timm's ViT, DeiT and BEiT: `HeadwiseBlock`s with `HeadwiseAttention`.

To support another class of blocks or attention, write a function that converts it and add it to `BLOCKS` or
`ATTENTIONS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from timm.layers.attention import Attention as VitAttention
from timm.layers.attention_pool import AttentionPoolLatent
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import GluMlp, SwiGLU
from timm.layers.norm import RmsNorm, RmsNormFp32
from timm.models import beit, vision_transformer
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from toolkit.errors import UnsupportedModel
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.block import Blocks, HeadwiseBlock, blocks_of
from toolkit.models.pooling import AttentionPool
from toolkit.records import HeadLayout


class _Checkpointing(nn.Module):
    """timm's interface for gradient checkpointing, for canonical blocks."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute activations in the backward pass instead of storing them."""
        blocks_of(self).checkpointing = enable


class HeadwiseViT(_Checkpointing, vision_transformer.VisionTransformer):
    """timm's ViT with canonical blocks."""


class HeadwiseDistilledViT(_Checkpointing, VisionTransformerDistilled):
    """timm's distilled DeiT with canonical blocks."""


class HeadwiseBeit(_Checkpointing, beit.Beit):
    """timm's BEiT with canonical blocks, which it calls as one module."""

    def forward_features(self, x: Tensor) -> Tensor:
        """[batch, 3, height, width] -> [batch, tokens, width]"""
        x = self.patch_embed(x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        if self.pos_embed is not None:
            x = x + self.pos_embed
        features: Tensor = self.norm(self.blocks(self.pos_drop(x)))
        return features


MODELS: Mapping[type[nn.Module], type[nn.Module]] = {
    vision_transformer.VisionTransformer: HeadwiseViT,
    VisionTransformerDistilled: HeadwiseDistilledViT,
    beit.Beit: HeadwiseBeit,
}
"""Canonical class of each of timm's classes, with the same parts."""


def canonicalise(model: nn.Module) -> None:
    """Make timm's `model` canonical, in place; UnsupportedModel for a class that cannot be converted."""
    if type(model) not in MODELS:
        raise UnsupportedModel(f"{type(model).__name__} has no canonical form", _SUPPORTED)
    blocks = model.get_submodule("blocks").named_children()
    _replace_norms(model)
    if (pool := getattr(model, "attn_pool", None)) is not None:
        model.register_module("attn_pool", _canonical_pool(pool))
    model.register_module("blocks", Blocks(_canonical_block(f"blocks.{name}", block) for name, block in blocks))
    model.__class__ = MODELS[type(model)]


def unsupported_attention(place: str, attention: nn.Module) -> str:
    """Reason why timm's attention at `place` cannot be converted; empty if it can."""
    if type(attention) not in ATTENTIONS:
        return f"{place} is a {type(attention).__name__}"
    for part in ("q_norm", "k_norm", "norm", "gate"):  # BEiT's attention has none of these
        extra = getattr(attention, part, None)
        known = isinstance(extra, _HEAD_NORMS) and extra.weight is not None and part in ("q_norm", "k_norm")
        if not known and not isinstance(extra, nn.Identity | None):
            return f"{place}.{part} is a {type(extra).__name__}"
    kinds = [isinstance(getattr(attention, part, None), _HEAD_NORMS) for part in ("q_norm", "k_norm")]
    return "" if kinds[0] == kinds[1] else f"{place} normalises only one of queries and keys"


_HEAD_NORMS = (nn.LayerNorm, RmsNorm, RmsNormFp32, nn.RMSNorm)
"""Norms of queries and keys that can be converted."""


def canonical_name(tensor: str) -> str:
    """Name of a tensor whose name differs between timm's BEiT, or an older version of this toolkit, and now."""
    return re.sub(r"\.gamma_([12])$", r".ls\1.gamma", tensor)


def timm_name(tensor: str) -> str:
    """Name in timm's BEiT of a tensor of the canonical form."""
    return re.sub(r"\.ls([12])\.gamma$", r".gamma_\1", tensor)


def _canonical_block(place: str, block: nn.Module) -> HeadwiseBlock:
    attention = block.get_submodule("attn")
    if problem := unsupported_attention(f"{place}.attn", attention):
        raise UnsupportedModel(f"unsupported attention: {problem}", _SUPPORTED)
    if isinstance(block, beit.Block):
        scales = [_layer_scale(gamma) for gamma in (block.gamma_1, block.gamma_2)]
    else:
        scales = [getattr(block, name, nn.Identity()) for name in ("ls1", "ls2")]  # ResPostBlock has no layer scale
    return HeadwiseBlock(
        ATTENTIONS[type(attention)](attention),
        _canonical_mlp(block.get_submodule("mlp")),
        norms=[block.get_submodule(name) for name in ("norm1", "norm2")],
        scales=scales,
        drop_paths=[block.get_submodule(name) for name in ("drop_path1", "drop_path2")],
        norm_first=not isinstance(block, vision_transformer.ResPostBlock),
    ).train(block.training)


def _replace_norms(model: nn.Module) -> None:
    """Replace timm's RMS norms by PyTorch's, which compute the same."""
    for name, norm in [*model.named_modules()]:
        if isinstance(norm, RmsNorm | RmsNormFp32):
            with torch.device("meta"):
                target = nn.RMSNorm(norm.normalized_shape, norm.eps, elementwise_affine=False)
            target.weight = norm.weight
            model.set_submodule(name, target.train(norm.training))


def _canonical_mlp(mlp: nn.Module) -> nn.Module:
    """Split the first layer of a packed gated MLP into one layer for the values and one for the gate."""
    if not isinstance(mlp, GluMlp):
        return mlp
    with torch.device("meta"):
        target = SwiGLU(1)
    halves = _halves(mlp.fc1)
    target.fc1_x, target.fc1_g = halves if mlp.gate_last else halves[::-1]
    for name in ("act", "drop1", "norm", "fc2", "drop2"):
        setattr(target, name, getattr(mlp, name))
    return target.train(mlp.training)


def _halves(layer: nn.Linear | nn.Conv2d) -> list[nn.Linear]:
    """Two linear layers, of the first and the second half of the outputs."""
    biases = [None, None] if layer.bias is None else layer.bias.detach().chunk(2)
    halves = []
    for weight, bias in zip(layer.weight.detach().chunk(2), biases, strict=True):
        with torch.device("meta"):
            half = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
        half.weight = nn.Parameter(weight.clone())
        if bias is not None:
            half.bias = nn.Parameter(bias.clone())
        halves.append(half)
    return halves


def _canonical_pool(source: AttentionPoolLatent) -> AttentionPool:
    target = AttentionPool(source.latent, source.num_heads, source.q, source.kv, source.proj)
    target.proj_drop, target.norm, target.mlp = source.proj_drop, source.norm, source.mlp
    target.mean = source.pool == "avg"
    return target.train(source.training)


def _layer_scale(gamma: nn.Parameter | None) -> nn.Module:
    """BEiT's layer scale [width] as a module."""
    if gamma is None:
        return nn.Identity()
    with torch.device("meta"):
        scale = LayerScale(len(gamma))
    scale.gamma = gamma
    return scale


def _from_vit(source: VitAttention) -> HeadwiseAttention:
    """Convert the attention of timm's ViT and DeiT: packed QKV weights and a packed bias."""
    target = _empty(source, source.head_dim, None)
    if source.qkv.bias is None:
        target.q_bias = target.k_bias = target.v_bias = None
    else:
        biases = source.qkv.bias.detach().clone().chunk(3)
        target.q_bias, target.k_bias, target.v_bias = (nn.Parameter(bias) for bias in biases)
    if not isinstance(source.q_norm, nn.Identity):
        target.q_norm, target.k_norm = source.q_norm, source.k_norm
    return target


def _from_beit(source: beit.Attention) -> HeadwiseAttention:
    """Convert BEiT's attention: query and value biases, no key bias, relative position biases per head."""
    table: nn.Parameter | None = source.relative_position_bias_table
    index = None if table is None else _relative_positions(source.window_size)
    target = _empty(source, source.qkv.out_features // 3 // source.num_heads, index)
    target.q_bias, target.k_bias, target.v_bias = source.q_bias, None, source.v_bias
    target.relative_position_bias_table = table
    return target


ATTENTIONS: Mapping[type[nn.Module], Callable[..., HeadwiseAttention]] = {
    VitAttention: _from_vit,
    beit.Attention: _from_beit,
}

_SUPPORTED = "supported are timm's ViT, DeiT (plain and distilled) and BEiT models with standard attention"


def _empty(source: VitAttention | beit.Attention, head_dim: int, index: Tensor | None) -> HeadwiseAttention:
    """Canonical attention that shares the source's projections; the caller sets biases and position table."""
    layout = HeadLayout(((head_dim, head_dim),) * source.num_heads)
    with torch.device("meta"):
        target = HeadwiseAttention(layout, source.proj.out_features, source.scale, None)
    target.register_buffer("relative_position_index", index, persistent=False)
    target.qkv.weight, target.proj = source.qkv.weight, source.proj
    target.attn_drop, target.proj_drop = source.attn_drop, source.proj_drop
    return target.train(source.training)


def _relative_positions(window: tuple[int, int]) -> Tensor:
    """[tokens, tokens] table indices, on the CPU even for a model on the meta device; not in the state dict."""
    index: Tensor = beit.gen_relative_position_index(window, device=torch.device("cpu"))
    return index
