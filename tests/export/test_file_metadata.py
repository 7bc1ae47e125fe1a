"""A file's metadata suffice to preprocess an image by hand, as docs/preprocessing.md shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from PIL import ExifTags
from PIL import Image as Pillow

from toolkit.dg.image import Image
from toolkit.dg.transforms import evaluation_transform
from toolkit.export.file_metadata import file_metadata
from toolkit.models.model import Model
from toolkit.preprocessing import CropMode, Interpolation, Preprocessing
from toolkit.records import Artifact, ModelInfo

Models = Callable[..., Model]
Exported = Callable[..., Artifact]
DOCS = Path(__file__).parents[2] / "docs" / "preprocessing.md"


CASES: tuple[tuple[Interpolation, float, CropMode], ...] = (
    ("bicubic", 1.0, "squash"), ("bilinear", 0.9, "center"), ("lanczos", 0.6, "squash"), ("hamming", 1.0, "center"),
)  # fmt: skip


def with_preprocessing(info: ModelInfo, interpolation: Interpolation, crop: float, mode: CropMode) -> ModelInfo:
    return replace(info, preprocessing=Preprocessing((0.1, 0.2, 0.3), (0.4, 0.5, 0.6), interpolation, crop, mode, ""))


def test_preprocessing_by_hand_gives_the_models_logits(
    models: Models, exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models()
    exported(model)
    monkeypatch.chdir(tmp_path / "out")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    exif = Pillow.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Pillow.fromarray(pixels).resize((91, 63)).save("photo.jpg", exif=exif)
    photo = Image("photo.jpg", "photo.jpg", 0, Path("photo.jpg")).decode()
    (lines,) = re.findall(r"^```python\n(.*?)^```", DOCS.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    graph, logits = onnx.load("model.onnx"), []
    for case in CASES:
        info = with_preprocessing(model.info, *case)
        onnx.helper.set_model_props(graph, file_metadata(info))
        onnx.save(graph, "model.onnx")
        variables: dict[str, np.ndarray] = {}
        exec(lines, variables)
        with torch.inference_mode():
            expected = model.module(evaluation_transform(info)(photo)[None]).numpy()
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(variables["logits"], expected, atol=atol, err_msg=str(case))
        logits.append(expected)
    assert all(np.abs(one - other).max() > 1e-3 for one, other in pairwise(logits)), "the crops differ"


def test_openvino_and_torch_files_have_the_metadata(models: Models, exported: Exported, tmp_path: Path) -> None:
    model = models()
    info = with_preprocessing(model.info, "box", 0.875, "center")
    exported(replace(model, info=info), "openvino")
    graph = openvino.Core().read_model(tmp_path / "out" / "model.xml")
    assert {name: graph.get_rt_info(["toolkit", name]).value for name in file_metadata(info)} == file_metadata(info)
    exported(replace(model, info=info), "torch", compile=False)
    extra = {"facts.json": ""}
    torch.export.load(tmp_path / "out" / "model.pt2", extra_files=extra)
    assert json.loads(extra["facts.json"]) == file_metadata(info)
