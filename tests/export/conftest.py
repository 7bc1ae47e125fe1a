"""Small models that have a hash, and images to choose number formats by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit import recipe
from toolkit.export.artifact import export
from toolkit.export.calibrate import Part, Sample
from toolkit.models.resize import resized
from toolkit.models.source import LoadedModel
from toolkit.models.surgery import info_after, remove
from toolkit.progress import silent
from toolkit.prune.criteria import Calibration
from toolkit.prune.methods import Job, method
from toolkit.records import Artifact, Setting

SIZE = 16


@pytest.fixture(scope="session")
def models(small: Callable[..., LoadedModel], uneven: Callable[..., LoadedModel]) -> Callable[..., LoadedModel]:
    """`models(name, heads)`: two blocks, with "even" or "uneven" heads, as if saved."""

    def made(name: str = "vit_tiny_patch16_224", heads: str = "even", **more: Setting) -> LoadedModel:
        model = (small if heads == "even" else uneven)(name, depth=2, **more)
        return LoadedModel(model.module, replace(model.info, weights_sha256="ab" * 32))

    return made


@pytest.fixture(scope="session")
def halved() -> Callable[..., LoadedModel]:
    """`halved(model, "head", "mlp")`: cut to half of its MACs along these axes, as if saved."""

    def made(model: LoadedModel, *axes: str) -> LoadedModel:
        settings = recipe.Prune.model_validate({"criterion": "magnitude-l2", "budget": "macs=0.5", "axes": axes})
        plan = method("grouped").prune(model, Job(settings, Calibration(list, 0), silent))
        removal = remove(model.module, plan.cuts, model.info.image_size)
        return LoadedModel(removal.module, replace(info_after(model.info, removal), weights_sha256="cd" * 32))

    return made


@pytest.fixture(scope="session")
def sample_of() -> Callable[..., Sample]:
    """Random images with the model's own answers for their classes, of two domains; one in eight may be lost."""

    def sample(model: LoadedModel, size: int = SIZE) -> Sample:
        images = np.random.default_rng(0).standard_normal((32, 3, size, size), dtype=np.float32)
        with torch.inference_mode():
            labels = resized(model, size).module(torch.from_numpy(images)).argmax(1).numpy()
        return Sample(images[:8], (Part("one", images[:16], labels[:16]), Part("two", images[16:], labels[16:])), 0.125)

    return sample


@pytest.fixture
def exported(sample_of: Callable[..., Sample], tmp_path: Path) -> Callable[..., Artifact]:
    """`exported(model, "onnx", opset=23, ...)`: written into tmp_path/out."""

    def made(model: LoadedModel, kind: str = "onnx", /, **options: object) -> Artifact:
        settings = recipe.Export.model_validate(options)
        return export(kind, model, settings, tmp_path / "out", sample_of(model, settings.usual_image_size or SIZE))

    return made
