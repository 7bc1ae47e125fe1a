"""Rewrites do not change a model's logits."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from toolkit.export.attention import FORMS
from toolkit.export.capabilities import HeadWidths
from toolkit.export.flat import ReducingBlock, flatten
from toolkit.export.rewrite import REWRITES, fold_normalisation, linear_patches, pad_for_kernel, pad_heads, rewrite
from toolkit.models.block import HeadwiseBlock, attentions
from toolkit.models.model import Model
from toolkit.models.profile import trace
from toolkit.records import HeadLayout

NAMES = (
    "vit_tiny_patch16_224",
    "deit_tiny_distilled_patch16_224",
    "beit_base_patch16_224",
    "deit3_small_patch16_224",  # layer scale
    "vit_base_patch16_siglip_gap_224",  # mean over tokens after the norm
    "vit_base_patch16_rpn_224",  # norms after attention and MLP
    "vit_base_patch16_siglip_224",  # attention pooling
    "aimv2_large_patch14_224",  # gated MLPs and RMS norms
)
Make = Callable[..., Model]


@pytest.fixture(params=["uneven", pytest.param("even", marks=pytest.mark.slow)])
def make(request: pytest.FixtureRequest, small: Make, uneven: Make) -> Make:
    return small if request.param == "even" else uneven


def images(model: Model) -> torch.Tensor:
    size = model.info.image_size
    return torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(3))


def assert_equal(rewritten: Model, model: Model, inputs: torch.Tensor | None = None) -> None:
    with torch.inference_mode():
        expected = model.module(images(model))
        logits = rewritten.module(images(model) if inputs is None else inputs)
    assert float((logits - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", REWRITES)
def test_each_rewrite_alone_changes_no_logit(name: str, kind: str, make: Make) -> None:
    model = make(name, depth=2)
    changed = model.copied()
    counts = rewrite(changed, [kind])
    assert counts.keys() == {kind}
    assert_equal(changed, model)


@pytest.mark.parametrize("pool", ["max", "avgmax", "avg"])
@pytest.mark.parametrize("after", [False, True])
def test_a_norm_before_max_pooling_keeps_its_gain(pool: str, after: bool, small: Make) -> None:
    """A negative gain turns a maximum into a minimum."""
    model = small("vit_tiny_patch16_224", depth=2, global_pool=pool, fc_norm=after)
    with torch.no_grad():
        model.module.get_submodule("fc_norm" if after else "norm").get_parameter("weight").sub_(1.0)
    changed = model.copied()
    rewrite(changed, ["norms"])
    assert_equal(changed, model)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("trim_last_block", [False, True])
def test_all_rewrites_together_change_no_logit(name: str, trim_last_block: bool, make: Make) -> None:
    model = make(name, depth=2)
    changed = model.copied()
    rewrite(changed, REWRITES)
    flatten(changed, FORMS["decomposed"], trim_last_block=trim_last_block)
    assert_equal(changed, model)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("trim_last_block", [False, True])
@pytest.mark.parametrize("multiple", [4, 7])
def test_padded_tokens_change_no_logit(name: str, trim_last_block: bool, multiple: int, make: Make) -> None:
    model = make(name, depth=2)
    changed, tokens = model.copied(), model.layer_calls["blocks.0.attn"].positions
    counts = flatten(changed, FORMS["decomposed"], trim_last_block=trim_last_block, tokens_multiple=multiple)
    assert ("pad-tokens" in counts) == (tokens % multiple > 0)
    assert (
        trace(changed.module, {"x": images(model)[:1]})["blocks.0.mlp.fc2"].positions
        == -(-tokens // multiple) * multiple
    )
    assert_equal(changed, model)


def test_a_single_trimmed_block_is_not_padded(small: Make) -> None:
    model = small(depth=1)
    for trim in (True, False):
        changed = model.copied()
        counts = flatten(changed, FORMS["decomposed"], trim_last_block=trim, tokens_multiple=4)
        assert ("pad-tokens" in counts) == (not trim)
        assert_equal(changed, model)


@pytest.mark.parametrize("name", NAMES)
def test_a_linear_patch_embedding_changes_no_logit(name: str, make: Make) -> None:
    model = make(name, depth=2)
    changed = model.copied()
    assert linear_patches(changed) == 1
    assert not any(isinstance(layer, nn.Conv2d) for layer in changed.module.modules())
    assert_equal(changed, model)


def test_rewrites_remove_what_they_fold(small: Make) -> None:
    beit = small("beit_base_patch16_224", depth=2)
    assert rewrite(beit, REWRITES) == {
        "layer-scale": 4,
        "norms": 5,
        "softmax-scale": 2,
        "key-bias": 2,  # BEiT has none; folding the norms creates one
        "value-bias": 2,
    }
    for attention in attentions(beit.module).values():
        assert attention.scale == 1.0
        assert attention.k_bias is None
        assert attention.v_bias is None
    norms = [layer for layer in beit.module.modules() if isinstance(layer, nn.LayerNorm)]
    assert len(norms) == 5
    assert all(bool((norm.weight == 1).all()) and not norm.bias.any() for norm in norms)
    assert all(isinstance(scale, nn.Identity) for _, block in beit.blocks for scale in (block.ls1, block.ls2))


def test_a_missing_key_bias_is_not_counted(small: Make) -> None:
    assert rewrite(small("beit_base_patch16_224", depth=2), ["key-bias"]) == {"key-bias": 0}


@pytest.mark.parametrize("name", NAMES)
def test_padded_heads_change_no_logit(name: str, make: Make) -> None:
    model = make(name, depth=2)
    changed = model.copied()
    for attention in attentions(changed.module).values():
        pad_heads(attention, HeadLayout(tuple((qk + 3, v + 5) for qk, v in attention.layout.heads)))
        assert not attention.layout_mismatch()
    assert_equal(changed, model)


def test_heads_are_padded_to_supported_widths(small: Make, uneven: Make) -> None:
    even = small(depth=2)
    assert pad_for_kernel(even, HeadWidths(8, 8)) == 0
    model = uneven(depth=2)
    odd = model.copied()
    assert pad_for_kernel(odd, HeadWidths(8, 16)) == 2
    assert {head for layer in attentions(odd.module).values() for head in layer.layout.heads} == {(16, 16)}
    assert_equal(odd, model)


@pytest.mark.parametrize("name", NAMES)
def test_the_input_normalisation_is_folded_into_the_patch_embedding(name: str, make: Make) -> None:
    model = make(name, depth=2)
    changed = model.copied()
    preprocessing = model.info.preprocessing
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
    fold_normalisation(changed)
    assert_equal(changed, model, images(model) * std + mean)


@pytest.mark.parametrize(("name", "outputs"), [("vit_tiny_patch16_224", 1), ("deit_tiny_distilled_patch16_224", 2)])
def test_macs_of_a_trimmed_last_block(name: str, outputs: int, make: Make) -> None:
    """Queries, output projection and MLP for the classifier's tokens; keys and values for all."""
    model = make(name, depth=2)
    tokens = model.layer_calls["blocks.1.attn"].positions
    block, layout = model.blocks[1][1], model.layouts[1]
    width, hidden = block.mlp_output.weight.shape
    per_token = (layout.qk_width + layout.v_width + 2 * hidden) * width + tokens * (layout.qk_width + layout.v_width)
    before = model.cost.macs
    flatten(model, FORMS["decomposed"], trim_last_block=True)
    assert macs(model.module, model.info.image_size) == before - (tokens - outputs) * per_token


def macs(module: nn.Module, size: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() // 2


def test_trimming_saves_seven_percent_of_deit_tiny() -> None:
    """12 blocks at 224 pixels: the last block computes keys and values of all tokens, the rest of one token."""
    from toolkit import recipe
    from toolkit.models.build import build

    settings = recipe.Model(name="deit_tiny_patch16_224", weights="none")
    model = build(settings, [f"class {index}" for index in range(1000)], seed=0)
    flatten(model, FORMS["decomposed"], trim_last_block=True)
    saved = 1 - macs(model.module, 224) / 1_253_683_200
    assert saved == pytest.approx(0.0696, abs=0.003)


def test_mean_pooling_needs_the_whole_last_block(small: Make) -> None:
    model = small("beit_base_patch16_224", depth=2)
    flatten(model, FORMS["decomposed"], trim_last_block=True)
    assert type(model.blocks[1][1]) is HeadwiseBlock


def test_a_beit_with_token_pooling_is_trimmed(small: Make) -> None:
    model = small("beit_base_patch16_224", depth=2, global_pool="token")
    changed = model.copied()
    flatten(changed, FORMS["decomposed"], trim_last_block=True)
    assert isinstance(changed.blocks[1][1], ReducingBlock)
    assert_equal(changed, model)
