"""Small models with a hash, and calibration and validation images."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit import recipe
from toolkit.export.artifact import export
from toolkit.export.calibrate import DomainSample, Sample
from toolkit.models.block import attentions
from toolkit.models.build import build
from toolkit.models.model import Model
from toolkit.models.resize import resized
from toolkit.models.surgery import remove
from toolkit.pixels import InputFormat
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job, method
from toolkit.records import Artifact, Setting

SIZE = 16


@pytest.fixture(scope="session")
def models(small: Callable[..., Model], uneven: Callable[..., Model]) -> Callable[..., Model]:
    """`models(name, heads)`: two blocks, with "even" or "uneven" heads and a hash."""

    def create(name: str = "vit_tiny_patch16_224", heads: str = "even", **arguments: Setting) -> Model:
        model = (small if heads == "even" else uneven)(name, depth=2, **arguments)
        return model.with_info(replace(model.info, weights_sha256="ab" * 32))

    return create


@pytest.fixture(scope="session")
def halved() -> Callable[..., Model]:
    """`halved(model, "head", "mlp")`: pruned to half of its MACs along these axes, with a hash."""

    def prune(model: Model, *axes: str) -> Model:
        settings = recipe.Prune.model_validate({"criterion": "magnitude-l2", "budget": "macs=0.5", "axes": axes})
        plan = method("grouped").prune(model, Job(settings, Calibration(lambda _: [], (), 0), 0)).plan
        slim = remove(model, plan.cuts).model
        return slim.with_info(replace(slim.info, weights_sha256="cd" * 32))

    return prune


@pytest.fixture(scope="session")
def sample_of() -> Callable[..., Sample]:
    """Random images of two domains, labelled with the model's predictions; the margin is one image in eight."""

    def sample(model: Model, size: int = SIZE) -> Sample:
        images = np.random.default_rng(0).standard_normal((32, 3, size, size), dtype=np.float32)
        with torch.inference_mode():
            labels = resized(model, size).module(torch.from_numpy(images)).argmax(1).numpy()
        one, two = DomainSample("one", images[:16], labels[:16]), DomainSample("two", images[16:], labels[16:])
        return Sample(images[:8], (one, two), 0.125)

    return sample


@pytest.fixture
def exported(sample_of: Callable[..., Sample], tmp_path: Path) -> Callable[..., Artifact]:
    """`exported(model, "onnx", opset=23, ...)`: the artifact written to tmp_path/out.

    Settings that not all targets share are the target's own.
    """

    def run(model: Model, target: str = "onnx", /, **options: object) -> Artifact:
        shared = {name: value for name, value in options.items() if name in recipe.Export.model_fields}
        own = {name: value for name, value in options.items() if name not in shared}
        settings = recipe.Export.model_validate(shared | ({target: own} if own else {}))
        return export(target, model, settings, tmp_path / "out", sample_of(model, settings.usual_image_size or SIZE))

    return run


ARGUMENTS: dict[str, dict[str, Setting]] = {
    "deit_tiny_patch16_224": {"weight_init": "jax"},
    "deit_tiny_distilled_patch16_224": {"weight_init": "jax"},
    "beit_base_patch16_224": {"init_values": 1.0, "use_abs_pos_emb": True, "head_init_scale": 1.0},
}
"""Model arguments with which training on digits takes three seconds."""


@pytest.fixture(scope="session")
def digits() -> Callable[[Model], tuple[torch.Tensor, torch.Tensor]]:
    """`digits(model)`: images [1797, 3, 16, 16], normalised for it, and their labels, in a fixed order."""
    from sklearn.datasets import load_digits

    dataset = load_digits()
    order = np.random.default_rng(0).permutation(len(dataset.target))
    grey = np.rint(dataset.images[order] * (255 / 16)).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
    pixels = np.stack([grey] * 3, axis=1)

    def read(model: Model) -> tuple[torch.Tensor, torch.Tensor]:
        images = InputFormat.of(model.info.preprocessing, "uint8").decode(pixels)
        return torch.from_numpy(images), torch.from_numpy(dataset.target[order].astype(np.int64))

    return read


@pytest.fixture(scope="session")
def trained(digits: Callable[[Model], tuple[torch.Tensor, torch.Tensor]]) -> Callable[[str], Model]:
    """`trained(name)`: two blocks, with more than 90 % accuracy on unseen digits."""

    @cache
    def train(name: str) -> Model:
        args = {"patch_size": 4, "embed_dim": 48, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0, **ARGUMENTS[name]}
        settings = recipe.Model(name=name, weights="none", image_size=SIZE, args=args)
        model = build(settings, tuple("0123456789"), seed=0)
        images, labels = (tensor[:1400] for tensor in digits(model))
        optimizer = torch.optim.AdamW(model.module.parameters(), weight_decay=0.05)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=300)
        rng = torch.Generator().manual_seed(0)
        model.module.train()
        for _ in range(300):
            batch = torch.randint(len(images), (64,), generator=rng)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model.module(images[batch]), labels[batch]).backward()
            optimizer.step()
            schedule.step()
        model.module.eval()
        return replace(model, info=replace(model.info, weights_sha256="ef" * 32))

    return train


@pytest.fixture(scope="session")
def with_outliers() -> Callable[[Model], Model]:
    """`with_outliers(model)`: an equal function, with every fourth v unit scaled by 100 and its output by 1/100."""

    def scale(model: Model) -> Model:
        module = copy.deepcopy(model.module)
        with torch.no_grad():
            for attention in attentions(module).values():
                units = torch.arange(0, attention.layout.v_width, 4)
                attention.qkv.weight[2 * attention.layout.qk_width + units] *= 100
                if attention.v_bias is not None:
                    attention.v_bias[units] *= 100
                attention.proj.weight[:, units] /= 100
        return replace(model, module=module)

    return scale
