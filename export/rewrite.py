"""Exact rewrites of a model before its export: other weights or another graph, equal logits.

Each rewrite changes the exporter's copy of the module in place and returns the number of changed places. They are
applied in the order of `REWRITES`: folding the norms creates a key bias, which can then be dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from toolkit.export.capabilities import HeadWidths
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.block import HeadwiseBlock, attentions
from toolkit.models.model import Model
from toolkit.models.norms import NORMS, Norm
from toolkit.models.shapes import replace_parameter
from toolkit.records import HeadLayout

Rewrite: TypeAlias = Callable[[Model], int]


def rewrite(model: Model, names: Collection[str]) -> dict[str, int]:
    """Apply the rewrites of these names; returns the number of changed places by name."""
    with torch.no_grad():
        return {name: change(model) for name, change in REWRITES.items() if name in names}


def fold_layer_scale(model: Model) -> int:
    """Fold the scale of residual branches into their last linear layer: gamma * (W x + b) = (gamma W) x + gamma b."""
    folded = 0
    for block in _norm_first_blocks(model):
        for scale, last in ((block.ls1, block.attn.proj), (block.ls2, block.mlp_output)):
            if isinstance(scale, nn.Identity):
                continue
            gamma = scale.get_parameter("gamma")
            last.weight.mul_(gamma[:, None])
            if last.bias is not None:
                last.bias.mul_(gamma)
            folded += 1
        block.ls1, block.ls2 = nn.Identity(), nn.Identity()
    return folded


def fold_norms(model: Model) -> int:
    """Fold a norm's gain g and bias b, if any, into the linear layers after it: W (g * n + b) = (W g) n + W b."""
    folded = 0
    for block in _norm_first_blocks(model):
        if isinstance(block.norm1, NORMS):
            if block.merge is not None:
                _fold(block.norm1, block.merge.metric)
            _fold_into_attention(block.norm1, block.attn)
            folded += 1
        folded += _fold_into_linear(block.norm2, block.mlp_inputs)
    if not model.parts.classifier_norm:
        return folded
    classifiers = [model.module.get_submodule(name) for name in model.parts.classifiers]
    return folded + _fold_into_linear(model.module.get_submodule(model.parts.classifier_norm), classifiers)


def fold_softmax_scale(model: Model) -> int:
    """Fold the softmax scale into the query projection, s (W_q x) k = (s W_q x) k, or into the queries' norm."""
    for attention in attentions(model.module).values():
        if attention.q_norm is not None:
            for parameter in attention.q_norm.parameters():
                parameter.mul_(attention.scale)
        else:
            attention.qkv.weight[: attention.layout.qk_width].mul_(attention.scale)
            if attention.q_bias is not None:
                attention.q_bias.mul_(attention.scale)
        attention.scale = 1.0
    return len(attentions(model.module))


def drop_key_bias(model: Model) -> int:
    """Drop the key bias: q (k + b) = q k + q b, and softmax ignores q b, which is equal for all keys of a query.

    A norm of the keys comes in between, and keeps the bias."""
    layers = attentions(model.module).values()
    biased = [layer for layer in layers if layer.k_bias is not None and layer.k_norm is None]
    for attention in biased:
        attention.k_bias = None
    return len(biased)


def move_value_bias(model: Model) -> int:
    """Move the value bias into the output projection's, as W_o b: attention weights sum to 1, so the bias passes
    through."""
    moved = 0
    for attention in attentions(model.module).values():
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


def fold_normalisation(model: Model) -> None:
    """Fold the normalisation into the patch embedding, for pixels p from 0 to 1:
    W (p - mean) / std + b = (W / std) p + (b - W mean / std)."""
    embedding = model.module.get_submodule(model.parts.projection)
    assert isinstance(embedding, nn.Conv2d)
    statistics = (model.info.preprocessing.mean, model.info.preprocessing.std)
    means, stds = (embedding.weight.new_tensor(values)[None, :, None, None] for values in statistics)
    with torch.no_grad():
        _add_bias(embedding, -(embedding.weight * means / stds).sum(dim=(1, 2, 3)))
        embedding.weight.div_(stds)


def linear_patches(model: Model) -> int:
    """Replace the patch embedding by a linear layer; returns 1, or 0 if this patch embedding is not supported."""
    embedding = model.module.get_submodule(model.parts.patches)
    if not isinstance(embedding, PatchEmbed) or not embedding.flatten or embedding.dynamic_img_pad:
        return 0
    model.module.set_submodule(model.parts.patches, LinearPatches(embedding))
    return 1


class LinearPatches(nn.Module):
    """A patch embedding as a linear layer on the pixels of non-overlapping patches."""

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


def pad_for_kernel(model: Model, supported: HeadWidths) -> int:
    """Pad every head to the smallest supported widths; returns the number of changed layers.

    A layer that normalises its queries and keys over the channels of a head is left as it is if they were widened.
    """

    def padded(width: int) -> int:
        return max(supported.minimum, -(-width // supported.multiple) * supported.multiple)

    changed = 0
    for attention in attentions(model.module).values():
        heads = [(max(head), max(head)) if supported.equal else head for head in attention.layout.heads]
        wider = HeadLayout(tuple((padded(qk), padded(v)) for qk, v in heads))
        if attention.q_norm is not None and wider.qk_width != attention.layout.qk_width:
            continue
        if wider != attention.layout:
            pad_heads(attention, wider)
            changed += 1
    return changed


def pad_heads(attention: HeadwiseAttention, wider: HeadLayout) -> None:
    """Pad every head with zeros to its widths in `wider`. The order of heads and the softmax scale stay."""
    pairs = list(zip(attention.layout.heads, wider.heads, strict=True))
    assert all(old[0] <= new[0] and old[1] <= new[1] for old, new in pairs)
    qk = _padded_indices([(old[0], new[0]) for old, new in pairs])  # [Q]
    v = _padded_indices([(old[1], new[1]) for old, new in pairs])  # [V]
    queries, keys, values = attention.qkv.weight.detach().split([len(qk), len(qk), len(v)])
    with torch.no_grad():
        for name, width, index in (("q", wider.qk_width, qk), ("k", wider.qk_width, qk), ("v", wider.v_width, v)):
            if (bias := getattr(attention, f"{name}_bias")) is not None:
                setattr(attention, f"{name}_bias", nn.Parameter(_scatter(bias.detach(), index, width)))
        parts = [(queries, qk, wider.qk_width), (keys, qk, wider.qk_width), (values, v, wider.v_width)]
        replace_parameter(attention, "qkv.weight", torch.cat([_scatter(*part) for part in parts]))
        replace_parameter(
            attention, "proj.weight", _scatter(attention.proj.weight.detach().T, v, wider.v_width).T.contiguous()
        )
    attention.layout = wider


def _padded_indices(widths: Sequence[tuple[int, int]]) -> Tensor:
    """Index of each old unit in the padded layout, from every head's (old, new) width: [old units]"""
    starts = [sum(new for _, new in widths[:head]) for head in range(len(widths))]
    return torch.cat([torch.arange(old) + start for (old, _), start in zip(widths, starts, strict=True)])


def _scatter(values: Tensor, index: Tensor, width: int) -> Tensor:
    """Zeros [width, ...] with `values` [units, ...] at `index` [units]."""
    padded = values.new_zeros(width, *values.shape[1:])
    padded[index] = values
    return padded


def _norm_first_blocks(model: Model) -> list[HeadwiseBlock]:
    """Blocks whose norms are inputs of one layer only, and whose last layers are followed by their scale."""
    return [block for _, block in model.blocks if block.norm_first]


def _fold_into_attention(norm: Norm, attention: HeadwiseAttention) -> None:
    layout = attention.layout
    if isinstance(norm, nn.LayerNorm):
        parts = (attention.qkv.weight @ norm.bias).split([layout.qk_width, layout.qk_width, layout.v_width])
        for name, part in zip(("q_bias", "k_bias", "v_bias"), parts, strict=True):
            bias = getattr(attention, name)
            setattr(attention, name, nn.Parameter(part.clone() if bias is None else bias + part))
    attention.qkv.weight.mul_(norm.weight)
    _reset(norm)


def _fold_into_linear(norm: nn.Module, layers: Sequence[nn.Module]) -> int:
    if not isinstance(norm, NORMS):
        return 0
    for layer in layers:
        _fold(norm, layer)
    _reset(norm)
    return 1


def _fold(norm: Norm, layer: nn.Module) -> None:
    assert isinstance(layer, nn.Linear)
    if isinstance(norm, nn.LayerNorm):
        _add_bias(layer, layer.weight @ norm.bias)
    layer.weight.mul_(norm.weight)


def _reset(norm: Norm) -> None:
    """Set gain 1 and bias 0."""
    norm.weight.fill_(1.0)
    if isinstance(norm, nn.LayerNorm):
        norm.bias.zero_()


def _add_bias(layer: nn.Linear | nn.Conv2d, extra: Tensor) -> None:
    layer.bias = nn.Parameter(extra.clone() if layer.bias is None else layer.bias + extra)
