"""Random plans on small models: the pruned model equals the full model with those units masked."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Sequence

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from toolkit import recipe, records
from toolkit.errors import CheckFailed
from toolkit.export.artifact import export
from toolkit.models import store, surgery
from toolkit.models.block import attentions, blocks_of
from toolkit.models.cost_model import CostModel
from toolkit.models.groups import Groups
from toolkit.models.masking import masked
from toolkit.models.model import Model
from toolkit.models.profile import Cost
from toolkit.models.selection import Selection, min_units
from toolkit.models.surgery import remove
from toolkit.records import Cut, PrunePlan

SIZE = 16
Build = Callable[..., Model]
MODELS = {
    "vit": ("vit_tiny_patch16_224", {}),
    "deit-distilled": ("deit_tiny_distilled_patch16_224", {}),
    "beit": ("beit_base_patch16_224", {"init_values": 0.1}),
    "beit-abs": ("beitv2_base_patch16_224", {"init_values": 0.1, "use_abs_pos_emb": True, "use_rel_pos_bias": False}),
}
TIMES = 10 if os.environ.get("TOOLKIT_MANY_EXAMPLES") else 1
"""`make slow` tries ten times as many plans."""
SEARCH = settings(
    max_examples=5 * TIMES,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", params=MODELS)
def dense(request: pytest.FixtureRequest, small: Build) -> Model:
    name, more = MODELS[request.param]
    return small(name, 3, **more)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))


def logits(module: nn.Module) -> Tensor:
    with torch.inference_mode():
        result: Tensor = module(images())
    return result


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return float((actual - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


def random_cuts(groups: Groups, ratios: Sequence[float], seed: int) -> tuple[Cut, ...]:
    """A cut of every group with a nonzero ratio, which keeps at least one unit per run."""
    draw = random.Random(seed)
    cuts = []
    for group, ratio in zip(groups, ratios, strict=False):
        first, units = 0, list[int]()
        for size in group.segments:
            removable = size - min_units(group.axis)
            units += draw.sample(range(first, first + size), min(removable, round(draw.uniform(0, 2 * ratio) * size)))
            first += size
        if units:
            cuts.append(Cut(group.place, group.axis, tuple(sorted(units))))
    return tuple(cuts)


RATIOS = st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.8]), min_size=14, max_size=14)
SEEDS = st.integers(0, 2**16)


@given(ratios=RATIOS, seed=SEEDS)
@SEARCH
def test_pruning_once_and_twice(dense: Model, ratios: list[float], seed: int) -> None:
    model = dense
    for step in range(2):
        groups = model.groups
        cuts = random_cuts(groups, ratios, seed + step)
        assume(cuts)
        before = logits(model.module)
        removal = remove(model, cuts)
        slim = removal.model
        assert torch.equal(logits(model.module), before)  # the original model is unchanged
        assert close(logits(slim.module), logits(masked(model.module, Selection(groups, cuts))))
        check_origin(model.module, removal)
        model = slim


def check_origin(original: nn.Module, removal: surgery.Removal) -> None:
    """Check that the pruned model's weights are the original's at the units in `origin`."""
    slim = removal.model.module
    embed = list(removal.origin["residual", "embed"][1])
    for place, attention in attentions(slim).items():
        old_place, queries = removal.origin[place, "qk"]
        heads, values = list(removal.origin[place, "head"][1]), list(removal.origin[place, "v"][1])
        old, block = attentions(original)[old_place], old_place.removesuffix(".attn")
        q, k, v = old.qkv.weight.split([old.layout.qk_width, old.layout.qk_width, old.layout.v_width])
        rows = torch.cat([q[list(queries)], k[list(queries)], v[values]])
        assert torch.equal(attention.qkv.weight, rows[:, embed])
        assert torch.equal(attention.proj.weight, old.proj.weight[embed][:, values])
        if attention.relative_position_bias_table is not None:
            assert old.relative_position_bias_table is not None
            assert torch.equal(attention.relative_position_bias_table, old.relative_position_bias_table[:, heads])
        mlp = place.replace(".attn", ".mlp")
        hidden = list(removal.origin[mlp, "mlp"][1])
        old_fc1 = original.get_parameter(f"{block}.mlp.fc1.weight")
        assert torch.equal(slim.get_parameter(f"{mlp}.fc1.weight"), old_fc1[hidden][:, embed])
    pixels = original.get_parameter("patch_embed.proj.weight")
    assert torch.equal(slim.get_parameter("patch_embed.proj.weight"), pixels[embed])


@given(ratios=RATIOS, seed=SEEDS)
@SEARCH
def test_a_pruned_model_round_trips_exactly(
    dense: Model, tmp_path_factory: pytest.TempPathFactory, ratios: list[float], seed: int
) -> None:
    cuts = random_cuts(dense.groups, ratios, seed)
    assume(cuts)
    slim = remove(dense, cuts).model
    folder = tmp_path_factory.mktemp("slim")
    info = slim.save(folder).info
    loaded = store.load(folder)
    assert loaded.info == info
    assert torch.equal(logits(loaded.module), logits(slim.module))
    assert same_tensors(loaded.module, slim.module)


def same_tensors(one: nn.Module, other: nn.Module) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return list(mine) == list(theirs) and all(torch.equal(mine[name], theirs[name]) for name in mine)


@given(ratios=RATIOS, seed=SEEDS)
@settings(SEARCH, max_examples=3 * TIMES)
def test_a_saved_plan_reproduces_the_pruned_model(
    dense: Model, tmp_path_factory: pytest.TempPathFactory, ratios: list[float], seed: int
) -> None:
    cuts = random_cuts(dense.groups, ratios, seed)
    assume(cuts)
    plan = PrunePlan("0" * 64, "grouped", "random", "global", "ratio=0.5", 0.5, seed, cuts)
    replayed = records.loads(PrunePlan, records.dumps(plan))
    assert replayed == plan
    folder = tmp_path_factory.mktemp("dense")
    dense.save(folder)
    again = store.load(folder)
    assert same_tensors(remove(again, replayed.cuts).model.module, remove(dense, cuts).model.module)


@given(ratios=RATIOS, seed=SEEDS)
@settings(SEARCH, max_examples=TIMES)
def test_onnx_equals_torch(
    dense: Model, tmp_path_factory: pytest.TempPathFactory, ratios: list[float], seed: int
) -> None:
    cuts = random_cuts(dense.groups, [max(ratio, 0.2) for ratio in ratios], seed)
    slim = remove(dense, cuts).model
    folder = tmp_path_factory.mktemp("onnx")
    saved = slim.save(folder)
    artifact = export("onnx", saved, recipe.Export(), folder)
    session = onnxruntime.InferenceSession(folder / artifact.file, providers=["CPUExecutionProvider"])
    (actual,) = session.run(["logits"], {"images": images().numpy()})
    assert close(torch.from_numpy(np.asarray(actual)), logits(slim.module), 1e-4)


def test_the_masked_model_equals_a_reference_implementation(small: Build) -> None:
    """The reference is a plain ViT that masks activations instead of weights."""
    model = small("vit_tiny_patch16_224", 2)
    module = model.module
    cuts = (
        Cut("residual", "embed", (0, 7, 20)),
        Cut("blocks.0.attn", "head", (1,)),
        Cut("blocks.0.attn", "qk", (0, 1, 17)),
        Cut("blocks.0.attn", "v", (2, 23)),
        Cut("blocks.1.attn", "qk", (9,)),
        Cut("blocks.1.mlp", "mlp", (0, 5, 40)),
    )
    expected = gated_vit(module, cuts)
    assert not close(logits(module), expected, 1e-2)
    assert close(logits(masked(model.module, Selection(model.groups, cuts))), expected)
    assert close(logits(remove(model, cuts).model.module), expected)


def gated_vit(module: nn.Module, cuts: Sequence[Cut]) -> Tensor:
    """Logits for `images()` of a ViT whose activations are multiplied by 0 for removed units."""
    weights = {name: parameter.detach() for name, parameter in module.named_parameters()}
    removed: dict[tuple[str, str], tuple[int, ...]] = {(item.place, item.axis): item.units for item in cuts}

    def gate(place: str, axis: str, units: int) -> Tensor:
        keep = torch.ones(units)
        keep[list(removed.get((place, axis), ()))] = 0.0
        return keep

    residual = gate("residual", "embed", 24)

    def norm(x: Tensor, name: str) -> Tensor:
        mean = (x * residual).sum(-1, keepdim=True) / residual.sum()
        variance = ((x - mean).square() * residual).sum(-1, keepdim=True) / residual.sum()
        return residual * ((x - mean) / (variance + 1e-6).sqrt() * weights[f"{name}.weight"] + weights[f"{name}.bias"])

    def attend(x: Tensor, place: str) -> Tensor:
        bias = torch.cat([weights[f"{place}.{part}_bias"] for part in "qkv"])
        q, k, v = (x @ weights[f"{place}.qkv.weight"].T + bias).chunk(3, dim=-1)
        q, v = q * gate(place, "qk", 24), v * gate(place, "v", 24)
        heads = []
        for head in range(3):
            at = slice(8 * head, 8 * head + 8)
            attention_weights = (q[..., at] @ k[..., at].transpose(1, 2) / 8**0.5).softmax(-1)
            heads.append(attention_weights @ v[..., at] * gate(place, "head", 3)[head])
        return torch.cat(heads, -1) @ weights[f"{place}.proj.weight"].T + weights[f"{place}.proj.bias"]

    def feed(x: Tensor, place: str) -> Tensor:
        hidden = F.gelu(x @ weights[f"{place}.fc1.weight"].T + weights[f"{place}.fc1.bias"]) * gate(place, "mlp", 48)
        return hidden @ weights[f"{place}.fc2.weight"].T + weights[f"{place}.fc2.bias"]

    patches = F.conv2d(images(), weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=8)
    x = torch.cat([weights["cls_token"].expand(4, -1, -1), patches.flatten(2).transpose(1, 2)], 1)
    x = (x + weights["pos_embed"]) * residual
    for block in ("blocks.0", "blocks.1"):
        x = (x + attend(norm(x, f"{block}.norm1"), f"{block}.attn")) * residual
        x = (x + feed(norm(x, f"{block}.norm2"), f"{block}.mlp")) * residual
    return norm(x, "norm")[:, 0] @ weights["head.weight"].T + weights["head.bias"]


def test_a_removed_block_equals_a_deleted_block(small: Build) -> None:
    model = small(depth=3)
    removal = remove(model, (Cut("blocks", "block", (1,)),))
    del blocks_of(model.module)[1]
    assert removal.model.info.removed_blocks == (1,)
    assert removal.origin["blocks.1.mlp", "mlp"][0] == "blocks.2.mlp"
    assert torch.equal(logits(removal.model.module), logits(model.module))


def test_heads_are_sorted_by_width(small: Build) -> None:
    removal = remove(small(), (Cut("blocks.0.attn", "qk", (8, 9)),))
    layout = attentions(removal.model.module)["blocks.0.attn"].layout
    assert layout.buckets == ((2, 8, 8), (1, 6, 8))
    assert removal.origin["blocks.0.attn", "head"] == ("blocks.0.attn", (0, 2, 1))


def test_training_mode_is_kept(small: Build) -> None:
    model = small()
    model.module.train()
    slim = remove(model, (Cut("residual", "embed", (0,)),)).model
    assert model.module.training
    assert slim.module.training


def test_a_wrong_result_is_detected(small: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model, cuts = small(), (Cut("blocks.0.mlp", "mlp", (3,)),)
    other = Selection(model.groups, (Cut("blocks.0.mlp", "mlp", (4,)),))
    monkeypatch.setattr(surgery, "masked", lambda module, _: masked(module, other))
    with pytest.raises(CheckFailed, match="features differ"):
        remove(model, cuts)


def test_a_wrong_cost_prediction_is_detected(small: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    monkeypatch.setattr(CostModel, "after_removing", lambda *unused: Cost(parameters=1, macs=1))
    with pytest.raises(CheckFailed, match="predicted"):
        remove(model, (Cut("blocks.0.mlp", "mlp", (3,)),))
