"""Validate the arguments of timm's architectures. timm itself checks none, and treats "no" as true."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cache
from types import NoneType
from typing import Any, Literal, Union, get_args, get_origin

import timm
import torch
from timm.models.beit import Beit
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from toolkit.errors import RecipeError, suggestion
from toolkit.records import Setting

FACTORY_ARGUMENTS = frozenset(
    (
        *("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable"),
        *("exportable", "no_jit", "features_only", "num_classes", "in_chans", "device", "dtype"),
    )
)
"""Arguments of timm's factories that are not part of the architecture: other settings or the data determine them."""
MINIMUM = {"img_size": 1, "patch_size": 1, "embed_dim": 1, "depth": 1, "num_heads": 1, "reg_tokens": 0}
"""Minimum values of integer arguments."""
TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def check_arguments(name: str, args: Mapping[str, Setting]) -> None:
    """Raise RecipeError for unknown arguments, with the closest known ones, and for values of a wrong type or out of
    range. None stands for the architecture's default."""
    if refused := sorted(FACTORY_ARGUMENTS & args.keys()):
        raise RecipeError(f"model.args cannot set {', '.join(refused)}", "see model.weights and model.image_size")
    known = signature(name)
    for argument, value in args.items():
        if argument not in known:
            raise RecipeError(f"model.args: {name} has no argument {argument!r}", suggestion(argument, sorted(known)))
        if value is not None and (expected := _expected(argument, known[argument].annotation, value)):
            raise RecipeError(
                f"model.args.{argument} = {value!r}: it should be {expected}", _defaults_hint(name, [argument])
            )
    if args.get("weight_init") == "skip":
        raise RecipeError("with weight_init='skip' the weights are uninitialised memory", "see model.weights")
    if args.get("embed_dim") is not None or args.get("num_heads") is not None:
        _check_heads(name, args)
    if args.get("class_token") is False:
        _check_pool(name, args)


def signature(name: str) -> Mapping[str, inspect.Parameter]:
    """Arguments of an architecture, by name."""
    model_class = Beit if name.partition(".")[0] in timm.list_models(module="beit") else VisionTransformer
    parameters = inspect.signature(model_class).parameters
    return {argument: parameters[argument] for argument in parameters if argument not in FACTORY_ARGUMENTS}


def can_build(name: str, args: Mapping[str, Setting]) -> bool:
    """Whether timm can build an architecture with these arguments."""
    try:
        _build_on_meta(name, args)
    except Exception:  # timm does not validate arguments: any class of error may follow
        return False
    return True


@cache
def default_arguments(name: str) -> Mapping[str, int | float | str]:
    """An architecture's default sizes and pooling; empty if it is not a plain ViT, DeiT or BEiT."""
    try:
        model: Any = _build_on_meta(name, {})
        return {
            "img_size": model.patch_embed.img_size[0],
            "patch_size": model.patch_embed.patch_size[0],
            "embed_dim": model.embed_dim,
            "depth": len(model.blocks),
            "num_heads": model.blocks[0].attn.num_heads,
            "mlp_ratio": _hidden_width(model.blocks[0]) / model.embed_dim,
            "global_pool": model.global_pool,
        }
    except Exception:  # an architecture without these attributes, or one that timm cannot build here
        return {}


def defaults_text(name: str, arguments: list[str]) -> str:
    """Defaults of these arguments, as "depth=12, num_heads=3"; empty if they are unknown."""
    defaults = default_arguments(name)
    return ", ".join(f"{argument}={defaults[argument]}" for argument in arguments if argument in defaults)


def _hidden_width(block: Any) -> int:
    return int(next(layer.out_features for layer in block.mlp.modules() if isinstance(layer, nn.Linear)))


def _build_on_meta(name: str, args: Mapping[str, Setting]) -> nn.Module:
    arguments: dict[str, Any] = dict(args)
    with torch.device("meta"):
        module: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return module


def _defaults_hint(name: str, arguments: list[str]) -> str:
    defaults = defaults_text(name, arguments)
    return f"the default of {name} is {defaults}" if defaults else "see model.args"


def _expected(argument: str, annotation: Any, value: Setting) -> str:
    """Description of valid values; empty if the value is valid, or the annotation is not a simple type."""
    is_union = get_origin(annotation) is Union
    parts = [part for part in get_args(annotation) if part is not NoneType] if is_union else [annotation]
    if get_origin(parts[0]) is Literal:
        known = get_args(parts[0])
        return "" if value in known else f"one of {', '.join(map(repr, known))}"
    simple = next((part for part in parts if part in TYPE_NAMES), None)
    if simple is None or (simple is str and len(parts) > 1):  # a name, or one of timm's classes
        return ""
    accepted = (int, float) if simple is float else simple
    if not isinstance(value, accepted) or (isinstance(value, bool) and simple is not bool):
        return TYPE_NAMES[simple]
    if argument in MINIMUM and isinstance(value, int) and value < MINIMUM[argument]:
        return f"at least {MINIMUM[argument]}"
    if argument == "mlp_ratio" and isinstance(value, int | float) and value <= 0:
        return "greater than 0"
    if argument.endswith("_rate") and isinstance(value, int | float) and not 0 <= value < 1:
        return "at least 0 and less than 1"
    return ""


def _check_heads(name: str, args: Mapping[str, Setting]) -> None:
    defaults = default_arguments(name)
    if not defaults:
        return
    width, heads = (int(args.get(argument) or defaults[argument]) for argument in ("embed_dim", "num_heads"))
    if width % heads:
        divisors = [str(count) for count in range(1, width + 1) if width % count == 0]
        raise RecipeError(
            f"model.args: embed_dim ({width}) is not divisible by num_heads ({heads})",
            f"num_heads can be {', '.join(divisors)}",
        )


def _check_pool(name: str, args: Mapping[str, Setting]) -> None:
    pool = args.get("global_pool") or default_arguments(name).get("global_pool")
    if pool != "token" or can_build(name, args):
        return
    averaged = can_build(name, {**args, "global_pool": "avg"})
    raise RecipeError(
        f"model.args: global_pool=token needs a class token, and class_token is false for {name}",
        "--set model.args.global_pool=avg" if averaged else "leave out class_token",
    )
