"""Merges by the trajectory score: the score against a literal computation, and the order of the ladder."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from toolkit.errors import PlanError, UnsupportedModel
from toolkit.models.block import named_blocks
from toolkit.models.merge import Merging
from toolkit.models.model import Model
from toolkit.models.tokens import with_tokens
from toolkit.prune.merge_ladder import merge_ladder, merge_score, more_merged
from toolkit.prune.trajectory import Comparison
from toolkit.records import Merge

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
ALL = Comparison(tokens=1000)


@pytest.fixture(scope="module")
def model(small: Callable[..., Model]) -> Model:
    """Four blocks, 16 patches and the class token."""
    return small(depth=4, image_size=32)


def outputs(module: nn.Module, index: int) -> tuple[Tensor, Tensor]:
    """Output of a block, and logits."""
    kept: list[Tensor] = []
    block = [*named_blocks(module).values()][index]
    hook = block.register_forward_hook(lambda _, __, output: kept.append(output[0]))
    with torch.no_grad():
        logits = module.eval()(IMAGES)
    hook.remove()
    return kept[0], logits


def gram(tokens: Tensor) -> Tensor:
    rows = tokens.flatten(0, 1).double()
    rows = rows / rows.norm(dim=1, keepdim=True)
    product: Tensor = rows @ rows.T
    return product


def merging_of(module: nn.Module, index: int) -> Merging:
    """The merging in a block."""
    kept: list[Merging] = []
    merge = [*named_blocks(module).values()][index].merge
    assert merge is not None
    hook = merge.register_forward_hook(lambda _, __, made: kept.append(made))
    with torch.no_grad():
        module.eval()(IMAGES)
    hook.remove()
    return kept[0]


def test_the_score_compares_with_the_dense_models_merged_tokens(model: Model) -> None:
    merges = (Merge(0, 13), Merge(2, 9))
    merging = with_tokens(model, merges)
    first, second = (merging_of(merging.module, index) for index in (0, 2))
    expected = 0.0
    for index, applied in ((1, [first]), (2, [first, second]), (3, [first, second])):
        tokens, dense_logits = outputs(model.module, index)
        for one in applied:
            tokens = one.apply(tokens)
        merged, logits = outputs(merging.module, index)
        assert merged.shape == tokens.shape
        expected += float((gram(tokens) - gram(merged)).square().sum())
    p, q = ((x / 4).double().log_softmax(dim=1) for x in (dense_logits, logits))
    expected += 0.5 * float(16 * (p.exp() * (p - q)).sum(dim=1).mean())
    assert merge_score(model, IMAGES, ALL, factor=0.5)(merging) == pytest.approx(expected, rel=1e-4)


def test_a_trimmed_model_is_scored(model: Model) -> None:
    """Its last block has class tokens only, which are never merged."""
    merges = (Merge(1, 12),)
    trimmed = with_tokens(model, trim_last_block=True)
    score = merge_score(trimmed, IMAGES, ALL, factor=0.0)(with_tokens(trimmed, merges))
    assert 0 < score < merge_score(model, IMAGES, ALL, factor=0.0)(with_tokens(model, merges))


def test_equal_tokens_are_merged_without_loss(small: Callable[..., Model]) -> None:
    """Images of one colour, in a model without positions: all patches are equal."""
    model = small(depth=3, image_size=32)
    with torch.no_grad():
        model.module.get_parameter("pos_embed").zero_()
    images = torch.ones(2, 3, 32, 32) * torch.tensor([0.3, -0.8])[:, None, None, None]
    score = merge_score(model, images, ALL, factor=1.0)
    assert score(with_tokens(model, (Merge(0, 9), Merge(1, 5)))) == pytest.approx(0, abs=1e-6)


def test_every_rung_merges_more_where_it_costs_least(model: Model) -> None:
    score = merge_score(model, IMAGES, ALL, factor=1.0)
    rungs = list(merge_ladder(model, score, step=4))
    assert (rungs[0].merges, rungs[0].importance) == ((), 0.0)
    assert len(rungs) > 3
    for before, after in pairwise(rungs):
        assert after.model.info.merges == after.merges
        assert after.importance == score(after.model)
        saved = before.model.cost.macs - after.model.cost.macs
        price = (after.importance - before.importance) / saved
        for block in range(3):
            try:
                other = with_tokens(model, more_merged(before.merges, block, 4, 17, 1))
            except PlanError:  # it cannot merge that many
                continue
            fewer = before.model.cost.macs - other.cost.macs
            assert fewer <= 0 or price <= (score(other) - before.importance) / fewer


def test_more_merged() -> None:
    assert more_merged((), 2, 4, 17, 1) == (Merge(2, 13),)
    assert more_merged((Merge(1, 15), Merge(3, 13)), 2, 4, 17, 1) == (Merge(1, 15), Merge(2, 11), Merge(3, 9))
    assert more_merged((Merge(1, 15), Merge(3, 13)), 1, 4, 17, 1) == (Merge(1, 11), Merge(3, 9))


def test_later_merges_take_at_most_half_of_the_patches() -> None:
    assert more_merged((Merge(2, 9),), 1, 4, 17, 1) == (Merge(1, 13), Merge(2, 7))


def test_models_whose_tokens_cannot_be_merged_are_refused(small: Callable[..., Model]) -> None:
    model = small("beit_base_patch16_224")
    with pytest.raises(UnsupportedModel, match="reads all tokens"):
        next(merge_ladder(model, lambda _: 0.0, 1))
