"""Models as timm builds them, and files of their weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn


@pytest.fixture(scope="session")
def built() -> Callable[..., nn.Module]:
    """`built(name, size, **args)`: a small model of timm's, with one block and 3 classes."""

    def build(name: str, size: int, **args: object) -> nn.Module:
        small: dict[str, object] = {"patch_size": 8, "depth": 1, "embed_dim": 24, "num_heads": 3, "num_classes": 3}
        module: nn.Module = timm.create_model(name, img_size=size, **{**small, **args})
        return module.eval()

    return build


@pytest.fixture(scope="session")
def model(built: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """`model(name, size, seed, **args)`: all parameters random, including biases, positions and layer scales."""

    def make(name: str = "vit_tiny_patch16_224", size: int = 32, seed: int = 0, **args: object) -> nn.Module:
        torch.manual_seed(seed)
        module = built(name, size, **args)
        for parameter in module.parameters():
            nn.init.normal_(parameter)
        return module

    return make


@pytest.fixture(scope="session")
def written() -> Callable[[dict[str, Tensor], Path], Path]:
    """`written(state, file)`: a safetensors file with these tensors."""

    def write(state: dict[str, Tensor], file: Path) -> Path:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
        return file

    return write
