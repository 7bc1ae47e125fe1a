"""Canonical attention equals timm's, and unsupported attention classes are refused by name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import nn

from toolkit.errors import UnsupportedModel
from toolkit.models.architectures.timm_vit.canonical import canonicalise
from toolkit.models.block import HeadwiseBlock, attentions
from toolkit.records import HeadLayout, Setting

SIZES: dict[str, Setting] = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 96, "num_heads": 3}
MODELS: dict[str, dict[str, Setting]] = {
    "vit_tiny_patch16_224": {},
    "deit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "deit3_small_patch16_224": {"init_values": 0.1},
    "beit_base_patch16_224": {"init_values": 0.1},
    "beitv2_base_patch16_224": {"init_values": 0.1},
    "vit_tiny_patch16_224 without bias": {"qkv_bias": False},
    "vit_base_patch16_rpn_224": {"init_values": 0.1},
    "vit_base_patch16_siglip_224": {},
    "vit_tiny_patch16_224 with registers and pooling": {"global_pool": "map", "reg_tokens": 2, "norm_layer": "rmsnorm"},
    "vit_giant_patch14_dinov2": {"init_values": 0.1, "mlp_ratio": 2},
    "vit_tiny_patch16_224 with query and key norms": {"qk_norm": True},
    "vit_tiny_patch16_224 with RMS norms of queries and keys": {"qk_norm": True, "norm_layer": "rmsnorm"},
    "vit_tiny_patch16_224 with embedding norm": {"embed_norm_layer": "rmsnorm"},
    "aimv2_large_patch14_224": {},
    "beit_base_patch16_224 with gates": {"swiglu_mlp": True, "init_values": 0.1},
    "beit_base_patch16_224 with positions": {"use_abs_pos_emb": True, "init_values": 0.1},
}


@pytest.mark.parametrize(("title", "more"), MODELS.items(), ids=MODELS)
def test_outputs_are_unchanged(
    title: str, more: dict[str, Setting], randomised: Callable[[nn.Module], nn.Module]
) -> None:
    arguments = {**SIZES, **more}
    model = randomised(timm.create_model(title.split(maxsplit=1)[0], num_classes=5, **arguments)).eval()  # type: ignore[arg-type]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(images)
        canonicalise(model)
        actual = model(images)
    assert expected.abs().max() > 0.1
    assert (actual - expected).abs().max() <= 1e-6 * max(1.0, float(expected.abs().max()))
    assert all(isinstance(block, HeadwiseBlock) for block in model.get_submodule("blocks").children())
    assert [attention.layout for attention in attentions(model).values()] == [HeadLayout(((32, 32),) * 3)] * 2
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_the_softmax_scale_is_unchanged() -> None:
    model = timm.create_model("vit_tiny_patch16_224", **SIZES)  # type: ignore[arg-type]
    canonicalise(model)
    assert {attention.scale for attention in attentions(model).values()} == {32**-0.5}


def test_an_unsupported_model_class_is_refused() -> None:
    swin = timm.create_model("swin_tiny_patch4_window7_224", depths=(1,), num_heads=(3,))
    with pytest.raises(UnsupportedModel, match="SwinTransformer"):
        canonicalise(swin)


def test_an_unsupported_attention_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match=r"blocks\.0\.attn\.norm is a LayerNorm"):
        canonicalise(timm.create_model("vit_tiny_patch16_224", scale_attn_norm=True, **SIZES))  # type: ignore[arg-type]
