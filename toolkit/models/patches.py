"""Check that patches divide images, and that attention over them fits into memory."""

from __future__ import annotations

import math

from toolkit import limits
from toolkit.errors import RecipeError

BYTES_PER_PATCH_PAIR = 8
"""Memory per head and pair of patches in float32: the logit and the attention weight."""


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
