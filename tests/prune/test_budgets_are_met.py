"""Budgets are met within 1 % from below, whatever the method, budget, axes and family of the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import toolkit
from toolkit import recipe
from toolkit.dg.batches import Batch
from toolkit.export.artifact import export
from toolkit.models import store
from toolkit.models.model import Model
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job
from toolkit.prune.pruning import Pruned, prune

SIZE, WIDTH = 32, 48
FAMILIES = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224", "transformers")
"""Names in timm, and a ViT of transformers."""
METHODS = {
    "grouped": ({}, [("head", "mlp"), ("mlp",), ("qk", "v", "mlp")]),
    "optin": ({"optin": {"images": 4, "tokens": 32, "probes": 1}}, [("head", "mlp"), ("mlp",)]),
    "oneshot": ({"oneshot": {"trials": 4, "fewest_tokens": 0.2}}, [("qk", "v", "mlp"), ("qk", "mlp"), ("mlp",)]),
}
"""Own settings of each method, and axes."""
IMAGES = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
CALIBRATION = Calibration(lambda _: [Batch(IMAGES, torch.arange(8) % 3)], ("all",), seed=0)


@pytest.fixture(scope="module")
def family(small: Callable[..., Model]) -> Callable[[str], Model]:
    """`family(name)`: a model of one of FAMILIES with 3 blocks of fine units."""

    def make(name: str) -> Model:
        if name == "transformers":
            return transformers_vit()
        return small(name, 3, image_size=SIZE, embed_dim=WIDTH, mlp_ratio=8.0).identified()

    return make


def transformers_vit() -> Model:
    """A ViT of transformers with random weights."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 8 * WIDTH}
    torch.manual_seed(0)
    module = transformers.ViTForImageClassification(
        transformers.ViTConfig(**sizes, image_size=SIZE, patch_size=8, num_labels=3)
    )
    return toolkit.load(module, ["a", "b", "c"]).identified()


@pytest.mark.slow
@given(st.sampled_from(FAMILIES), st.sampled_from(sorted(METHODS)), st.sampled_from(["macs", "params"]), st.data())
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_budgets(family: Callable[[str], Model], name: str, method: str, quantity: str, data: st.DataObject) -> None:
    own, axes = METHODS[method]
    fraction = data.draw(st.floats(0.55, 0.95))
    check(family(name), {"method": method, "axes": data.draw(st.sampled_from(axes)), **own}, quantity, fraction)


@pytest.mark.parametrize(
    ("name", "method", "quantity"),
    [
        ("vit_tiny_patch16_224", "oneshot", "macs"),
        ("deit_tiny_distilled_patch16_224", "optin", "macs"),
        ("beit_base_patch16_224", "oneshot", "params"),
        ("transformers", "oneshot", "macs"),
    ],
)
def test_budgets_of_each_family(family: Callable[[str], Model], name: str, method: str, quantity: str) -> None:
    own, axes = METHODS[method]
    check(family(name), {"method": method, "axes": axes[0], **own}, quantity, 0.7)


def test_a_pruned_model_is_saved_loaded_and_exported(small: Callable[..., Model], tmp_path: Path) -> None:
    """With merges, a basis, repaired weights and the trimmed last block."""
    own = {"method": "oneshot", "axes": ("mlp",), "round_to": 2, "oneshot": {"trials": 6, "fewest_tokens": 0.2}}
    slim = pruned(small(depth=4, image_size=SIZE).identified(), own, "macs=0.5").slim
    assert slim.info.merges
    slim.save(tmp_path / "slim")
    loaded = store.load(tmp_path / "slim")
    with torch.inference_mode():
        torch.testing.assert_close(loaded.module(IMAGES), slim.module(IMAGES), rtol=0, atol=0)
    artifact = export("onnx", loaded, recipe.Export(), tmp_path / "onnx")
    assert artifact.max_abs_difference is not None
    assert artifact.max_abs_difference < 1e-4


def check(model: Model, settings: dict[str, object], quantity: str, fraction: float) -> None:
    result = pruned(model, settings, f"{quantity}={fraction}")
    slim, dense = result.slim.cost, model.cost
    kept = slim.macs / dense.macs if quantity == "macs" else slim.parameters / dense.parameters
    assert result.plan.achieved == pytest.approx(kept)
    token = 1 / (SIZE // 8) ** 2 if result.plan.merges else 0.0  # the smallest step of a merge, of all MACs at most
    assert kept <= fraction
    if result.plan.cuts or result.plan.merges:  # else the last block's exact trim alone meets the budget
        assert kept >= 0.99 * fraction - token
    else:
        assert result.plan.trim_last_block


def pruned(model: Model, settings: dict[str, object], budget: str) -> Pruned:
    values = {"round_to": 1, "budget": budget, **settings}
    return prune(model, Job(recipe.Prune.model_validate(values), CALIBRATION, seed=0))
