"""Convert timm's attention classes to `HeadwiseAttention`, with equal outputs.

To support another attention class, write a function `(attention) -> HeadwiseAttention` and add it to `ADAPTERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from timm.layers.attention import Attention as VitAttention
from timm.models.beit import Attention as BeitAttention
from timm.models.beit import gen_relative_position_index
from torch import Tensor, nn

from toolkit.errors import UnsupportedModel
from toolkit.models.attention import HeadwiseAttention
from toolkit.records import HeadLayout


def canonicalise(model: nn.Module) -> None:
    """Replace every attention of `model` in place; UnsupportedModel if one of them is not supported."""
    layers = [(name, module) for name, module in model.named_modules() if _is_attention(module)]
    if not layers:
        raise UnsupportedModel(f"{type(model).__name__} has no supported attention layers", _SUPPORTED)
    for name, module in layers:
        if problem := unsupported_attention(name, module):
            raise UnsupportedModel(f"unsupported attention: {problem}", _SUPPORTED)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, ADAPTERS[type(module)](module))


def unsupported_attention(place: str, attention: nn.Module) -> str:
    """Why timm's attention at `place` cannot be converted; empty if it can."""
    if type(attention) not in ADAPTERS:
        return f"{place} is a {type(attention).__name__}"
    for part in ("q_norm", "k_norm", "norm", "gate"):  # BEiT's has none of these
        extra = getattr(attention, part, None)
        if extra is not None and not isinstance(extra, nn.Identity):
            return f"{place}.{part} is a {type(extra).__name__}"
    return ""


def attentions(model: nn.Module) -> dict[str, HeadwiseAttention]:
    """Attention layers by module name, in order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, HeadwiseAttention)}


def _from_vit(source: VitAttention) -> HeadwiseAttention:
    """Convert the attention of timm's ViT and DeiT: packed QKV weights and a packed bias."""
    target = _empty(source, source.head_dim, None)
    if source.qkv.bias is None:
        target.q_bias = target.k_bias = target.v_bias = None
    else:
        biases = source.qkv.bias.detach().clone().chunk(3)
        target.q_bias, target.k_bias, target.v_bias = (nn.Parameter(bias) for bias in biases)
    return target


def _from_beit(source: BeitAttention) -> HeadwiseAttention:
    """Convert BEiT's attention: query and value biases, no key bias, relative position biases per head."""
    table: nn.Parameter | None = source.relative_position_bias_table
    index = None if table is None else _relative_positions(source.window_size)
    target = _empty(source, source.qkv.out_features // 3 // source.num_heads, index)
    target.q_bias, target.k_bias, target.v_bias = source.q_bias, None, source.v_bias
    target.relative_position_bias_table = table
    return target


ADAPTERS: Mapping[type[nn.Module], Callable[..., HeadwiseAttention]] = {
    VitAttention: _from_vit,
    BeitAttention: _from_beit,
}

_SUPPORTED = "supported are timm's ViT, DeiT (plain and distilled) and BEiT models with standard attention"


def _empty(source: VitAttention | BeitAttention, head_dim: int, index: Tensor | None) -> HeadwiseAttention:
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
    index: Tensor = gen_relative_position_index(window, device=torch.device("cpu"))
    return index


def _is_attention(module: nn.Module) -> bool:
    return "Attention" in type(module).__name__
