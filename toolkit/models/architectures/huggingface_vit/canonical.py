"""Convert transformers' ViT, DeiT, BEiT and DINOv2 classifiers to the canonical form.

Their submodules are named as in transformers 5. Weights in files of older versions have other names, which transformers
converts when it loads them.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.drop import DropPath
from timm.layers.layer_scale import LayerScale
from timm.layers.mlp import Mlp, SwiGLU
from timm.layers.patch_embed import PatchEmbed
from timm.models.beit import gen_relative_position_index
from torch import Tensor, nn

from toolkit.errors import UnsupportedModel
from toolkit.models.architectures.huggingface_vit.classifier import HeadwiseClassifier, Pooling, Tokens
from toolkit.models.attention import HeadwiseAttention
from toolkit.models.block import Blocks, HeadwiseBlock
from toolkit.records import HeadLayout

BACKBONES = {
    "ViTForImageClassification": "vit",
    "DeiTForImageClassification": "deit",
    "DeiTForImageClassificationWithTeacher": "deit",
    "BeitForImageClassification": "beit",
    "Dinov2ForImageClassification": "dinov2",
    "Dinov2WithRegistersForImageClassification": "dinov2_with_registers",
}
"""Supported classes, and the name of the submodule in each that is the model without classifier."""


def is_classifier(model: nn.Module) -> bool:
    """Whether `model` has a supported class of transformers."""
    return type(model).__name__ in BACKBONES and type(model).__module__.startswith("transformers.")


def canonicalise(model: nn.Module) -> HeadwiseClassifier:
    """The canonical form of a classifier of transformers, with its parameters."""
    kind = type(model).__name__
    backbone = model.get_submodule(BACKBONES[kind])
    embeddings = backbone.get_submodule("embeddings")
    mean_norm = getattr(getattr(backbone, "pooler", None), "layernorm", None)
    pooling = _pooling(kind, mean_norm is not None)
    result = HeadwiseClassifier(
        _patch_embedding(embeddings.get_submodule("patch_embeddings")),
        _tokens(embeddings),
        _blocks(backbone),
        pooling,
        _classifiers(model, pooling),
    )
    result.pos_drop, result.norm = embeddings.get_submodule("dropout"), backbone.get_submodule("layernorm")
    result.fc_norm = mean_norm or nn.Identity()
    return result.train(model.training)


def _pooling(kind: str, has_mean_norm: bool) -> Pooling:
    if kind.startswith("Dinov2"):
        return "both"
    if kind.endswith("WithTeacher"):
        return "tokens"
    return "mean" if has_mean_norm else "token"


def _patch_embedding(source: nn.Module) -> PatchEmbed:
    """timm's patch embedding with transformers' projection; UnsupportedModel for images without three colours."""
    projection = source.get_submodule("projection")
    assert isinstance(projection, nn.Conv2d)
    if projection.in_channels != 3:
        raise UnsupportedModel(f"its images have {projection.in_channels} channels, not 3")
    with torch.device("meta"):
        target = PatchEmbed(
            img_size=tuple(source.image_size),  # type: ignore[arg-type]
            patch_size=tuple(source.patch_size),  # type: ignore[arg-type]
            embed_dim=projection.out_channels,
        )
    target.proj = projection
    return target


def _tokens(embeddings: nn.Module) -> Tokens:
    """Tokens and positions of the embeddings, without the mask token, which classifiers do not use."""
    return Tokens(
        embeddings.get_parameter("cls_token"),
        getattr(embeddings, "distillation_token", None),
        registers
        if (registers := getattr(embeddings, "register_tokens", None)) is not None and registers.shape[1]
        else None,
        embeddings.position_embeddings,  # type: ignore[arg-type]
    )


def _classifiers(model: nn.Module, pooling: Pooling) -> list[nn.Linear]:
    """The linear classifiers; DINOv2's single layer on class token and mean of the patches is split into two."""
    if pooling == "tokens":
        layers = [model.get_submodule(name) for name in ("cls_classifier", "distillation_classifier")]
    else:
        layers = [model.get_submodule("classifier")]
    if not all(isinstance(layer, nn.Linear) for layer in layers):
        raise UnsupportedModel("it has no classifier", "num_labels in config.json is 0")
    if pooling != "both":
        return layers  # type: ignore[return-value]
    weight, bias = layers[0].get_parameter("weight"), layers[0].get_parameter("bias")
    token, mean = weight.detach().chunk(2, dim=1)
    return [_linear(token, bias), _linear(mean, None)]


def _blocks(backbone: nn.Module) -> Blocks:
    shared = _table(getattr(backbone, "shared_position_bias", None))
    layers = getattr(backbone, "layers", None)
    return Blocks(_block(layer, shared) for layer in (layers or backbone.get_submodule("encoder.layer")).children())


def _block(layer: nn.Module, shared: Tensor | None) -> HeadwiseBlock:
    before, after = ("norm1", "norm2") if hasattr(layer, "norm1") else ("layernorm_before", "layernorm_after")
    dropout = float(getattr(getattr(layer, "dropout", None), "p", 0.0))
    drop_path = float(getattr(getattr(layer, "drop_path", None), "drop_prob", 0.0))
    return HeadwiseBlock(
        _attention(layer, shared, dropout),
        _mlp(layer.get_submodule("mlp"), dropout),
        norms=[layer.get_submodule(before), layer.get_submodule(after)],
        scales=[_scale(layer, number) for number in (1, 2)],
        drop_paths=[DropPath(drop_path) if drop_path else nn.Identity() for _ in range(2)],
    ).train(layer.training)


def _attention(layer: nn.Module, shared: Tensor | None, dropout: float) -> HeadwiseAttention:
    source: Any = layer.get_submodule("attention")
    q, k, v = source.q_proj, source.k_proj, source.v_proj
    layout = HeadLayout(((source.head_dim, source.head_dim),) * source.num_attention_heads)
    with torch.device("meta"):
        target = HeadwiseAttention(layout, source.o_proj.out_features, source.scaling, None)
    target.qkv.weight = nn.Parameter(torch.cat([part.get_parameter("weight").detach() for part in (q, k, v)]))
    target.q_bias, target.k_bias, target.v_bias = q.bias, k.bias, v.bias
    target.proj = source.o_proj
    target.attn_drop, target.proj_drop = nn.Dropout(source.attention_dropout), nn.Dropout(dropout)
    own = getattr(layer, "relative_position_bias", None)
    tables = [table for table in (_table(own), shared) if table is not None]
    if tables:  # a table that all blocks share is added to each block's own, so that heads can be removed in any block
        target.relative_position_bias_table = nn.Parameter(torch.stack(tables).sum(dim=0))
        target.relative_position_index = _relative_positions(len(tables[0]))
    return target.train(layer.training)


def _table(bias: nn.Module | None) -> Tensor | None:
    """[offsets, heads] of a relative position bias."""
    return None if bias is None else bias.get_parameter("relative_position_bias_table").detach()


def _relative_positions(offsets: int) -> Tensor:
    """[tokens, tokens] table indices for square images, on the CPU even for a model on the meta device."""
    side = (round((offsets - 3) ** 0.5) + 1) // 2
    index: Tensor = gen_relative_position_index((side, side), device=torch.device("cpu"))
    return index


def _mlp(source: nn.Module, dropout: float) -> nn.Module:
    """timm's MLP, plain or gated (SwiGLU), with the layers of transformers'."""
    layers: Any = source
    with torch.device("meta"):
        if not hasattr(source, "gate_proj"):
            plain = Mlp(1)
            plain.fc1, plain.act, plain.fc2 = layers.fc1, layers.activation_fn, layers.fc2
            plain.drop2 = nn.Dropout(dropout)
            return plain
        gated = SwiGLU(1)
    gated.fc1_g, gated.fc1_x, gated.act, gated.fc2 = layers.gate_proj, layers.up_proj, layers.act_fn, layers.down_proj
    return gated


def _scale(layer: nn.Module, number: int) -> nn.Module:
    """Layer scale of the first or the second branch; the identity if there is none."""
    module = getattr(layer, f"layer_scale{number}", None)
    gamma = getattr(layer, f"lambda_{number}", None) if module is None else module.lambda1
    if not isinstance(gamma, nn.Parameter):
        return nn.Identity()
    with torch.device("meta"):
        scale = LayerScale(len(gamma))
    scale.gamma = gamma
    return scale


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    with torch.device("meta"):
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight = nn.Parameter(weight.clone())
    if bias is not None:
        layer.bias = bias
    return layer
