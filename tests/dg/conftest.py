"""Small datasets and models."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import nn

from toolkit import recipe
from toolkit.dg import image_check
from toolkit.dg.domains import Domains, read_domains
from toolkit.models.model import Model
from toolkit.preprocessing import Preprocessing
from toolkit.records import ModelInfo

MakeFolder = Callable[[Mapping[str, int]], Path]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat files as settled, however recent their changes."""
    monkeypatch.setattr(image_check, "SETTLED_NS", -(10**12))


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Function that writes a folder from {"DOMAIN/CLASS": number of images}; colours depend on the class."""

    def make(content: Mapping[str, int]) -> Path:
        root = tmp_path / "images"
        for folder, count in content.items():
            (root / folder).mkdir(parents=True)
            for index in range(count):
                pixels = np.random.default_rng([index, len(folder)]).integers(0, 80, (12, 16, 3), dtype=np.uint8)
                pixels[..., ord(folder.split("/")[-1][0]) % 3] += 150
                Pillow.fromarray(pixels).save(root / folder / f"{index:02d}.png")
        return root

    return make


@pytest.fixture
def three_domains(make_folder: MakeFolder) -> Domains:
    """art, photo and sketch with 10 images each of the classes a and b; sketch is held out."""
    root = make_folder({f"{domain}/{label}": 10 for domain in ("art", "photo", "sketch") for label in "ab"})
    return read_domains(recipe.Data(path=str(root), hold_out="sketch"), seed=0)


@pytest.fixture
def damaged(make_folder: MakeFolder) -> Domains:
    """Four images in each of two classes; one is truncated, one empty, one not an image, and one transparent."""
    root = make_folder({"a": 4, "b": 4})
    whole = (root / "a" / "00.png").read_bytes()
    (root / "a" / "00.png").write_bytes(whole[: len(whole) // 2])
    (root / "a" / "01.png").write_bytes(b"")
    (root / "b" / "02.png").write_text("no image at all")
    Pillow.new("RGBA", (4, 4), (0, 0, 0, 99)).save(root / "b" / "03.png")
    return read_domains(recipe.Data(path=str(root), hold_out="none"), 0)


@pytest.fixture
def tiny_info() -> ModelInfo:
    return info_of(size=8)


def info_of(size: int) -> ModelInfo:
    return ModelInfo(
        name="tiny",
        args={},
        classes=("a", "b"),
        image_size=size,
        preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bilinear", 1.0, "squash", "timm"),
        removed_blocks=(),
        layouts=(),
        parameters=0,
        macs=0,
        weights_sha256="",
    )


@pytest.fixture
def make_model(tiny_info: ModelInfo) -> Callable[[], Model]:
    """Function that makes a classifier with fixed initial weights; its dropout draws random numbers."""

    def make() -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            module = nn.Sequential(
                nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Dropout(0.3), nn.LayerNorm(16), nn.Linear(16, 2)
            )
        return Model(module, tiny_info)

    return make
