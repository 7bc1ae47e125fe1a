"""Models with fewer tokens: merged, or only those that the classifier reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toolkit.errors import PlanError, UnsupportedModel, WeightsError
from toolkit.models import store
from toolkit.models.gates import gated
from toolkit.models.masking import masked
from toolkit.models.model import Model
from toolkit.models.resize import resized
from toolkit.models.selection import Selection
from toolkit.models.surgery import remove
from toolkit.models.tokens import block_indices, can_merge, with_tokens
from toolkit.records import Cut, Merge

Build = Callable[..., Model]
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
MERGES = (Merge(0, 12), Merge(1, 9, "grid"))


def logits(model: Model, images: torch.Tensor = IMAGES) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model.module(images)
    return result


@pytest.fixture
def model(uneven: Build) -> Model:
    return uneven(depth=3, image_size=32)  # 16 patches and the class token


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224"])
def test_trimming_changes_no_logit(uneven: Build, name: str) -> None:
    model = uneven(name, image_size=32, **({"global_pool": "token"} if "beit" in name else {}))
    trimmed = with_tokens(model, trim_last_block=True)
    torch.testing.assert_close(logits(trimmed), logits(model), rtol=1e-5, atol=1e-5)
    assert trimmed.cost.macs < model.cost.macs
    assert trimmed.info.trim_last_block


def test_merging_all_but_one_token_changes_little_and_a_model_is_not_changed(model: Model) -> None:
    before = logits(model)
    merged = with_tokens(model, (Merge(0, 16),))
    assert torch.equal(logits(model), before)
    assert not torch.equal(logits(merged), before)
    assert with_tokens(model) is model


def test_a_model_is_saved_and_loaded(model: Model, tmp_path: Path) -> None:
    merged = with_tokens(model, MERGES, trim_last_block=True).identified()
    merged.save(tmp_path / "merged")
    loaded = store.load(tmp_path / "merged")
    assert loaded.info == merged.info
    assert torch.equal(logits(loaded), logits(merged))
    assert loaded.cost == merged.cost


def test_surgery_after_merging(model: Model) -> None:
    """All axes at once, with channels that merges compare; the masked model merges the same tokens."""
    merged = with_tokens(model, MERGES, trim_last_block=True)
    cuts = (
        Cut("residual", "embed", (3, 7)),
        Cut("blocks.0.attn", "head", (1,)),
        Cut("blocks.1.mlp", "mlp", (0, 5)),
        Cut("blocks.2.attn", "v", (2,)),
    )
    slim = remove(merged, cuts).model
    assert slim.info.merges == MERGES
    large = masked(merged.module, Selection(merged.groups, cuts)).eval()
    with torch.inference_mode():
        torch.testing.assert_close(logits(slim), large(IMAGES), rtol=1e-4, atol=1e-4)


def test_a_trimmed_block_cannot_be_removed(model: Model) -> None:
    trimmed = with_tokens(model, (Merge(0, 12),), trim_last_block=True)
    with pytest.raises(PlanError, match="block 2 computes the classifier's tokens"):
        remove(trimmed, [Cut("blocks", "block", (2,))])
    slim = remove(trimmed, [Cut("blocks", "block", (1,))]).model
    assert [block.attn.num_queries for _, block in slim.blocks] == [None, 1]
    assert block_indices(slim.info) == (0, 2)


def test_a_block_that_merges_cannot_be_removed(model: Model) -> None:
    merged = with_tokens(model, (Merge(1, 12),))
    with pytest.raises(PlanError, match="block 1 merges tokens"):
        remove(merged, [Cut("blocks", "block", (1,))])
    with pytest.raises(PlanError, match="nothing would follow it"):
        remove(merged, [Cut("blocks", "block", (2,))])
    with pytest.raises(PlanError, match="block 1 merges tokens"), gated(merged, [("blocks", "block")]):
        pass


def test_blocks_are_numbered_as_in_the_source_architecture(model: Model) -> None:
    slim = remove(model, [Cut("blocks", "block", (0,))]).model
    merged = with_tokens(slim, (Merge(1, 12),))
    assert merged.blocks[0][1].merge is not None
    with pytest.raises(PlanError, match="cannot be merged in block 0\nchoose from 1: nothing follows the last"):
        with_tokens(slim, (Merge(0, 12),))


def test_another_image_size_keeps_the_fraction_of_tokens(model: Model) -> None:
    merged = with_tokens(model, (Merge(0, 13),))
    larger = resized(merged, 64)
    assert larger.info.merges == (Merge(0, 49),)
    assert logits(larger, torch.randn(1, 3, 64, 64)).shape == (1, len(model.info.classes))


@pytest.mark.parametrize(
    ("merges", "message"),
    [
        ((Merge(2, 9),), "cannot be merged in block 2"),
        ((Merge(1, 12), Merge(0, 10)), "in the order of their blocks"),
        ((Merge(0, 5),), "16 patch tokens cannot be merged into 4: bipartite matching leaves 8 to 15"),
        ((Merge(0, 12), Merge(1, 12)), "11 patch tokens cannot be merged into 11"),
    ],
)
def test_merges_that_do_not_fit(model: Model, merges: tuple[Merge, ...], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        with_tokens(model, merges)


def test_models_whose_tokens_cannot_be_merged(uneven: Build) -> None:
    with pytest.raises(UnsupportedModel, match="depends on the tokens' positions"):
        with_tokens(uneven("beit_base_patch16_224", global_pool="token"), (Merge(0, 4),))
    mean = uneven("vit_base_patch16_rpn_224")
    with pytest.raises(UnsupportedModel, match="reads all tokens, and merging would change their mean"):
        with_tokens(mean, (Merge(0, 4),))
    with pytest.raises(UnsupportedModel, match="the last block computes them all"):
        with_tokens(mean, trim_last_block=True)
    assert not can_merge(mean)


def test_merges_of_a_file_that_do_not_fit_its_blocks(model: Model, tmp_path: Path) -> None:
    with_tokens(model, (Merge(0, 12),)).identified().save(tmp_path / "merged")
    file = tmp_path / "merged" / "model.json"
    file.write_text(file.read_text().replace('"block": 0', '"block": 5'))
    with pytest.raises(WeightsError, match="merges tokens in blocks that the model does not have"):
        store.load(tmp_path / "merged")


def test_a_model_that_only_merges_tokens_has_another_identity(small: Callable[..., Model]) -> None:
    """Files and measurements of one are not those of the other, though the weights are the same."""
    model = small(depth=4, image_size=32).identified()
    others = [with_tokens(model, (Merge(1, tokens),)) for tokens in (9, 10)]
    others.append(with_tokens(model, (), trim_last_block=True))
    infos = [model.info, *(other.identified().info for other in others)]
    assert len({info.weights_sha256 for info in infos}) == 1
    assert len({info.identity for info in infos}) == 4
    assert model.info.identity == model.info.weights_sha256
