"""Build a dense model from a timm name and weights."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import timm
import torch

from toolkit import recipe
from toolkit.errors import RecipeError
from toolkit.models.acceptance import check_finite_logits, check_supported
from toolkit.models.adapt import canonicalise
from toolkit.models.model import Model
from toolkit.models.patches import image_size
from toolkit.models.preprocessing import preprocessing_of
from toolkit.models.timm_model import check_name, create
from toolkit.models.weight_file import weights_path
from toolkit.models.weights import fill, is_classifier
from toolkit.records import ModelInfo, Setting

LOG = logging.getLogger(__name__)


def build(settings: recipe.Model, classes: Sequence[str], seed: int) -> Model:
    """A dense model with canonical attention and a classifier for `classes`.

    Raises UnknownName, UnsupportedModel, RecipeError for invalid arguments, and WeightsError for weights that are
    unavailable or do not match, or for a damaged preprocessing config next to them. `info.weights_sha256` is empty
    until the model is saved.
    """
    check_name(settings.name)
    args: dict[str, Setting] = dict(settings.args)
    if settings.image_size is not None and args.setdefault("img_size", settings.image_size) != settings.image_size:
        raise RecipeError(f"model.image_size is {settings.image_size}, model.args.img_size is {args['img_size']}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = create(settings.name, args, len(classes), from_hub=settings.weights == "hub")
    size = image_size(module)
    fresh: tuple[str, ...] = ()
    if settings.weights == "hub" and timm.models.get_pretrained_cfg_value(settings.name, "num_classes") != len(classes):
        fresh = tuple(name for name, _ in module.named_parameters() if is_classifier(name))
    elif (file := weights_path(settings)) is not None:
        fresh = fill(module, file, settings.weights_key)
    canonicalise(module)
    module.eval()
    info = ModelInfo(
        name=settings.name,
        args=args,
        classes=tuple(classes),
        image_size=size,
        preprocessing=preprocessing_of(settings),
        removed_blocks=(),
        layouts=(),
        parameters=0,
        macs=0,
        weights_sha256="",
    )
    model = Model(module, info, fresh)
    check_supported(model)
    if settings.weights != "none":
        check_finite_logits(model)
    return model.with_current_info()


def outline(settings: recipe.Model, classes: Sequence[str]) -> Model:
    """`build` on the meta device, without weight values: quick for any size, with the same errors."""
    with torch.device("meta"):
        return build(settings.model_copy(update={"weights": "none"}), classes, seed=0)
