"""Random labelled images for criteria, jobs for methods, and a real model with real images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toolkit import recipe
from toolkit.dg.batches import Batch, calibration_batches
from toolkit.dg.image import Image
from toolkit.models.build import build
from toolkit.models.model import Model
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job


@pytest.fixture(scope="session")
def batches() -> list[Batch]:
    """Five 16x16 images of 3 classes in two batches."""
    generator = torch.Generator().manual_seed(11)
    images = torch.randn(5, 3, 16, 16, generator=generator)
    labels = torch.tensor([0, 2, 1, 1, 0])
    return [Batch(images[:3], labels[:3]), Batch(images[3:], labels[3:])]


@pytest.fixture(scope="session")
def calibration(batches: list[Batch]) -> Calibration:
    return Calibration(lambda _: batches, ("all",), seed=0)


@pytest.fixture(scope="session")
def job(calibration: Calibration) -> Callable[..., Job]:
    """Function that makes a job from prune settings: `job(ratio=0.5, scope="local")`."""

    def make(**settings: object) -> Job:
        return Job(recipe.Prune.model_validate(settings), calibration, seed=0)

    return make


@pytest.fixture(scope="session")
def model(uneven: Callable[..., Model]) -> Model:
    """Two blocks with uneven heads."""
    return uneven()


@pytest.fixture(scope="session")
def real(shared: Path) -> Model:
    """DeiT-Tiny with its ImageNet weights."""
    classes = (shared / "data/imagenet_samples/wnids.txt").read_text().split()
    weights = shared / "weights/deit_tiny_patch16_224.safetensors"
    return build(recipe.Model(name="deit_tiny_patch16_224", weights=str(weights)), tuple(classes), seed=0)


@pytest.fixture(scope="session")
def pictures(shared: Path, real: Model) -> Calibration:
    """Eight ImageNet pictures of different classes, as the real model expects them."""
    files = sorted((shared / "data/imagenet_samples").glob("*/*.jpg"))[::60][:8]
    images = [Image(file.parent.name, "all", real.info.classes.index(file.parent.name), file) for file in files]
    return Calibration(lambda _: calibration_batches({"all": images}, real.info, 4), ("all",), seed=0)
