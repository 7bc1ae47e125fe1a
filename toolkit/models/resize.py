"""The same model for images of another size: positions are resampled, everything else stays."""

from __future__ import annotations

import copy
from dataclasses import replace

from timm.layers.format import Format
from timm.models.beit import Beit
from torch import nn

from toolkit.errors import RecipeError, UnsupportedModel
from toolkit.models.count import count
from toolkit.models.source import LoadedModel


def resized(model: LoadedModel, image_size: int) -> LoadedModel:
    """A copy for images of `image_size` x `image_size` pixels; the model itself where that is its size.

    Position embeddings are resampled (bicubic) and tables of relative positions interpolated, by timm. Accuracy away
    from the size of training has to be measured. Raises RecipeError for a size that patches do not fill.
    """
    if image_size == model.info.image_size:
        return model
    check_size(model.module, image_size)
    module = copy.deepcopy(model.module)
    module.set_input_size(img_size=(image_size, image_size))  # type: ignore[operator]
    total = count(module, image_size)
    info = replace(
        model.info,
        args={**model.info.args, "img_size": image_size},
        image_size=image_size,
        parameters=total.parameters,
        macs=total.macs,
    )
    return replace(model, module=module, info=info)


def take_any_size(module: nn.Module) -> None:
    """Let `module` take images of any height and width that patches fill, in place.

    Raises UnsupportedModel for BEiT, whose relative positions are made for one size.
    """
    if isinstance(module, Beit):
        raise UnsupportedModel(
            "BEiT's relative positions are made for images of one size", "--image-size with one number"
        )
    module.dynamic_img_size = True  # type: ignore[assignment]
    patches = module.get_submodule("patch_embed")
    patches.strict_img_size, patches.flatten, patches.output_fmt = False, False, Format.NHWC  # type: ignore[assignment]


def patch_size(module: nn.Module) -> int:
    """Side of a patch in pixels."""
    side: int = module.get_submodule("patch_embed").patch_size[0]  # type: ignore[index, assignment]
    return side


def check_size(module: nn.Module, image_size: int) -> None:
    """RecipeError for images that patches do not fill."""
    patch = patch_size(module)
    if image_size % patch:
        near = max(patch, round(image_size / patch) * patch)
        raise RecipeError(f"{image_size} pixels are no multiple of the patches' {patch}", f"try {near}")
