"""MACs and parameters against closed forms, timm's parameter count and PyTorch's FLOP counter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from toolkit import recipe
from toolkit.models.build import build
from toolkit.models.model import Model
from toolkit.models.profile import profile, trace
from toolkit.models.summary import summarise
from toolkit.models.surgery import remove
from toolkit.records import Cut, HeadLayout

Build = Callable[..., Model]
THOUSAND = tuple(f"class {number}" for number in range(1000))


@pytest.fixture(scope="module")
def deit() -> Model:
    return build(recipe.Model(name="deit_tiny_patch16_224", weights="none"), THOUSAND, seed=0)


def test_deit_tiny_equals_the_closed_form(deit: Model) -> None:
    width, tokens, patches, hidden, depth = 192, 197, 196, 768, 12
    block = (
        tokens * width * 3 * width  # queries, keys, values
        + 2 * tokens * tokens * width  # QK^T and PV
        + tokens * width * width  # output projection
        + 2 * tokens * width * hidden  # MLP
    )
    macs = patches * (3 * 16 * 16) * width + depth * block + width * 1000
    assert macs == 1_253_683_200
    cost = profile(deit.module, {"x": torch.empty(1, 3, 224, 224)})
    assert cost.macs == macs == deit.info.macs
    assert cost.parameters == 5_717_416 == deit.info.parameters


def test_a_pruned_model_equals_the_closed_form(deit: Model) -> None:
    cuts = (
        Cut("residual", "embed", tuple(range(32))),
        Cut("blocks.0.attn", "head", (2,)),
        Cut("blocks.0.attn", "qk", tuple(range(24))),
        Cut("blocks.0.attn", "v", tuple(range(64, 80))),
        Cut("blocks.3.mlp", "mlp", tuple(range(500))),
        Cut("blocks", "block", (5, 6)),
    )
    slim = remove(deit, cuts).model.module
    width, tokens = 192 - 32, 197

    def block(qk: int, v: int, hidden: int) -> int:
        return tokens * width * (2 * qk + v) + tokens**2 * (qk + v) + tokens * v * width + 2 * tokens * width * hidden

    macs = 196 * 768 * width + 8 * block(192, 192, 768) + block(192, 192, 268) + width * 1000
    macs += block(qk=(64 - 24) + 64, v=64 + (64 - 16), hidden=768)
    assert profile(slim, {"x": torch.empty(1, 3, 224, 224)}).macs == macs


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"])
def test_macs_are_half_of_pytorchs_flops(name: str, uneven: Build) -> None:
    """The math backend of attention exposes its two products to the FLOP counter."""
    model = uneven(name)
    counter = FlopCounterMode(display=False)
    with counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model.module(torch.zeros(1, 3, 16, 16))
    assert profile(model.module, {"x": torch.empty(1, 3, 16, 16)}).macs * 2 == counter.get_total_flops()


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"])
def test_parameters_equal_timms(name: str) -> None:
    theirs = sum(parameter.numel() for parameter in timm.create_model(name, depth=2).parameters())
    settings = recipe.Model(name=name, weights="none", args={"depth": 2})
    assert build(settings, THOUSAND, seed=0).info.parameters == theirs


def test_profiling_leaves_the_model_unchanged(small: Build) -> None:
    module = small().module.train()
    module.get_submodule("blocks.0").eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    profile(module, {"x": torch.empty(1, 3, 16, 16)})
    assert module.training
    assert not module.get_submodule("blocks.0").training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not any(part._forward_hooks for part in module.modules())


def test_bytes_moved_of_one_layer() -> None:
    """In float32, a linear layer reads 5 x 24 inputs and 24 x 48 + 48 weights, and writes 5 x 48 outputs."""
    from toolkit.models.profile import _layer_call

    layer = torch.nn.Linear(24, 48)
    call = _layer_call(layer, torch.zeros(1, 5, 24), torch.zeros(1, 5, 48))
    assert (call.positions, call.macs, call.bytes_moved) == (5, 5 * 24 * 48, 4 * (5 * 24 + 24 * 48 + 48 + 5 * 48))


def test_the_summary_lists_blocks(uneven: Build) -> None:
    model = uneven(depth=3)
    slim = remove(model, (Cut("blocks", "block", (0,)),)).model
    summary = summarise(slim)
    assert [block.block for block in summary.blocks] == [1, 2]
    assert [block.mlp_width for block in summary.blocks] == [38, 48]
    assert summary.blocks[0].layout == HeadLayout(((8, 8), (7, 8)))
    assert summary.embed_width == 22
    example = {"x": torch.empty(1, 3, 16, 16)}
    cost = profile(slim.module, example)
    assert (summary.macs, summary.parameters) == (cost.macs, cost.parameters)
    assert summary.bytes_moved == sum(
        call.bytes_moved for call in trace(slim.module, {"x": torch.empty(1, 3, 16, 16)}).values()
    )
    assert [(block.tokens_in, block.tokens_out) for block in summary.blocks] == [(5, 5)] * 2
    assert not summary.trim_last_block
    outside = 4 * 192 * 22 + 22 * 3  # patches and head
    assert sum(block.macs for block in summary.blocks) + outside == summary.macs
