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
NOISE = 1.0
"""Points that a difference over all pictures may be off: a standard error."""


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
@pytest.mark.parametrize("fraction", LOST)
def test_oneshot_loses_little(dense: Model, pictures: list[Image], fraction: float) -> None:
    """Over all pictures: calibrated on each half and measured on the other, as one half is easier."""
    lost = [lost_on_half(dense, pictures, fraction, half) for half in (0, 1)]
    print(f"{fraction} of the MACs: {sum(lost) / 2:.1f} points lost over all pictures")
    assert sum(lost) / 2 <= LOST[fraction] + NOISE


def lost_on_half(dense: Model, pictures: list[Image], fraction: float, half: int) -> float:
    """Points of accuracy lost on one half of the pictures, calibrated on the other."""
    fitted, measured = pictures[1 - half :: 2], pictures[half::2]
    calibration = Calibration(lambda _: calibration_batches({"all": fitted}, dense.info, 41), ("all",), seed=0)
    own = {"method": "oneshot", "budget": f"macs={fraction}", "oneshot": {"fewest_tokens": 0.2}}
    settings = recipe.Prune.model_validate(own)
    slim = prune(dense, Job(settings, calibration, seed=0)).slim
    labels = torch.tensor([image.label for image in measured])
    before, after = predicted(dense, measured), predicted(slim, measured)
    accuracies = [100 * float((each.argmax(dim=-1) == labels).float().mean()) for each in (before, after)]
    divergence = float(kl_div(after, before, log_target=True, reduction="batchmean"))
    kept = slim.cost.macs / dense.cost.macs
    assert 0.99 * fraction <= kept <= fraction
    change = f"{accuracies[0]:.1f} -> {accuracies[1]:.1f} %, KL {divergence:.4f}"
    print(f"\nhalf {half}: {kept:.4f} of the MACs: {change}")
    return accuracies[0] - accuracies[1]
