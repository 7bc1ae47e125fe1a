"""Sizes of timm's patch embedding."""

from __future__ import annotations

from timm.layers.patch_embed import PatchEmbed
from torch import nn

from toolkit.errors import RecipeError
from toolkit.models.patches import check_size

NAME = "patch_embed"
"""Name of the patch embedding in timm's models."""


def embedding(module: nn.Module) -> PatchEmbed:
    """The patch embedding of a timm model."""
    layer = module.get_submodule(NAME)
    assert isinstance(layer, PatchEmbed)
    return layer


def patch_size(module: nn.Module) -> int:
    """Side of a patch in pixels; RecipeError if patches are not square."""
    return _side(embedding(module).patch_size, "patches")


def image_size(module: nn.Module) -> int:
    """Side of the images that `module` takes, in pixels.

    Raises RecipeError for images that are not square, not divisible into patches, or too large.
    """
    size = embedding(module).img_size
    if size is None:
        raise RecipeError("the model has no image size", "set one with --image-size")
    side = _side(size, "images")
    check_size(side, patch_size(module))
    return side


def _side(size: tuple[int, int], subject: str) -> int:
    height, width = size
    if height != width:
        raise RecipeError(f"{subject} of {height} x {width} pixels are not square", "use one number for both sides")
    return int(height)
