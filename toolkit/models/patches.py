"""Square images cut into square patches that fill them: the one kind of input there is."""

from __future__ import annotations

from timm.layers.patch_embed import PatchEmbed
from torch import nn

from toolkit.errors import RecipeError


def patch_size(module: nn.Module) -> int:
    """Height and width of a patch in pixels; RecipeError if they differ."""
    return _side(_embedding(module).patch_size, "patches")


def image_size(module: nn.Module) -> int:
    """Height and width of the images that `module` is for, in pixels.

    Raises RecipeError where they differ, and for a size that patches do not fill.
    """
    size = _embedding(module).img_size
    if size is None:
        raise RecipeError("the model is for images of no size", "give one (--image-size)")
    side = _side(size, "images")
    check_filled(side, patch_size(module))
    return side


def check_filled(image: int, patch: int) -> None:
    """Raise RecipeError with the nearest sizes where patches of `patch` pixels do not fill an image of `image`."""
    if image % patch:
        near = [str(size) for size in (image // patch * patch, (image // patch + 1) * patch) if size]
        raise RecipeError(
            f"an image of {image} pixels is not filled by patches of {patch}: {' or '.join(near)}",
            f"--image-size {near[0]}, or another patch_size (model.args)",
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
