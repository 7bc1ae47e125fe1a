"""What timm refuses, in our words: values an architecture cannot take, weights not to be had.

timm checks no argument, and any class of error may follow. What it said stays the error's cause, shown by --verbose.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn

from toolkit.characters import listed
from toolkit.errors import RecipeError, WeightsError
from toolkit.models.arguments import builds, usually
from toolkit.models.patches import check_size, patch_size
from toolkit.models.weights import is_classifier
from toolkit.records import Setting

LOG = logging.getLogger(__name__)


def check_mlp(module: nn.Module, args: Mapping[str, Setting]) -> None:
    """RecipeError where MLPs would have no units; timm makes them as wide as the model then, unsaid."""
    ratio, channels = args.get("mlp_ratio"), module.get_parameter("patch_embed.proj.weight").shape[0]
    if isinstance(ratio, int | float) and int(channels * ratio) < 1:
        raise RecipeError(
            f"model.args.mlp_ratio = {ratio}: with it MLPs have no units, in a model of {channels} channels",
            "it is their width as a multiple of embed_dim; 4 is usual",
        )


def of_arguments(name: str, args: Mapping[str, Setting], error: Exception) -> RecipeError:
    """The error for values that timm cannot build `name` with: those without which it can, else those it speaks of."""
    guilty = [argument for argument in args if builds(name, {key: args[key] for key in args if key != argument})]
    if "img_size" in guilty and isinstance(size := args["img_size"], int) and size > 0:
        _check_size(name, args, size)
    blamed = guilty or [argument for argument in args if argument in str(error)] or list(args)
    if not blamed:
        return RecipeError(f"timm cannot build {name} here", "choose another --model")
    if builds(name, args):
        return RecipeError(f"{name} with {_listed(args, list(args))} is too large for this machine", "see model.args")
    own = usually(name, blamed)
    return RecipeError(
        f"timm refuses to build {name} with {_listed(args, blamed)}",
        f"see model.args; {name} itself has {own}" if own else "see model.args",
    )


def _check_size(name: str, args: Mapping[str, Setting], size: int) -> None:
    """RecipeError for an image size that is no size, or too large for patches of these."""
    others: dict[str, Any] = {key: value for key, value in args.items() if key != "img_size"}
    with torch.device("meta"):
        check_size(size, patch_size(timm.create_model(name, pretrained=False, **others)))


def of_hub_weights(name: str, args: Mapping[str, Setting], error: Exception) -> WeightsError:
    """The error for weights that timm could not fetch, has not, or could not put into a model of these arguments."""
    start = "give a file (--weights FILE), or start from random weights (--weights none)"
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        tags = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        return WeightsError(
            f"timm has no weights for {name}", f"timm has them for {', '.join(tags)}; or {start}" if tags else start
        )
    where = f"huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url or "their server"
    if isinstance(error, RuntimeError) and "state_dict" in str(error):
        return WeightsError(
            f"timm's weights for {name} do not fit a model with {_listed(args, list(args))}",
            f"leave out the arguments that change its shape, or {start}",
        )
    return WeightsError(
        f"timm's weights for {name} could not be fetched from {where}",
        f"check the network and try again (--verbose says more); or {start}",
    )


def check_hub_weights(module: nn.Module, name: str, args: Mapping[str, Setting]) -> None:
    """WeightsError where `args` make a model that timm's weights cannot fill; timm leaves the rest random, unsaid."""
    if not args.keys() - {"img_size"}:
        return
    with torch.device("meta"):
        usual = timm.create_model(name, pretrained=False)
    own, theirs = ([key for key in held.state_dict() if not is_classifier(key)] for held in (module, usual))
    blamed = _listed(args, list(args))
    if random := [key for key in own if key not in theirs]:
        raise WeightsError(
            f"timm's weights for {name} do not fill a model with {blamed}: {listed(random)} would be random",
            "leave out the arguments that add to it, or start from random weights (--weights none)",
        )
    if _heads(module) != _heads(usual):
        raise WeightsError(f"timm's weights for {name} are for another number of heads than {blamed}", "see model.args")
    if dropped := [key for key in theirs if key not in own]:
        LOG.warning("timm's weights for %s: %s have no place in a model with %s", name, listed(dropped), blamed)


def _heads(module: nn.Module) -> set[object]:
    return {part.num_heads for part in module.modules() if hasattr(part, "num_heads")}


def _listed(args: Mapping[str, Setting], names: list[str]) -> str:
    return ", ".join(f"{name}={args[name]!r}" for name in names) or "its usual arguments"
