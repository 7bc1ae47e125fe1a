"""An image that patches do not fill is refused with the nearest sizes that they fill."""

from __future__ import annotations

import pytest
import timm
import torch

from toolkit.errors import RecipeError
from toolkit.models.patches import check_size, image_size, patch_size


@pytest.mark.parametrize(
    ("image", "patch", "near"),
    [(36, 8, "32 or 40"), (33, 8, "32 or 40"), (39, 8, "32 or 40"), (384, 14, "378 or 392"), (9, 16, "16")],
)
def test_the_nearest_sizes_are_named(image: int, patch: int, near: str) -> None:
    with pytest.raises(RecipeError, match=f"an image of {image} pixels is not filled by patches of {patch}: {near}\n"):
        check_size(image, patch)
    for size in map(int, near.split(" or ")):
        check_size(size, patch)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"img_size": (32, 64)}, "images of 32 x 64 pixels are not square"),
        ({"patch_size": (8, 16)}, "patches of 8 x 16 pixels are not square"),
        ({"img_size": 36}, "an image of 36 pixels is not filled"),
    ],
    ids=str,
)
def test_images_and_patches_are_square(more: dict[str, object], said: str) -> None:
    with torch.device("meta"):
        module = timm.create_model("vit_tiny_patch16_224", **{"img_size": 32, "patch_size": 8, "depth": 1, **more})
    with pytest.raises(RecipeError, match=said):
        image_size(module)


def test_sizes_are_read_off_the_model() -> None:
    with torch.device("meta"):
        module = timm.create_model("vit_tiny_patch16_224", img_size=48, depth=1)
    assert (image_size(module), patch_size(module)) == (48, 16)


def test_more_patches_than_attention_can_compare(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.limits.memory_bytes", lambda: 25_000_000_000)
    said = (
        r"images of 1,000,000 pixels are too large: attention compares every patch of 8 pixels with every other, for "
        r"which the memory of this machine \(25 GB\) is enough up to 1,888\n--image-size 1888 at most"
    )
    with pytest.raises(RecipeError, match=said):
        check_size(1_000_000, 8)
    with pytest.raises(RecipeError, match="--image-size 1888 at most"):
        check_size(1896, 8)
    check_size(1888, 8)


def test_memory_that_is_not_known_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit.limits.memory_bytes", lambda: 0)
    check_size(1_000_000, 8)
