"""Errors for arguments that timm cannot build, and for pretrained weights that are unavailable or do not match.

timm does not validate arguments, so any class of error may follow. timm's own message stays the error's cause, which
--verbose shows.
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
from toolkit.models.architectures.timm_vit.arguments import can_build, defaults_text
from toolkit.models.architectures.timm_vit.patch_embedding import patch_size
from toolkit.models.architectures.timm_vit.weights import is_classifier
from toolkit.models.patches import check_size
from toolkit.records import Setting

LOG = logging.getLogger(__name__)


def check_mlp(module: nn.Module, args: Mapping[str, Setting]) -> None:
    """Raise RecipeError if MLPs would have no units, where timm silently makes them as wide as the model."""
    ratio, channels = args.get("mlp_ratio"), module.get_parameter("patch_embed.proj.weight").shape[0]
    if isinstance(ratio, int | float) and int(channels * ratio) < 1:
        raise RecipeError(
            f"model.args.mlp_ratio = {ratio}: MLPs would have no units, as embed_dim is {channels}",
            "it is the MLP width as a multiple of embed_dim, usually 4",
        )


def arguments_error(name: str, args: Mapping[str, Setting], error: Exception) -> RecipeError:
    """The error for arguments that timm cannot build `name` with: it names those whose removal helps, else those that
    timm's message names."""
    causes = [argument for argument in args if can_build(name, {key: args[key] for key in args if key != argument})]
    if "img_size" in causes and isinstance(size := args["img_size"], int) and size > 0:
        _check_size(name, args, size)
    suspects = causes or [argument for argument in args if argument in str(error)] or list(args)
    if not suspects:
        return RecipeError(f"timm cannot build {name} here", "choose another --model")
    if can_build(name, args):
        return RecipeError(f"{name} with {_as_text(args, list(args))} is too large for this machine", "see model.args")
    defaults = defaults_text(name, suspects)
    return RecipeError(
        f"timm cannot build {name} with {_as_text(args, suspects)}",
        f"see model.args; the default of {name} is {defaults}" if defaults else "see model.args",
    )


def _check_size(name: str, args: Mapping[str, Setting], size: int) -> None:
    """Raise RecipeError for an image size that the patch size does not divide, or that is too large."""
    others: dict[str, Any] = {key: value for key, value in args.items() if key != "img_size"}
    with torch.device("meta"):
        check_size(size, patch_size(timm.create_model(name, pretrained=False, **others)))


def hub_weights_error(name: str, args: Mapping[str, Setting], error: Exception) -> WeightsError:
    """The error for weights that timm lacks, could not download, or could not load into a model of these arguments."""
    alternatives = "use a file (--weights FILE) or random weights (--weights none)"
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        tags = timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)
        return WeightsError(
            f"timm has no weights for {name}",
            f"it has weights for {', '.join(tags)}; or {alternatives}" if tags else alternatives,
        )
    server = f"huggingface.co/{config.hf_hub_id}" if config.hf_hub_id else config.url or "their server"
    if isinstance(error, RuntimeError) and "state_dict" in str(error):
        return WeightsError(
            f"timm's weights for {name} do not match a model with {_as_text(args, list(args))}",
            f"drop the arguments that change its shape, or {alternatives}",
        )
    return WeightsError(
        f"timm's weights for {name} could not be downloaded from {server}",
        f"check the network and try again (--verbose shows details); or {alternatives}",
    )


def check_hub_weights(module: nn.Module, name: str, args: Mapping[str, Setting]) -> None:
    """Raise WeightsError if `args` add parameters that timm's weights lack and timm silently leaves random."""
    if not args.keys() - {"img_size"}:
        return
    with torch.device("meta"):
        default = timm.create_model(name, pretrained=False)
    own, theirs = ([key for key in model.state_dict() if not is_classifier(key)] for model in (module, default))
    arguments = _as_text(args, list(args))
    if random := [key for key in own if key not in theirs]:
        raise WeightsError(
            f"timm's weights for {name} do not cover a model with {arguments}: {listed(random)} would be random",
            "drop the arguments that add parameters, or use random weights (--weights none)",
        )
    if _heads(module) != _heads(default):
        raise WeightsError(f"timm's weights for {name} have another number of heads than {arguments}", "see model.args")
    if dropped := [key for key in theirs if key not in own]:
        LOG.warning("timm's weights for %s: %s are unused in a model with %s", name, listed(dropped), arguments)


def _heads(module: nn.Module) -> set[object]:
    return {part.num_heads for part in module.modules() if hasattr(part, "num_heads")}


def _as_text(args: Mapping[str, Setting], names: list[str]) -> str:
    return ", ".join(f"{name}={args[name]!r}" for name in names) or "its default arguments"
