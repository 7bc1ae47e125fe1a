"""Resize a model to another image size: position embeddings are resampled, other weights are unchanged."""

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

DYNAMIC_SIZE_SINCE = (1, 0, 31)
"""First timm version that traces with dynamic image size."""


def resized(model: Model, image_size: int) -> Model:
    """A copy for images of `image_size` x `image_size` pixels, or the model itself if that is its size.

    timm resamples position embeddings (bicubic) and interpolates relative position tables. Measure the accuracy at
    sizes other than the training size. Raises RecipeError for sizes that are not divisible by the patch size.
    """
    check_sizes(model.module, (image_size,), dynamic=False)
    if image_size == model.info.image_size == _position_size(model.module):
        return model
    module = copy.deepcopy(model.module)
    module.set_input_size(img_size=(image_size, image_size))  # type: ignore[operator]
    args = {**model.info.args, "img_size": image_size}
    return Model(module, replace(model.info, args=args, image_size=image_size), model.fresh).with_current_info()


def allow_dynamic_size(module: nn.Module) -> None:
    """Make `module` accept any image height and width divisible by the patch size, in place; see `check_sizes`."""
    module.dynamic_img_size = True  # type: ignore[assignment]
    patches = module.get_submodule("patch_embed")
    patches.strict_img_size, patches.flatten, patches.output_fmt = False, False, Format.NHWC  # type: ignore[assignment]


def check_sizes(module: nn.Module, sizes: Collection[int], *, dynamic: bool) -> None:
    """Raise RecipeError for sizes that are too large or not divisible by the patch size. With `dynamic`, for any size
    between these, also UnsupportedModel for BEiT and MissingDependency for an old timm."""
    for size in sizes:
        check_size(size, patch_size(module))
    if dynamic and tuple(map(int, re.findall(r"\d+", timm.__version__)[:3])) < DYNAMIC_SIZE_SINCE:
        raise MissingDependency(
            f"exports with dynamic image size need timm 1.0.31 or newer; {timm.__version__} is installed",
            "pip install 'timm>=1.0.31', or use --image-size with one number",
        )
    if dynamic and isinstance(module, Beit):
        raise UnsupportedModel(
            "BEiT's relative positions support only one image size", "use --image-size with one number"
        )


def _position_size(module: nn.Module) -> int:
    """Image size in pixels of the position embeddings."""
    side: int = module.get_submodule("patch_embed").img_size[0]  # type: ignore[index, assignment]
    return side
