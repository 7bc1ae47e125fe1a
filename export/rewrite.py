"""Exact rewrites of a model before its export: other weights or another graph, the same numbers.

Each changes the exporter's own copy of the module in place and says at how many places it could. They are made in the
order of `REWRITES`: folding the norms gives keys a bias, which can then be dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import torch
from timm.layers.patch_embed import PatchEmbed
from timm.models import beit, vision_transformer
from torch import Tensor, nn

from toolkit.export import HeadWidths
from toolkit.models.adapt import attentions
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.shapes import blocks_of, replace_parameter
from toolkit.preprocessing import Preprocessing
from toolkit.records import HeadLayout

PRE_NORM = (vision_transformer.Block, beit.Block)
"""Blocks of the form x + scale(f(norm(x))), in which a norm is read by nothing but the layer behind it."""

Rewrite: TypeAlias = Callable[[nn.Module], int]


def rewrite(module: nn.Module, names: Collection[str]) -> dict[str, int]:
    """Make the rewrites of these names; returns how many places of the module each has changed."""
    with torch.no_grad():
        return {name: change(module) for name, change in REWRITES.items() if name in names}


def fold_layer_scale(module: nn.Module) -> int:
    """gamma * (W x + b) = (gamma W) x + gamma b: the scale of a residual branch goes into its last linear layer."""
    folded = 0
    for block in _pre_norm_blocks(module):
        for number, last in ((1, block.get_submodule("attn.proj")), (2, block.get_submodule("mlp.fc2"))):
            gamma = _take_layer_scale(block, number)
            if gamma is None:
                continue
            assert isinstance(last, nn.Linear)
            last.weight.mul_(gamma[:, None])
            if last.bias is not None:
                last.bias.mul_(gamma)
            folded += 1
    return folded


def fold_norms(module: nn.Module) -> int:
    """W (g * n + b) = (W g) n + W b: a layer norm's gain g and bias b go into the linear layers that read it."""
    folded = 0
    for block in _pre_norm_blocks(module):
        attention, norm = block.get_submodule("attn"), block.get_submodule("norm1")
        assert isinstance(attention, HeadwiseAttention)
        if isinstance(norm, nn.LayerNorm):
            _fold_into_attention(norm, attention)
            folded += 1
        folded += _fold_into_linear(block.get_submodule("norm2"), [block.get_submodule("mlp.fc1")])
    # The classifiers read the norm of one token, the norm of what is pooled, or the mean over norms: all linear.
    heads = [head for name in ("head", "head_dist") if isinstance(head := getattr(module, name, None), nn.Linear)]
    if isinstance(pooled := getattr(module, "fc_norm", None), nn.LayerNorm):
        return folded + _fold_into_linear(pooled, heads)
    largest = getattr(module, "global_pool", None) in ("max", "avgmax")  # of norms: a gain below 0 makes it the least
    return folded if largest else folded + _fold_into_linear(module.get_submodule("norm"), heads)


def fold_softmax_scale(module: nn.Module) -> int:
    """(s W_q x) k = s (W_q x) k: the scale of the logits goes into the queries' projection."""
    for attention in attentions(module).values():
        attention.qkv.weight[: attention.layout.qk_width].mul_(attention.scale)
        if attention.q_bias is not None:
            attention.q_bias.mul_(attention.scale)
        attention.scale = 1.0
    return len(attentions(module))


def drop_key_bias(module: nn.Module) -> int:
    """q (k + b) = q k + q b: the same for every key of a query, and softmax does not see a constant."""
    biased = [attention for attention in attentions(module).values() if attention.k_bias is not None]
    for attention in biased:
        attention.k_bias = None
    return len(biased)


def move_value_bias(module: nn.Module) -> int:
    """sum a (v + b) = sum a v + b, as weights a of a row sum to 1: W_o b joins the bias of the output projection."""
    moved = 0
    for attention in attentions(module).values():
        if attention.v_bias is not None:
            _add_bias(attention.proj, attention.proj.weight @ attention.v_bias)
            attention.v_bias = None
            moved += 1
    return moved


REWRITES: Mapping[str, Rewrite] = {
    "layer-scale": fold_layer_scale,
    "norms": fold_norms,
    "softmax-scale": fold_softmax_scale,
    "key-bias": drop_key_bias,
    "value-bias": move_value_bias,
}


def fold_normalisation(module: nn.Module, prepared: Preprocessing) -> None:
    """W (p - mean) / std + b = (W / std) p + (b - W mean / std): let the patch embedding take pixels p from 0 to 1."""
    embedding = module.get_submodule("patch_embed.proj")
    assert isinstance(embedding, nn.Conv2d)
    sides = (prepared.mean, prepared.std)
    means, stds = (embedding.weight.new_tensor(values)[None, :, None, None] for values in sides)
    with torch.no_grad():
        _add_bias(embedding, -(embedding.weight * means / stds).sum(dim=(1, 2, 3)))
        embedding.weight.div_(stds)


def linear_patches(module: nn.Module) -> int:
    """Let the patch embedding be a linear layer; returns whether it could."""
    embedding = module.get_submodule("patch_embed")
    if not isinstance(embedding, PatchEmbed) or not embedding.flatten or embedding.dynamic_img_pad:
        return 0
    module.set_submodule("patch_embed", LinearPatches(embedding))
    return 1


class LinearPatches(nn.Module):
    """A patch embedding as a linear layer of every patch's pixels: patches do not overlap."""

    def __init__(self, source: PatchEmbed) -> None:
        super().__init__()
        self.patch = source.proj.kernel_size
        assert source.proj.stride == self.patch
        weight, bias = source.proj.weight.detach().flatten(1), source.proj.bias
        self.proj = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
        self.proj.weight = nn.Parameter(weight)
        if bias is not None:
            self.proj.bias = nn.Parameter(bias.detach())
        self.norm = source.norm

    def forward(self, images: Tensor) -> Tensor:
        """[batch, 3, height, width] -> [batch, patches, width of the model]"""
        by_patch = images.unflatten(3, (-1, self.patch[1])).unflatten(2, (-1, self.patch[0]))
        patches = by_patch.permute(0, 2, 4, 1, 3, 5)  # [batch, rows, columns, 3, patch height, patch width]
        count = patches.shape[1] * patches.shape[2]
        tokens: Tensor = self.norm(self.proj(patches.flatten(0, 2).flatten(1)).unflatten(0, (-1, count)))
        return tokens


def pad_for_kernel(module: nn.Module, wanted: HeadWidths) -> int:
    """Give every head the least widths that are wanted; returns how many layers that has changed."""

    def padded(width: int) -> int:
        return max(wanted.least, -(-width // wanted.multiple) * wanted.multiple)

    changed = 0
    for attention in attentions(module).values():
        heads = [(max(head), max(head)) if wanted.equal else head for head in attention.layout.heads]
        wider = HeadLayout(tuple((padded(qk), padded(v)) for qk, v in heads))
        if wider != attention.layout:
            pad_heads(attention, wider)
            changed += 1
    return changed


def pad_heads(attention: HeadwiseAttention, wider: HeadLayout) -> None:
    """Give every head the widths that it has in `wider`, with zeros: products and sums gain terms that are zero.

    The heads keep their order and the softmax its scale.
    """
    pairs = list(zip(attention.layout.heads, wider.heads, strict=True))
    assert all(old[0] <= new[0] and old[1] <= new[1] for old, new in pairs)
    qk = _places([(old[0], new[0]) for old, new in pairs])  # [Q] new places of the old rows
    v = _places([(old[1], new[1]) for old, new in pairs])
    queries, keys, values = attention.qkv.weight.detach().split([len(qk), len(qk), len(v)])
    with torch.no_grad():
        for name, width, places in (("q", wider.qk_width, qk), ("k", wider.qk_width, qk), ("v", wider.v_width, v)):
            if (bias := getattr(attention, f"{name}_bias")) is not None:
                setattr(attention, f"{name}_bias", nn.Parameter(_spread(bias.detach(), places, width)))
        rows = [(queries, qk, wider.qk_width), (keys, qk, wider.qk_width), (values, v, wider.v_width)]
        replace_parameter(attention, "qkv.weight", torch.cat([_spread(*row) for row in rows]))
        replace_parameter(
            attention, "proj.weight", _spread(attention.proj.weight.detach().T, v, wider.v_width).T.contiguous()
        )
    attention.layout = wider


def _places(widths: Sequence[tuple[int, int]]) -> Tensor:
    """Where the units of heads of the old widths lie when each head starts at its place among the new widths."""
    starts = [sum(new for _, new in widths[:index]) for index in range(len(widths))]
    return torch.cat([torch.arange(old) + start for (old, _), start in zip(widths, starts, strict=True)])


def _spread(values: Tensor, places: Tensor, width: int) -> Tensor:
    """[width, ...] zeros with `values` [places, ...] put in their places."""
    wide = values.new_zeros(width, *values.shape[1:])
    wide[places] = values
    return wide


def _pre_norm_blocks(module: nn.Module) -> list[nn.Module]:
    return [block for block in blocks_of(module) if type(block) in PRE_NORM]


def _take_layer_scale(block: nn.Module, number: int) -> Tensor | None:
    """The scale [width] of a residual branch, which the block then has no more; None if it has none."""
    if isinstance(block, beit.Block):
        gamma: Tensor | None = getattr(block, f"gamma_{number}")
        setattr(block, f"gamma_{number}", None)
        return gamma
    scale = block.get_submodule(f"ls{number}")
    setattr(block, f"ls{number}", nn.Identity())
    return None if isinstance(scale, nn.Identity) else scale.get_parameter("gamma")


def _fold_into_attention(norm: nn.LayerNorm, attention: HeadwiseAttention) -> None:
    layout = attention.layout
    parts = (attention.qkv.weight @ norm.bias).split([layout.qk_width, layout.qk_width, layout.v_width])
    for name, part in zip(("q_bias", "k_bias", "v_bias"), parts, strict=True):
        own = getattr(attention, name)
        setattr(attention, name, nn.Parameter(part.clone() if own is None else own + part))
    attention.qkv.weight.mul_(norm.weight)
    _neutral(norm)


def _fold_into_linear(norm: nn.Module, layers: Sequence[nn.Module]) -> int:
    if not isinstance(norm, nn.LayerNorm):
        return 0
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        _add_bias(layer, layer.weight @ norm.bias)
        layer.weight.mul_(norm.weight)
    _neutral(norm)
    return 1


def _neutral(norm: nn.LayerNorm) -> None:
    norm.weight.fill_(1.0)
    norm.bias.zero_()


def _add_bias(layer: nn.Linear | nn.Conv2d, extra: Tensor) -> None:
    layer.bias = nn.Parameter(extra.clone() if layer.bias is None else layer.bias + extra)
