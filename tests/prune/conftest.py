"""Random labelled images for criteria, jobs for methods, known latencies, and a real model with real images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toolkit import recipe
from toolkit.dg.batches import Batch, calibration_batches
from toolkit.dg.image import Image
from toolkit.models.build import build
from toolkit.models.model import Model
from toolkit.prune.calibration import Calibration
from toolkit.prune.cost_table import ModelShape
from toolkit.prune.grid import Grid, key_of
from toolkit.prune.methods import Job
from toolkit.records import BlockShape, Environment, LatencyTable, ProbeSession


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
    """Function that makes a job from prune settings: `job(ratio=0.5, scope="local")`; by default of `grouped`."""

    def make(**settings: object) -> Job:
        return Job(recipe.Prune.model_validate({"method": "grouped", **settings}), calibration, seed=0)

    return make


@pytest.fixture(scope="session")
def model(uneven: Callable[..., Model]) -> Model:
    """Two blocks with uneven heads."""
    return uneven()


class Known:
    """Latencies that are linear in every size of a grid, in milliseconds."""

    def block_ms(self, shape: BlockShape) -> float:
        attention = shape.tokens_in * (1 + 0.3 * shape.heads + 0.02 * shape.qk + 0.01 * shape.v)
        merging = 2 * shape.tokens_in if shape.tokens_out < shape.tokens_in else 0.0
        return attention + merging + 0.005 * shape.tokens_out * shape.mlp

    def last_ms(self, shape: BlockShape) -> float:
        return 0.5 * shape.tokens_in + 0.01 * shape.tokens_in * shape.qk + 0.1 * shape.mlp

    def whole_ms(self, shape: ModelShape) -> float:
        *blocks, last = shape.blocks
        return 0.1 * shape.image_size + sum(map(self.block_ms, blocks)) + self.last_ms(last)

    def record(self, grid: Grid) -> LatencyTable:
        """All probes of a grid, with samples that vary alike."""
        probes = grid.probes()
        probes += [reference for probe in probes for reference in grid.references(key_of(probe))]
        taken = []
        for probe in dict.fromkeys(probes):
            blocks = () if probe.block is None else (probe.block,) * probe.count
            ms = self.whole_ms(ModelShape((*blocks, probe.last), probe.image_size))
            taken.append(replace(probe, latency_ms=(ms - 1, ms, ms + 1)))
        session = ProbeSession(tuple(taken), ())
        nowhere = Environment("0", "3", "none", "none", 1, 0, None, None, {})
        return LatencyTable("", "", "local", "onnxruntime", "onnx", "fp32", 1, None, nowhere, (session,))


@pytest.fixture(scope="session")
def known() -> Known:
    return Known()


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


@pytest.fixture(scope="session")
def double(small: Callable[..., Model]) -> Callable[..., Model]:
    """`double(name)`: a small model of two blocks in float64."""

    def make(name: str = "vit_tiny_patch16_224") -> Model:
        model = small(name, 2, mlp_ratio=1.0)
        assert model.groups  # found in float32
        model.module.double().eval()
        return model

    return make
