"""Groups contain all coupled dimensions, and nothing inside attention is coupled to the outside."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from toolkit.errors import PlanError, UnsupportedModel
from toolkit.models.block import blocks_of
from toolkit.models.dependency_graph import find_groups
from toolkit.models.model import Model
from toolkit.models.selection import Selection
from toolkit.records import Cut

Build = Callable[..., Model]
EXAMPLE = {"x": torch.empty(1, 3, 16, 16)}
NAMES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224", "beit_base_patch16_224")
MORE = {"beit_base_patch16_224": {"init_values": 0.1}}
WIDTH, HIDDEN = 20, 50
"""Unique widths in the models below, which have 5 heads of 4 units and 4 patches."""


@pytest.fixture(scope="module", params=NAMES)
def model(request: pytest.FixtureRequest, small: Build) -> Model:
    return small(request.param, 2, embed_dim=WIDTH, num_heads=5, mlp_ratio=2.5, **MORE.get(request.param, {}))


def test_the_names_of_all_groups(model: Model) -> None:
    segments = {group.key: group.segments for group in model.groups}
    expected: dict[tuple[str, str], tuple[int, ...]] = {("residual", "embed"): (WIDTH,), ("blocks", "block"): (2,)}
    for block in (0, 1):
        expected[f"blocks.{block}.mlp", "mlp"] = (HIDDEN,)
        expected[f"blocks.{block}.attn", "head"] = (5,)
        expected[f"blocks.{block}.attn", "qk"] = expected[f"blocks.{block}.attn", "v"] = (4,) * 5
    assert segments == expected


def test_groups_cover_every_dimension_of_their_width(model: Model) -> None:
    """All dimensions of the residual's or the MLP's width are in the group, in every architecture."""
    groups = model.groups
    for width, axis in ((WIDTH, "embed"), (HIDDEN, "mlp")):
        inner = (".attn.q_bias", ".attn.k_bias", ".attn.v_bias")  # as wide as the residual, but part of the heads
        expected = {
            (name, dim)
            for name, parameter in model.module.named_parameters()
            for dim, size in enumerate(parameter.shape)
            if size == width and not name.endswith(inner) and not (name.endswith(".attn.proj.weight") and dim == 1)
        }
        pieces = [piece for group in groups if group.axis == axis for piece in group.slices]
        assert {(piece.parameter, piece.dim) for piece in pieces} == expected
        for piece in pieces:
            assert torch.equal(piece.positions, torch.arange(width))
            assert torch.equal(piece.units, torch.arange(width))


def test_attention_groups_stay_inside_attention(model: Model) -> None:
    for group in model.groups:
        if group.axis in ("head", "qk", "v"):
            assert all(piece.parameter.startswith(f"{group.place}.") for piece in group.slices)


def test_heads_cover_their_channels(uneven: Build) -> None:
    model = uneven("beit_base_patch16_224")
    groups = model.groups
    layout = model.info.layouts[0]
    assert len(layout.buckets) > 1
    head = groups.find("blocks.0.attn", "head")
    channels = dict.fromkeys(range(head.units), 0)
    for piece in head.slices:
        if piece.parameter.endswith("qkv.weight"):
            for unit in piece.units.tolist():
                channels[unit] += 1
    assert channels == {number: 2 * qk + v for number, (qk, v) in enumerate(layout.heads)}
    table = [piece for piece in head.slices if piece.parameter.endswith("bias_table")]
    assert [(piece.dim, piece.units.tolist()) for piece in table] == [(1, [0, 1, 2])]


def test_the_last_block_cannot_be_removed(small: Build) -> None:
    groups = small(depth=1).groups
    with pytest.raises(PlanError, match="'blocks' would keep 0 units along block; the minimum is 1"):
        Selection(groups, (Cut("blocks", "block", (0,)),))


def test_along_selects_axes(model: Model) -> None:
    groups = model.groups
    assert {group.axis for group in groups.along(("mlp", "qk"))} == {"mlp", "qk"}
    assert len(list(groups)) == 10


def test_reduce_sums_the_weights_of_each_unit(small: Build) -> None:
    model = small()
    groups, module = model.groups, model.module
    calls: list[str] = []

    def ones(name: str, weight: torch.Tensor) -> torch.Tensor:
        calls.append(name)
        return torch.ones_like(weight)

    scores = groups.reduce(ones)
    assert len(calls) == len(set(calls))
    assert scores["blocks.0.mlp", "mlp"].tolist() == [24 + 1 + 24] * 48  # row and bias of fc1, column of fc2
    assert scores["blocks.0.attn", "qk"].tolist() == [2 * 24 + 2] * 24
    assert scores["blocks.0.attn", "v"].tolist() == [2 * 24 + 1] * 24
    assert scores["blocks.0.attn", "head"].tolist() == [8 * (2 * 24 + 2) + 8 * (2 * 24 + 1)] * 3
    block = sum(parameter.numel() for parameter in blocks_of(module)[0].parameters())
    assert scores["blocks", "block"].tolist() == [block] * 2


def test_finding_groups_leaves_the_model_unchanged(small: Build) -> None:
    module = small().module.train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    find_groups(module, EXAMPLE, ["head"])
    assert all(part.training for part in module.modules())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in module.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert not any("forward" in vars(part) for part in module.modules())


def test_channels_of_no_axis_are_refused(small: Build) -> None:
    module = small().module
    block = blocks_of(module)[0]
    block.get_submodule("mlp").register_module(
        "fc2", torch.nn.Sequential(torch.nn.Linear(48, 9), torch.nn.Linear(9, 24))
    )
    with pytest.raises(UnsupportedModel, match="no axis"):
        find_groups(module, EXAMPLE, ["head"])
