"""Accuracy of DeiT-Tiny without training, calibrated on half of the ImageNet pictures and measured on the others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from toolkit import recipe
from toolkit.dg.batches import calibration_batches
from toolkit.dg.image import Image
from toolkit.models.build import build
from toolkit.models.model import Model
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job
from toolkit.prune.pruning import prune

LOST = {0.75: 0.2, 0.6: 0.5, 0.5: 1.0, 0.4: 3.0}
"""Points of accuracy that may be lost, by the fraction of the MACs."""
NOISE = 3.0
"""Points that a difference on one half may be off: two standard errors."""


@pytest.fixture(scope="module")
def dense(shared: Path) -> Model:
    classes = tuple((shared / "data/imagenet_samples/wnids.txt").read_text().split())
    weights = str(shared / "weights/deit_tiny_patch16_224.safetensors")
    return build(recipe.Model(name="deit_tiny_patch16_224", weights=weights, crop=0.9), classes, seed=0).identified()


@pytest.fixture(scope="module")
def pictures(shared: Path, dense: Model) -> list[Image]:
    files = sorted((shared / "data/imagenet_samples").glob("*/*.jpg"))
    return [Image(file.parent.name, "all", dense.info.classes.index(file.parent.name), file) for file in files]


@torch.inference_mode()
def predicted(model: Model, images: list[Image]) -> Tensor:
    """Log probabilities [images, classes]"""
    batches = calibration_batches({"all": images}, model.info, 41)
    return torch.cat([log_softmax(model.module(batch.images), dim=-1) for batch in batches])


@pytest.mark.slow
@pytest.mark.parametrize("measured_half", [1, 0])
@pytest.mark.parametrize("fraction", LOST)
def test_oneshot_loses_little(dense: Model, pictures: list[Image], fraction: float, measured_half: int) -> None:
    """Calibrated on one half and measured on the other: once with each half, as one is easier than the other."""
    fitted, measured = pictures[1 - measured_half :: 2], pictures[measured_half::2]
    calibration = Calibration(lambda _: calibration_batches({"all": fitted}, dense.info, 41), ("all",), seed=0)
    settings = recipe.Prune.model_validate({"method": "oneshot", "budget": f"macs={fraction}"})
    slim = prune(dense, Job(settings, calibration, seed=0)).slim
    labels = torch.tensor([image.label for image in measured])
    before, after = predicted(dense, measured), predicted(slim, measured)
    accuracies = [100 * float((each.argmax(dim=-1) == labels).float().mean()) for each in (before, after)]
    divergence = float(kl_div(after, before, log_target=True, reduction="batchmean"))
    kept = slim.cost.macs / dense.cost.macs
    change = f"{accuracies[0]:.1f} -> {accuracies[1]:.1f} %, KL {divergence:.4f}"
    print(f"\nhalf {measured_half}: {kept:.4f} of the MACs: {change}")
    assert 0.99 * fraction <= kept <= fraction
    assert accuracies[0] - accuracies[1] <= LOST[fraction] + NOISE
