"""Predicted costs equal the measured cost of the pruned model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from toolkit.models import surgery
from toolkit.models.model import Model
from toolkit.models.profile import profile
from toolkit.models.selection import Selection
from toolkit.models.tokens import with_tokens
from toolkit.records import Cut, Merge

Build = Callable[..., Model]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_the_dense_cost(name: str, uneven: Build) -> None:
    model = uneven(name)
    assert model.cost_model.dense == profile(model.module, {"x": torch.empty(1, 3, 16, 16)})


@given(st.data())
@settings(max_examples=10)
def test_any_removal(beit: Model, data: st.DataObject) -> None:
    """One unit of some groups, including heads and blocks that contain other removed units."""
    groups = beit.groups
    wide = [group for group in groups if min(group.segments) > 1]
    chosen = data.draw(st.lists(st.sampled_from(wide), min_size=1, unique_by=lambda group: group.key))
    cuts = [Cut(group.place, group.axis, (data.draw(st.integers(0, group.units - 1)),)) for group in chosen]
    predicted = beit.cost_model.after_removing(Selection(groups, cuts).removed)
    assert predicted == profile(surgery.remove(beit, cuts).model.module, {"x": torch.empty(1, 3, 16, 16)})


@pytest.fixture(scope="module")
def beit(uneven: Build) -> Model:
    return uneven("beit_base_patch16_224", 3)


@pytest.mark.parametrize("cuts", [(), (Cut("blocks.1.attn", "head", (0,)), Cut("residual", "embed", (1, 2)))])
@pytest.mark.parametrize("merges", [(), (Merge(0, 4), Merge(1, 3, "grid"))])
def test_fewer_tokens(uneven: Build, cuts: tuple[Cut, ...], merges: tuple[Merge, ...]) -> None:
    dense = uneven(depth=3)
    model = with_tokens(dense, merges, trim_last_block=True)
    predicted = model.cost_model.dense
    if cuts:
        predicted = model.cost_model.after_removing(Selection(model.groups, cuts).removed)
        model = surgery.remove(model, cuts).model
    assert predicted == profile(model.module, model.example())
    assert predicted.macs < dense.info.macs


def test_units_of_a_removed_head_are_subtracted_once(small: Build) -> None:
    model = small()
    groups, cost = model.groups, model.cost_model
    head = groups.find("blocks.0.attn", "head")
    units = groups.find("blocks.0.attn", "qk")
    removed = {head.key: torch.tensor([True, False, False])}
    both = {**removed, units.key: torch.arange(24) < 8}
    assert cost.after_removing(both) == cost.after_removing(removed)
    assert cost.after_removing({}) == cost.dense
