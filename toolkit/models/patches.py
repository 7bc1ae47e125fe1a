"""Checks that square patches divide square images, and that attention over them fits into memory."""

from __future__ import annotations

import math

from timm.layers.patch_embed import PatchEmbed
from torch import nn

from toolkit import limits
from toolkit.errors import RecipeError

BYTES_PER_PATCH_PAIR = 8
"""Memory per head and pair of patches in float32: the logit and the attention weight."""


def patch_size(module: nn.Module) -> int:
    """Side of a patch in pixels; RecipeError if patches are not square."""
    return _side(_embedding(module).patch_size, "patches")


def image_size(module: nn.Module) -> int:
    """Side of the images that `module` takes, in pixels.

    Raises RecipeError for images that are not square, not divisible into patches, or too large.
    """
    size = _embedding(module).img_size
    if size is None:
        raise RecipeError("the model has no image size", "set one with --image-size")
    side = _side(size, "images")
    check_size(side, patch_size(module))
    return side


def check_size(image: int, patch: int) -> None:
    """Raise RecipeError if `patch` does not divide `image` (both in pixels), with the nearest valid sizes, or if
    attention over the patches does not fit into memory, with the largest size that does."""
    memory = limits.memory_bytes()
    largest = math.isqrt(math.isqrt(memory // BYTES_PER_PATCH_PAIR)) * patch
    if memory and image > largest:
        raise RecipeError(
            f"images of {image:,} pixels are too large: with patches of {patch} pixels, attention fits into the memory "
            f"of this machine ({memory / 1e9:,.0f} GB) up to {largest:,} pixels",
            f"--image-size {largest} at most",
        )
    if image % patch:
        nearest = [str(size) for size in (image // patch * patch, (image // patch + 1) * patch) if size]
        raise RecipeError(
            f"an image size of {image} is not divisible by the patch size {patch}: use {' or '.join(nearest)}",
            f"--image-size takes multiples of {patch}",
        )


def _embedding(module: nn.Module) -> PatchEmbed:
    embedding = module.get_submodule("patch_embed")
    assert isinstance(embedding, PatchEmbed)
    return embedding


def _side(size: tuple[int, int], subject: str) -> int:
    height, width = size
    if height != width:
        raise RecipeError(f"{subject} of {height} x {width} pixels are not square", "use one number for both sides")
    return int(height)
