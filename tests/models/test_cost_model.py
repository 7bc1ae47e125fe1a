"""Predicted costs are those counted on the real cut model."""

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
from toolkit.records import Cut

Build = Callable[..., Model]


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_the_dense_cost_is_counted(name: str, uneven: Build) -> None:
    model = uneven(name)
    dense = model.cost_model.dense
    counted = profile(model.module, 16)
    assert (dense.parameters, dense.macs) == (counted.parameters, counted.macs)


@given(st.data())
@settings(max_examples=10)
def test_any_removal(beit: Model, data: st.DataObject) -> None:
    """One unit of some groups, and the heads and blocks that hold others of them."""
    groups = beit.groups
    wide = [group for group in groups if min(group.segments) > 1]
    chosen = data.draw(st.lists(st.sampled_from(wide), min_size=1, unique_by=lambda group: group.key))
    cuts = [Cut(group.place, group.axis, (data.draw(st.integers(0, group.units - 1)),)) for group in chosen]
    predicted = beit.cost_model.after_removing(Selection(groups, cuts).removed)
    counted = profile(surgery.remove(beit, cuts).model.module, 16)
    assert (predicted.parameters, predicted.macs) == (counted.parameters, counted.macs)


@pytest.fixture(scope="module")
def beit(uneven: Build) -> Model:
    return uneven("beit_base_patch16_224", 3)


def test_units_of_a_removed_head_cost_nothing_twice(small: Build) -> None:
    model = small()
    groups, cost = model.groups, model.cost_model
    head = groups.find("blocks.0.attn", "head")
    units = groups.find("blocks.0.attn", "qk")
    gone = {head.key: torch.tensor([True, False, False])}
    both = {**gone, units.key: torch.arange(24) < 8}
    assert cost.after_removing(both) == cost.after_removing(gone)
    assert cost.after_removing({}) == cost.dense
