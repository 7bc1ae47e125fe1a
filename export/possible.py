"""Whether a model can be written for a target at all: found out on an excerpt of it, before it is trained."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from toolkit import recipe
from toolkit.errors import CheckFailed, UnsupportedModel
from toolkit.export import check, target
from toolkit.export.choices import Choices, choices
from toolkit.export.prepare import prepare
from toolkit.export.reference import answers
from toolkit.models.acceptance import excerpt
from toolkit.models.model import Model
from toolkit.models.patches import patch_size
from toolkit.models.resize import check_sizes
from toolkit.progress import silent


def check_possible(name: str, model: Model, options: recipe.Export) -> None:
    """Raise for the target of this name what `export` would raise, as far as it is known without trained weights.

    `model` may be without numbers, as `build.outline` gives it. Its excerpt, rewritten and flat, must compute what it
    computed before. RecipeError for what the target cannot hold, UnsupportedModel for what cannot be rewritten.
    """
    made = choices(name, target(name).abilities(), options)
    check_sizes(model.module, options.image_size or (model.info.image_size,), dynamic=options.any_image_size)
    sample = _excerpt(model)
    patch, side = patch_size(sample.module), sample.info.image_size
    sizes = (side, side + patch, side + 2 * patch) if options.any_image_size else ()
    options = options.model_copy(update={"image_size": sizes, "precision": "fp32"})
    prepared = prepare(sample, options, _computed(made), None, silent)

    try:
        check.difference(prepared, options, partial(answers, prepared.module))
    except CheckFailed as error:
        raise UnsupportedModel(f"{name} cannot hold this model: {error.message}", "other --rewrites") from error


def _excerpt(model: Model) -> Model:
    sample = excerpt(model)
    return sample.with_info(replace(sample.info, weights_sha256="excerpt"))


def _computed(made: Choices) -> Choices:
    """The form of attention whose operators PyTorch itself can run."""
    return replace(made, attention="decomposed", precision="fp32")
