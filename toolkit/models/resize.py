"""The same model for images of another size: positions are resampled, everything else stays."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection
from dataclasses import replace

import timm
from timm.layers.format import Format
from timm.models.beit import Beit
from torch import nn

from toolkit.errors import MissingDependency, UnsupportedModel
from toolkit.models.model import Model
from toolkit.models.patches import check_size, patch_size

ANY_SIZE_SINCE = (1, 0, 31)
"""timm that does not take the size of the traced example for the only one."""


def resized(model: Model, image_size: int) -> Model:
    """A copy for images of `image_size` x `image_size` pixels; the model itself where that is its size.

    Position embeddings are resampled (bicubic) and tables of relative positions interpolated, by timm. Accuracy away
    from the size of training has to be measured. Raises RecipeError for a size that patches do not fill.
    """
    check_sizes(model.module, (image_size,), any_between=False)
    if image_size == model.info.image_size == _built_for(model.module):
        return model
    module = copy.deepcopy(model.module)
    module.set_input_size(img_size=(image_size, image_size))  # type: ignore[operator]
    args = {**model.info.args, "img_size": image_size}
    return Model(module, replace(model.info, args=args, image_size=image_size), model.fresh).described()


def take_any_size(module: nn.Module) -> None:
    """Let `module` take images of any height and width that patches fill, in place; see `check_sizes`."""
    module.dynamic_img_size = True  # type: ignore[assignment]
    patches = module.get_submodule("patch_embed")
    patches.strict_img_size, patches.flatten, patches.output_fmt = False, False, Format.NHWC  # type: ignore[assignment]


def check_sizes(module: nn.Module, sizes: Collection[int], *, any_between: bool) -> None:
    """Raise RecipeError for images that patches do not fill, or that are too large; for any size between these
    UnsupportedModel for BEiT, and MissingDependency for an old timm."""
    for size in sizes:
        check_size(size, patch_size(module))
    if any_between and tuple(map(int, re.findall(r"\d+", timm.__version__)[:3])) < ANY_SIZE_SINCE:
        raise MissingDependency(
            f"files for images of any size need timm 1.0.31 or newer, and {timm.__version__} is installed",
            "pip install 'timm>=1.0.31', or --image-size with one number",
        )
    if any_between and isinstance(module, Beit):
        raise UnsupportedModel(
            "BEiT's relative positions are made for images of one size", "--image-size with one number"
        )


def _built_for(module: nn.Module) -> int:
    """Side of the images that the positions are for."""
    side: int = module.get_submodule("patch_embed").img_size[0]  # type: ignore[index, assignment]
    return side
