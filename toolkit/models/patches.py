"""Square images cut into square patches that fill them: the one kind of input there is."""

from __future__ import annotations

import math

from timm.layers.patch_embed import PatchEmbed
from torch import nn

from toolkit import limits
from toolkit.errors import RecipeError

PAIR_BYTES = 8
"""What one head of attention holds for two patches, in float32: their product, and their share after the softmax."""


def patch_size(module: nn.Module) -> int:
    """Height and width of a patch in pixels; RecipeError if they differ."""
    return _side(_embedding(module).patch_size, "patches")


def image_size(module: nn.Module) -> int:
    """Height and width of the images that `module` is for, in pixels.

    Raises RecipeError where they differ, and for a size that patches do not fill or that is too large.
    """
    size = _embedding(module).img_size
    if size is None:
        raise RecipeError("the model is for images of no size", "give one (--image-size)")
    side = _side(size, "images")
    check_size(side, patch_size(module))
    return side


def check_size(image: int, patch: int) -> None:
    """Raise RecipeError where patches of `patch` pixels do not fill an image of `image`, with the nearest sizes that
    they fill, and where they are more than attention on this machine can compare, with the largest size."""
    memory = limits.memory_bytes()
    largest = math.isqrt(math.isqrt(memory // PAIR_BYTES)) * patch
    if memory and image > largest:
        raise RecipeError(
            f"images of {image:,} pixels are too large: attention compares every patch of {patch} pixels with every "
            f"other, for which the memory of this machine ({memory / 1e9:,.0f} GB) is enough up to {largest:,}",
            f"--image-size {largest} at most",
        )
    if image % patch:
        near = [str(size) for size in (image // patch * patch, (image // patch + 1) * patch) if size]
        raise RecipeError(
            f"an image of {image} pixels is not filled by patches of {patch}: {' or '.join(near)}",
            f"--image-size takes multiples of {patch}",
        )


def _embedding(module: nn.Module) -> PatchEmbed:
    embedding = module.get_submodule("patch_embed")
    assert isinstance(embedding, PatchEmbed)
    return embedding


def _side(size: tuple[int, int], what: str) -> int:
    height, width = size
    if height != width:
        raise RecipeError(f"{what} of {height} x {width} pixels are not square", "one number for both sides")
    return int(height)
