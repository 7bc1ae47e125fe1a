"""Build a dense model from a source model and weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from toolkit import recipe
from toolkit.characters import listed
from toolkit.errors import UnsupportedModel
from toolkit.models.acceptance import check_finite_logits, check_once
from toolkit.models.architectures import Built, owner_of, source_of
from toolkit.models.model import Model
from toolkit.models.patches import check_size
from toolkit.models.preprocessing import preprocessing_of
from toolkit.records import ModelInfo


def build(settings: recipe.Model, classes: Sequence[str], seed: int) -> Model:
    """A dense canonical model with a classifier for `classes`.

    Raises UnknownName, UnsupportedModel, RecipeError for invalid arguments, and WeightsError for weights that are
    unavailable or do not match, or for a damaged preprocessing config next to them. `info.weights_sha256` is empty
    until the model is saved.
    """
    built = source_of(settings.name).build(settings, classes, seed)
    return from_source(built, settings, classes)


def from_source(built: Built, settings: recipe.Model, classes: Sequence[str]) -> Model:
    """The canonical model of a source module, which it takes over, with settings of images and the names of classes.

    Raises UnsupportedModel for a module that cannot be pruned or has another number of outputs, and WeightsError.
    """
    name, args, image_size = built.name or settings.name, built.args, built.image_size
    architecture = owner_of(built.module, name)
    module = architecture.canonicalise(built.module)
    if settings.image_size is not None and settings.image_size != image_size:
        image_size = settings.image_size
        check_size(image_size, architecture.parts(module).patch_size)
        args = {**args, **architecture.resize(module, image_size)}
    info = ModelInfo(
        name=name,
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
    _check_outputs(model)
    check_once(model)
    if settings.weights != "none":
        check_finite_logits(model)
    return model.with_current_info()


def _check_outputs(model: Model) -> None:
    outputs = {model.module.get_submodule(name).get_parameter("weight").shape[0] for name in model.parts.classifiers}
    if outputs != {len(model.info.classes)}:
        raise UnsupportedModel(
            f"{model.info.name} has a classifier for {listed(sorted(map(str, outputs)))} classes, "
            f"not for {len(model.info.classes)}",
            "its classifier must be one linear layer with an output per class",
        )


def outline(settings: recipe.Model, classes: Sequence[str]) -> Model:
    """`build` on the meta device, without weight values: quick for any size, with the same errors."""
    with torch.device("meta"):
        return build(settings.model_copy(update={"weights": "none"}), classes, seed=0)
