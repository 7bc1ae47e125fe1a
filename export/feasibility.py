"""Check before training whether a model can be exported to a target, on an excerpt of the model."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from toolkit import recipe
from toolkit.errors import CheckFailed, UnsupportedModel
from toolkit.export import check, target
from toolkit.export.prepare import prepare
from toolkit.export.reference import predict
from toolkit.export.settings import ResolvedSettings, resolve_settings
from toolkit.models.acceptance import excerpt
from toolkit.models.model import Model
from toolkit.models.resize import check_sizes
from toolkit.progress import silent


def check_feasible(name: str, model: Model, options: recipe.Export) -> None:
    """Raise what `export` would raise for the target of this name, as far as is known without trained weights.

    `model` may be on the meta device (`build.outline`). Its excerpt, rewritten and flattened, must give the same logits
    as before. Raises RecipeError for settings that the target does not support, UnsupportedModel for a model that
    cannot be rewritten.
    """
    settings = resolve_settings(name, target(name, options.own(name)).capabilities(), options)
    check_sizes(model, options.image_size or (model.info.image_size,), dynamic=options.any_image_size)
    small = _excerpt(model)
    patch, side = small.parts.patch_size, small.info.image_size
    sizes = (side, side + patch, side + 2 * patch) if options.any_image_size else ()
    options = options.model_copy(update={"image_size": sizes, "precision": "fp32"})
    prepared = prepare(small, options, _runnable_in_torch(settings), None, silent)

    try:
        check.difference(prepared, options, partial(predict, prepared.module))
    except CheckFailed as error:
        raise UnsupportedModel(
            f"this model cannot be exported to {name}: {error.message}", "choose other --rewrites"
        ) from error


def _excerpt(model: Model) -> Model:
    small = excerpt(model)
    return small.with_info(replace(small.info, weights_sha256="excerpt"))


def _runnable_in_torch(settings: ResolvedSettings) -> ResolvedSettings:
    """These settings with a form of attention whose operators PyTorch can run."""
    return replace(settings, attention="decomposed", precision="fp32")
