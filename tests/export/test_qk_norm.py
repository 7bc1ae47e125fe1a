"""Models that normalise queries and keys: pruned by whole heads, rewritten and exported with equal logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from toolkit.errors import PlanError, UnsupportedModel
from toolkit.export.rewrite import REWRITES, pad_heads, rewrite
from toolkit.models.block import attentions
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.prune.bases.svd import PLUGIN as SVD
from toolkit.prune.calibration import Calibration
from toolkit.records import Artifact, Cut, HeadLayout


@pytest.fixture(params=["layernorm", pytest.param("rmsnorm", marks=pytest.mark.slow)])
def slim(request: pytest.FixtureRequest, small: Callable[..., Model]) -> Model:
    """Two blocks; one head less in the first, fewer values in both."""
    model = small(qk_norm=True, norm_layer=request.param)
    cuts = (Cut("blocks.0.attn", "head", (1,)), Cut("blocks.0.attn", "v", (0, 1, 20)), Cut("blocks.1.attn", "v", (5,)))
    removed = remove(model, cuts).model  # proven to equal the masked model
    return removed.with_info(replace(removed.info, weights_sha256="ab" * 32))


def logits(model: Model) -> torch.Tensor:
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        output: torch.Tensor = model.module(images)
    return output


def assert_equal(actual: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((actual - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))


def test_queries_and_keys_are_removed_with_their_head_only(small: Callable[..., Model]) -> None:
    model = small(qk_norm=True)
    assert {group.axis for group in model.groups.along(("qk", "v", "head"))} == {"v", "head"}
    with pytest.raises(PlanError, match=r"'blocks.0.attn' are normalised, so that only whole heads can be removed"):
        remove(model, (Cut("blocks.0.attn", "qk", (0,)),))


@pytest.mark.parametrize("names", [*([name] for name in REWRITES), [*REWRITES]], ids="+".join)
def test_rewrites_change_no_logit(slim: Model, names: list[str]) -> None:
    changed = slim.copied()
    rewrite(changed, names)
    assert_equal(logits(changed), logits(slim))


def test_padded_values_change_no_logit(slim: Model) -> None:
    changed = slim.copied()
    for attention in attentions(changed.module).values():
        pad_heads(attention, HeadLayout(tuple((qk, 16) for qk, _ in attention.layout.heads)))
    assert_equal(logits(changed), logits(slim))


def test_the_singular_value_basis_is_refused(slim: Model) -> None:
    with pytest.raises(UnsupportedModel, match=r"basis svd is not for blocks\.0\.attn, which normalises"):
        SVD.rotate(slim, Calibration(lambda _: [], (), 0))


@pytest.mark.each_choice
@pytest.mark.parametrize("attention", ["decomposed", "packed", "standard", "custom"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_exported_files_have_the_models_logits(
    slim: Model, exported: Callable[..., Artifact], attention: str, precision: str
) -> None:
    artifact = exported(slim, attention=attention, precision=precision, opset=23 if attention == "standard" else 20)
    assert artifact.max_abs_difference is not None


@pytest.mark.parametrize("target", ["openvino", "torch", "rtx"])
@pytest.mark.slow
def test_other_targets(slim: Model, exported: Callable[..., Artifact], target: str) -> None:
    assert exported(slim, target).target == target
