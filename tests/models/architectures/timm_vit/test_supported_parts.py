"""Models with unsupported parts are refused; the message names the part and its class."""

from __future__ import annotations

import pytest
import timm
from torch import nn

from toolkit import recipe
from toolkit.errors import UnsupportedModel
from toolkit.models.architectures.timm_vit.supported_parts import check_parts
from toolkit.models.build import outline
from toolkit.records import Setting

SMALL: dict[str, Setting] = {"img_size": 16, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}
VIT, BEIT = "vit_tiny_patch16_224", "beit_base_patch16_224"
REFUSED: list[tuple[str, dict[str, Setting], str]] = [
    (VIT, {"scale_attn_norm": True}, "blocks.0.attn.norm is a LayerNorm"),
    (VIT, {"scale_mlp_norm": True}, "blocks.0.mlp.norm is a LayerNorm between the two layers of the MLP"),
    (BEIT, {"scale_mlp": True}, "blocks.0.mlp.norm is a LayerNorm between the two layers of the MLP"),
    (BEIT, {"use_shared_rel_pos_bias": True}, "its blocks share one relative position table"),
    (VIT, {"global_pool": ""}, "with global_pool='' it outputs one result per token, not one per image"),
    (BEIT, {"global_pool": ""}, "with global_pool='' it outputs one result per token, not one per image"),
    (VIT, {"global_pool": "prr"}, "it uses attention pooling (attn_pool is a AttentionPoolPrr)"),
    (VIT, {"norm_layer": "layernorm2d"}, "blocks.0.norm1 is a LayerNorm2d"),
    (VIT, {"norm_layer": "batchnorm2d"}, "blocks.0.norm1 is a BatchNorm2d"),
    ("vit_dwee_patch16_reg1_gap_256", {}, "blocks.0.attn is a DiffAttention"),
    ("vit_base_patch16_xp_224", {}, "blocks.0 is a ParallelScalingBlock, not one attention followed by one MLP"),
    ("vit_base_patch16_18x2_224", {}, "blocks.0 is a ParallelThingsBlock, not one attention followed by one MLP"),
    ("vit_dpwee_patch16_reg1_gap_256", {}, "blocks.0 is a DiffParallelScalingBlock"),
]


@pytest.mark.parametrize(("name", "args", "message"), REFUSED, ids=[f"{name} {args}" for name, args, _ in REFUSED])
def test_unsupported_parts_are_refused(name: str, args: dict[str, Setting], message: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        outline(recipe.Model(name=name, args={**SMALL, **args}), ("a", "b"))
    assert caught.value.message.startswith(f"{name} cannot be pruned yet: {message}")
    assert "docs/models.md" in caught.value.hint


def test_a_norm_of_only_queries_or_keys_is_refused() -> None:
    """As a user's factory may make it."""
    model = timm.create_model(VIT, qk_norm=True, **SMALL)  # type: ignore[arg-type]
    model.get_submodule("blocks.0.attn").k_norm = nn.Identity()
    with pytest.raises(UnsupportedModel, match=r"blocks\.0\.attn normalises only one of queries and keys"):
        check_parts(model, VIT)


def test_a_model_without_blocks_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="cannot be pruned yet: it has no blocks"):
        check_parts(timm.create_model(VIT, depth=0), VIT)


def test_a_model_of_another_family_is_refused() -> None:
    swin = timm.create_model("swin_tiny_patch4_window7_224", depths=(1,), num_heads=(3,))
    with pytest.raises(UnsupportedModel, match="swin is a SwinTransformer, which cannot be pruned"):
        check_parts(swin, "swin")
