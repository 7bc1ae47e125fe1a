"""Image sizes that are not divisible by the patch size are refused with the nearest valid sizes."""

from __future__ import annotations

import pytest
import timm
import torch

from toolkit.errors import RecipeError
from toolkit.models.architectures.timm_vit.patch_embedding import image_size, patch_size
from toolkit.models.patches import check_size


@pytest.mark.parametrize(
    ("image", "patch", "nearest"),
    [(36, 8, "32 or 40"), (33, 8, "32 or 40"), (39, 8, "32 or 40"), (384, 14, "378 or 392"), (9, 16, "16")],
)
def test_the_nearest_sizes_are_suggested(image: int, patch: int, nearest: str) -> None:
    with pytest.raises(
        RecipeError, match=f"an image size of {image} is not divisible by the patch size {patch}: use {nearest}\n"
    ):
        check_size(image, patch)
    for size in map(int, nearest.split(" or ")):
        check_size(size, patch)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"img_size": (32, 64)}, "images of 32 x 64 pixels are not square"),
        ({"patch_size": (8, 16)}, "patches of 8 x 16 pixels are not square"),
        ({"img_size": 36}, "an image size of 36 is not divisible"),
    ],
    ids=str,
)
def test_invalid_shapes_of_images_and_patches(args: dict[str, object], message: str) -> None:
    with torch.device("meta"):
        module = timm.create_model("vit_tiny_patch16_224", **{"img_size": 32, "patch_size": 8, "depth": 1, **args})
    with pytest.raises(RecipeError, match=message):
        image_size(module)


def test_sizes_of_a_model() -> None:
    with torch.device("meta"):
        module = timm.create_model("vit_tiny_patch16_224", img_size=48, depth=1)
    assert (image_size(module), patch_size(module)) == (48, 16)


def test_more_patches_than_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.limits.memory_bytes", lambda: 25_000_000_000)
    message = (
        r"images of 1,000,000 pixels are too large: with patches of 8 pixels, attention fits into the memory of this "
        r"machine \(25 GB\) up to 1,888 pixels\n--image-size 1888 at most"
    )
    with pytest.raises(RecipeError, match=message):
        check_size(1_000_000, 8)
    with pytest.raises(RecipeError, match="--image-size 1888 at most"):
        check_size(1896, 8)
    check_size(1888, 8)


def test_unknown_memory_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.limits.memory_bytes", lambda: 0)
    check_size(1_000_000, 8)
