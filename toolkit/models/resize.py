"""Resize a model to another image size: position embeddings are resampled, other weights are unchanged."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from toolkit.errors import UnsupportedModel
from toolkit.models.block import token_merges
from toolkit.models.model import Model
from toolkit.models.patches import check_size
from toolkit.records import Merge


def resized(model: Model, image_size: int) -> Model:
    """A copy for images of `image_size` x `image_size` pixels, or the model itself if that is its size.

    Position embeddings are resampled (bicubic), relative position tables interpolated; merges leave the same fraction
    of the patches. Measure the accuracy at sizes
    other than the training size. Raises RecipeError for sizes that are not divisible by the patch size.
    """
    check_sizes(model, (image_size,), dynamic=False)
    if image_size == model.info.image_size == model.parts.image_size:
        return model
    other = model.copied()
    args = {**model.info.args, **model.architecture.resize(other.module, image_size)}
    merges = tuple(_rescaled(merge, model, image_size) for merge in model.info.merges)
    for merge, layer in zip(merges, token_merges(other.module), strict=True):
        layer.tokens = merge.tokens
    return other.with_info(replace(model.info, args=args, image_size=image_size, merges=merges)).with_current_info()


def _rescaled(merge: Merge, model: Model, image_size: int) -> Merge:
    """The merge with the same fraction of the patches left."""
    prefix = model.parts.prefix_tokens
    return replace(merge, tokens=prefix + round((merge.tokens - prefix) * (image_size / model.info.image_size) ** 2))


def check_sizes(model: Model, sizes: Collection[int], *, dynamic: bool) -> None:
    """Raise RecipeError for sizes that are too large or not divisible by the patch size. With `dynamic`, for any size
    between these, also UnsupportedModel or MissingDependency if the architecture does not support it."""
    for size in sizes:
        check_size(size, model.parts.patch_size)
    if dynamic and model.info.merges:
        raise UnsupportedModel(
            f"{model.info.name} merges tokens, whose number is fixed for one image size",
            "use --image-size with one number",
        )
    if dynamic:
        model.architecture.check_dynamic_size(model.module)
