"""Small real models: model folders and their exports, wide (dense) and narrow (slim)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toolkit import plugins, recipe
from toolkit.bench.runtimes import described
from toolkit.export.artifact import export
from toolkit.models.build import build


@pytest.fixture(scope="session")
def folders(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Folder of models (dense/, slim/) and artifacts (dense-onnx/, slim-onnx/, ...).

    The models have two blocks, an input of 32 x 32 pixels and three classes.
    """
    return made_once("models", _make_folders)


def _make_folders(root: Path) -> None:
    for name, width in (("dense", 192), ("slim", 32)):
        settings = recipe.Model(
            name="vit_tiny_patch16_224",
            weights="none",
            image_size=32,
            args={"patch_size": 8, "depth": 2, "embed_dim": width, "num_heads": 2},
        )
        model = build(settings, ("cat", "dog", "fox"), seed=0)
        with torch.no_grad():
            for (
                parameter
            ) in model.module.parameters():  # with its initial weights, it predicts the same class for all images
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
        (root / name).mkdir()
        saved = model.save(root / name)
        options = recipe.Export.model_validate({"torch": {"compile": False}})
        for target, plugin in plugins.importable("toolkit.export"):
            if not described(plugin.runtime).uses_gpu:
                export(target, saved, options, root / f"{name}-{target}")
