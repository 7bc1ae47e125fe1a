"""Build a dense model from a source model and weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from toolkit import recipe
from toolkit.models.acceptance import check_finite_logits, check_supported
from toolkit.models.architectures import architecture_of
from toolkit.models.model import Model
from toolkit.models.preprocessing import preprocessing_of
from toolkit.records import ModelInfo


def build(settings: recipe.Model, classes: Sequence[str], seed: int) -> Model:
    """A dense canonical model with a classifier for `classes`.

    Raises UnknownName, UnsupportedModel, RecipeError for invalid arguments, and WeightsError for weights that are
    unavailable or do not match, or for a damaged preprocessing config next to them. `info.weights_sha256` is empty
    until the model is saved.
    """
    architecture = architecture_of(settings.name)
    built = architecture.build(settings, classes, seed)
    module, args, image_size = architecture.canonicalise(built.module), built.args, built.image_size
    if settings.image_size is not None and settings.image_size != image_size:
        image_size = settings.image_size
        args = {**args, **architecture.resize(module, image_size)}
    info = ModelInfo(
        name=built.name or settings.name,
        args=args,
        classes=tuple(classes),
        image_size=image_size,
        preprocessing=preprocessing_of(settings),
        removed_blocks=(),
        layouts=(),
        parameters=0,
        macs=0,
        weights_sha256="",
    )
    model = Model(module.eval(), info, built.fresh)
    check_supported(model)
    if settings.weights != "none":
        check_finite_logits(model)
    return model.with_current_info()


def outline(settings: recipe.Model, classes: Sequence[str]) -> Model:
    """`build` on the meta device, without weight values: quick for any size, with the same errors."""
    with torch.device("meta"):
        return build(settings.model_copy(update={"weights": "none"}), classes, seed=0)
