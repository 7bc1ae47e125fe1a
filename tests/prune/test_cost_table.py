"""Counted cost tables against the models themselves."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from toolkit.errors import PlanError, UnsupportedModel
from toolkit.models.model import Model
from toolkit.models.resize import resized
from toolkit.models.surgery import remove
from toolkit.models.tokens import with_tokens
from toolkit.prune.cost_table import BlockShape, CountedTable, ModelShape, shape_of, total
from toolkit.records import Cut, Matching, Merge, Setting

FAMILIES: dict[str, dict[str, Setting]] = {
    "vit_tiny_patch16_224": {},
    "deit_tiny_distilled_patch16_224": {},
    "beit_base_patch16_224": {},
    "vit_base_patch16_clip_224": {"qkv_bias": False},
    "vit_base_patch16_siglip_224": {},
    "vit_small_patch14_dinov2": {},
    "vit_giant_patch14_dinov2": {},
    "vit_base_patch16_224": {"qk_norm": True, "global_pool": "avg"},
}


def cuts_of(model: Model, generator: random.Random) -> list[Cut]:
    """Random cuts that leave equal heads: heads, the last channels of every head, MLP units."""
    cuts = []
    for group in model.groups:
        if group.axis not in ("head", "qk", "v", "mlp") or group.indivisible:
            continue
        if group.axis in ("qk", "v"):
            width = group.segments[0]
            kept = generator.randint(1, width)
            units = [unit for unit in range(group.units) if unit % width >= kept]
        else:
            units = generator.sample(range(group.units), generator.randint(0, group.units - 1))
        if units:
            cuts.append(Cut(group.place, group.axis, tuple(sorted(units))))
    return cuts


def without_contained(cuts: list[Cut], model: Model) -> list[Cut]:
    """Cuts whose qk and v units are not those of removed heads."""
    heads = {cut.place: set(cut.units) for cut in cuts if cut.axis == "head"}
    result = []
    for cut in cuts:
        units = cut.units
        if cut.axis in ("qk", "v"):
            width = model.groups.find(cut.place, cut.axis).segments[0]
            units = tuple(unit for unit in units if unit // width not in heads.get(cut.place, ()))
        result += [replace(cut, units=units)] if units else []
    return result


@pytest.mark.parametrize(("name", "args"), FAMILIES.items(), ids=FAMILIES)
def test_counts_are_those_of_the_model(small: Callable[..., Model], name: str, args: dict[str, Setting]) -> None:
    model = small(name, **args)
    macs, parameters = CountedTable(model, "MACs"), CountedTable(model, "parameters")
    generator = random.Random(name)
    for _ in range(3):
        cuts = without_contained(cuts_of(model, generator), model)
        slim = remove(model, cuts).model
        shape = shape_of(slim)
        assert (total(macs, shape), total(parameters, shape)) == (slim.cost.macs, slim.cost.parameters)
    assert total(macs, shape_of(model)) == model.cost.macs == model.cost_model.dense.macs


def test_other_image_sizes(small: Callable[..., Model]) -> None:
    model = small()
    macs, parameters = CountedTable(model, "MACs"), CountedTable(model, "parameters")
    for size in (8, 32):
        other = resized(model, size)
        assert total(macs, shape_of(other)) == other.cost.macs
        assert total(parameters, shape_of(other)) == other.cost.parameters


def test_a_trimmed_last_block_counts_the_classifiers_tokens_only(small: Callable[..., Model]) -> None:
    model = small()  # 5 tokens, width 24, 3 heads of 8, 48 hidden units
    table, dense = CountedTable(model, "MACs"), shape_of(model)
    saved = total(table, dense) - total(table, replace(dense, trim_last_block=True))
    queries, products, projection, mlp = 4 * 24 * 24, 4 * 5 * (24 + 24), 4 * 24 * 24, 4 * 2 * 24 * 48
    assert saved == queries + products + projection + mlp
    parameters = CountedTable(model, "parameters")
    assert total(parameters, dense) == total(parameters, replace(dense, trim_last_block=True))
    pooled = small("vit_tiny_patch16_224", global_pool="avg")
    with pytest.raises(UnsupportedModel, match="reads all tokens"):
        total(CountedTable(pooled, "MACs"), replace(shape_of(pooled), trim_last_block=True))


@pytest.mark.parametrize("matching", ["bipartite", "grid"])
def test_merged_tokens_and_a_trimmed_block_are_counted_like_those_of_a_model(
    small: Callable[..., Model], matching: Matching
) -> None:
    model = small(depth=4, patch_size=2)  # 65 tokens
    tables = [CountedTable(model, unit, matching) for unit in ("MACs", "parameters")]
    merges = (Merge(0, 50, matching), Merge(2, 33, matching))
    merged = with_tokens(model, merges, trim_last_block=True)
    slim = remove(merged, [Cut("blocks.1.attn", "head", (0,)), Cut("blocks.2.mlp", "mlp", (1, 2, 3))]).model
    for other in (merged, slim):
        shape = shape_of(other)
        tokens = [(block.tokens_in, block.tokens_out) for block in shape.blocks]
        assert tokens == [(65, 50), (50, 50), (50, 33), (33, 33)]
        assert shape.trim_last_block
        assert [total(table, shape) for table in tables] == [other.cost.macs, other.cost.parameters]
    with pytest.raises(PlanError, match="cannot be merged"):
        tables[0].block(replace(shape.blocks[0], tokens_out=0))


def test_uneven_heads_are_refused(uneven: Callable[..., Model]) -> None:
    with pytest.raises(UnsupportedModel, match=r"the heads of blocks\.0\.attn differ in width"):
        shape_of(uneven())


def test_shape_of_a_model(small: Callable[..., Model]) -> None:
    assert shape_of(small(depth=1)) == ModelShape((BlockShape(5, 5, 3, 24, 24, 48),), image_size=16)
