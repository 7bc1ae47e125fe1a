"""Every model in every target, precision and batch size: written, and compared with PyTorch if it runs here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from toolkit import plugins, records
from toolkit.bench.runtimes import described, runtime
from toolkit.errors import RecipeError, WrongMachine
from toolkit.export import target as load_target
from toolkit.models.model import Model
from toolkit.records import Artifact

MODELS = ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "beit_base_patch16_224")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
TARGETS = [name for name in plugins.names("toolkit.export") if name != "tensorrt"]  # which builds on GPUs only
NO_CPU_KERNELS = (("onnx", "bf16"),)
"""Files that onnxruntime cannot run on a CPU."""
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 0.2}
"""Largest difference from PyTorch, as a fraction of the largest logit; int8 on untrained weights."""


@pytest.fixture
def model(models: Callable[..., Model], name: str, heads: str) -> Model:
    return models(name, heads)


@pytest.mark.each_choice
@pytest.mark.parametrize("batch_size", [(1, 4, 8), (4,)], ids=str)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("heads", ["even", "uneven"])
@pytest.mark.parametrize("name", MODELS)
def test_every_file(
    model: Model,
    exported: Callable[..., Artifact],
    tmp_path: Path,
    target: str,
    precision: str,
    batch_size: tuple[int, ...],
) -> None:
    case = (target, precision)
    if precision not in load_target(target).capabilities().precisions:
        with pytest.raises(RecipeError, match=f"does not support {precision}"):
            exported(model, target, precision=precision, batch_size=batch_size)
        return
    own = {"compile": False} if target == "torch" else {}
    artifact = exported(model, target, precision=precision, batch_size=batch_size, **own)
    assert records.load(Artifact, tmp_path / "out" / "artifact.json") == artifact
    assert (artifact.target, artifact.precision, artifact.model) == (target, precision, model.info)
    assert artifact.inputs[0].shape[0] == ("batch" if len(batch_size) > 1 else 4)
    if described(load_target(target).runtime).uses_gpu or case in NO_CPU_KERNELS:
        assert artifact.max_abs_difference is None
        return
    if artifact.max_abs_difference is None:  # bf16 on a CPU without bf16 support
        assert case == ("openvino", "bf16")
        with pytest.raises(WrongMachine):
            runtime("openvino").open(tmp_path / "out", threads=1)
        return
    images = np.random.default_rng(1).standard_normal((5, 3, 16, 16), dtype=np.float32)
    with torch.inference_mode():
        expected = model.module(torch.from_numpy(images)).numpy()
    with runtime(load_target(target).runtime).open(tmp_path / "out", threads=1) as session:
        logits = session.predict(images)
    assert np.abs(logits - expected).max() <= TOLERANCES[precision] * np.abs(expected).max()


@pytest.mark.parametrize(
    "precision",
    [
        pytest.param("fp32", marks=pytest.mark.slow),
        pytest.param("fp16", marks=pytest.mark.slow),
        "bf16",
        pytest.param("int8", marks=pytest.mark.slow),
    ],
)
def test_custom_attention_in_every_precision(
    models: Callable[..., Model], exported: Callable[..., Artifact], precision: str
) -> None:
    artifact = exported(models(heads="uneven"), "onnx", precision=precision, attention="custom")
    assert artifact.attention == "custom"
    assert (artifact.max_abs_difference is None) == (precision == "bf16")
