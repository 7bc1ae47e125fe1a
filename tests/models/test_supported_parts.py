"""A model that holds a part which cannot be cut is refused by name: which part, and where."""

from __future__ import annotations

import pytest
import timm

from toolkit import recipe
from toolkit.errors import UnsupportedModel
from toolkit.models.build import outline
from toolkit.models.supported_parts import check_parts
from toolkit.records import Setting

SMALL: dict[str, Setting] = {"img_size": 16, "patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3}
VIT, BEIT = "vit_tiny_patch16_224", "beit_base_patch16_224"
REFUSED: list[tuple[str, dict[str, Setting], str]] = [
    (VIT, {"qk_norm": True}, "blocks.0.attn.q_norm is a LayerNorm"),
    (VIT, {"scale_attn_norm": True}, "blocks.0.attn.norm is a LayerNorm"),
    (VIT, {"scale_mlp_norm": True}, "blocks.0.mlp.norm is a LayerNorm between the two layers of the MLP"),
    (BEIT, {"scale_mlp": True}, "blocks.0.mlp.norm is a LayerNorm between the two layers of the MLP"),
    (BEIT, {"swiglu_mlp": True}, "blocks.0.mlp is a SwiGLU, not a plain MLP of two layers"),
    ("vit_giant_patch14_dinov2", {}, "blocks.0.mlp is a GluMlp, not a plain MLP of two layers"),
    (BEIT, {"use_shared_rel_pos_bias": True}, "its blocks share one table of relative positions"),
    (VIT, {"global_pool": ""}, "with global_pool='' it answers for every token, not for an image"),
    (BEIT, {"global_pool": ""}, "with global_pool='' it answers for every token, not for an image"),
    (VIT, {"global_pool": "map"}, "it pools with attention (attn_pool is a AttentionPoolLatent)"),
    (VIT, {"global_pool": "prr"}, "it pools with attention (attn_pool is a AttentionPoolPrr)"),
    (VIT, {"depth": 0}, "it has no blocks"),
    (VIT, {"norm_layer": "rmsnorm"}, "blocks.0.norm1 is a RmsNorm"),
    (VIT, {"norm_layer": "layernorm2d"}, "blocks.0.norm1 is a LayerNorm2d"),
    (VIT, {"norm_layer": "batchnorm2d"}, "blocks.0.norm1 is a BatchNorm2d"),
    (VIT, {"embed_norm_layer": "rmsnorm"}, "patch_embed.norm is a RmsNorm"),
    ("vit_dwee_patch16_reg1_gap_256", {}, "blocks.0.attn is a DiffAttention"),
    ("vit_base_patch16_xp_224", {}, "blocks.0 is a ParallelScalingBlock, not one attention and one MLP in turn"),
    ("vit_base_patch16_18x2_224", {}, "blocks.0 is a ParallelThingsBlock, not one attention and one MLP in turn"),
    ("vit_dpwee_patch16_reg1_gap_256", {}, "blocks.0 is a DiffParallelScalingBlock"),
]


@pytest.mark.parametrize(("name", "more", "said"), REFUSED, ids=[f"{name} {more}" for name, more, _ in REFUSED])
def test_what_cannot_be_cut_is_refused_when_it_is_built(name: str, more: dict[str, Setting], said: str) -> None:
    with pytest.raises(UnsupportedModel) as caught:
        outline(recipe.Model(name=name, args={**SMALL, **more}), ("a", "b"))
    assert caught.value.message.startswith(f"{name} cannot be cut yet: {said}")
    assert "docs/models.md" in caught.value.hint


def test_a_model_of_another_family_is_refused() -> None:
    swin = timm.create_model("swin_tiny_patch4_window7_224", depths=(1,), num_heads=(3,))
    with pytest.raises(UnsupportedModel, match="swin is a SwinTransformer, which cannot be cut"):
        check_parts(swin, "swin")
