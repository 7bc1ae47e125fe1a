"""Random labelled images for criteria, and jobs for methods."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from toolkit import recipe
from toolkit.dg.batches import Batch
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
def double(small: Callable[..., Model]) -> Callable[..., Model]:
    """`double(name)`: a small model of two blocks in float64."""

    def make(name: str = "vit_tiny_patch16_224") -> Model:
        model = small(name, 2, mlp_ratio=1.0)
        assert model.groups  # found in float32
        model.module.double().eval()
        return model

    return make
