"""Arguments of an architecture of timm's, checked before timm sees them: it checks none, and takes "no" for true."""

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
"""Arguments of timm that are not the architecture's: weights come through `weights`, classes from the data."""
LEAST = {"img_size": 1, "patch_size": 1, "embed_dim": 1, "depth": 1, "num_heads": 1, "reg_tokens": 0}
"""Arguments that count something, and the least there can be of it."""
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def check_arguments(name: str, args: Mapping[str, Setting]) -> None:
    """RecipeError for arguments that this architecture has not, with the closest that it has, and for values of another
    kind or out of range. None is the architecture's own value."""
    if refused := sorted(FACTORY_ARGUMENTS & args.keys()):
        raise RecipeError(f"model.args may not hold {', '.join(refused)}", "see model.weights and model.image_size")
    known = signature(name)
    for argument, value in args.items():
        if argument not in known:
            raise RecipeError(f"model.args: {name} takes no {argument!r}", suggestion(argument, sorted(known)))
        if value is not None and (wanted := _wanted(argument, known[argument].annotation, value)):
            raise RecipeError(f"model.args.{argument} = {value!r}: it should be {wanted}", _itself(name, [argument]))
    if args.get("weight_init") == "skip":
        raise RecipeError("with weight_init='skip' weights are what happens to be in memory", "see model.weights")
    if args.get("embed_dim") is not None or args.get("num_heads") is not None:
        _check_heads(name, args)
    if args.get("class_token") is False:
        _check_pool(name, args)


def signature(name: str) -> Mapping[str, inspect.Parameter]:
    """The arguments that an architecture takes."""
    kind = Beit if name.partition(".")[0] in timm.list_models(module="beit") else VisionTransformer
    found = inspect.signature(kind).parameters
    return {argument: found[argument] for argument in found if argument not in FACTORY_ARGUMENTS}


def builds(name: str, args: Mapping[str, Setting]) -> bool:
    """Whether timm builds an architecture with these arguments."""
    try:
        _outline(name, args)
    except Exception:  # timm checks no argument: any class of error may follow
        return False
    return True


@cache
def usual(name: str) -> Mapping[str, int | float | str]:
    """The architecture's own values of the arguments that shape it most; empty for one of other parts than ours."""
    try:
        model: Any = _outline(name, {})
        return {
            "img_size": model.patch_embed.img_size[0],
            "patch_size": model.patch_embed.patch_size[0],
            "embed_dim": model.embed_dim,
            "depth": len(model.blocks),
            "num_heads": model.blocks[0].attn.num_heads,
            "mlp_ratio": _hidden(model.blocks[0]) / model.embed_dim,
            "global_pool": model.global_pool,
        }
    except Exception:  # as above
        return {}


def usually(name: str, arguments: list[str]) -> str:
    """What the architecture itself has for these arguments, in words; empty where that is not known."""
    return ", ".join(f"{argument}={usual(name)[argument]}" for argument in arguments if argument in usual(name))


def _hidden(block: Any) -> int:
    return int(next(layer.out_features for layer in block.mlp.modules() if isinstance(layer, nn.Linear)))


def _outline(name: str, args: Mapping[str, Setting]) -> nn.Module:
    arguments: dict[str, Any] = dict(args)
    with torch.device("meta"):
        module: nn.Module = timm.create_model(name, pretrained=False, **arguments)
    return module


def _itself(name: str, arguments: list[str]) -> str:
    found = usually(name, arguments)
    return f"{name} itself has {found}" if found else "see model.args"


def _wanted(argument: str, kind: Any, value: Setting) -> str:
    """What an argument should be; empty where the value is that, or its kind is not a plain one."""
    parts = [part for part in get_args(kind) if part is not NoneType] if get_origin(kind) is Union else [kind]
    if get_origin(parts[0]) is Literal:
        known = get_args(parts[0])
        return "" if value in known else f"one of {', '.join(map(repr, known))}"
    plain = next((part for part in parts if part in KINDS), None)
    if plain is None or (plain is str and len(parts) > 1):  # a name, or a class of timm's
        return ""
    accepted = (int, float) if plain is float else plain
    if not isinstance(value, accepted) or (isinstance(value, bool) and plain is not bool):
        return KINDS[plain]
    if argument in LEAST and isinstance(value, int) and value < LEAST[argument]:
        return f"at least {LEAST[argument]}"
    if argument == "mlp_ratio" and isinstance(value, int | float) and value <= 0:
        return "greater than 0"
    if argument.endswith("_rate") and isinstance(value, int | float) and not 0 <= value < 1:
        return "at least 0 and less than 1"
    return ""


def _check_heads(name: str, args: Mapping[str, Setting]) -> None:
    if not usual(name):
        return
    width, heads = (int(args.get(each) or usual(name)[each]) for each in ("embed_dim", "num_heads"))
    if width % heads:
        fitting = [str(count) for count in range(1, width + 1) if width % count == 0]
        raise RecipeError(
            f"model.args: a width of {width} (embed_dim) is not to be shared out among {heads} heads (num_heads)",
            f"num_heads may be {', '.join(fitting)}",
        )


def _check_pool(name: str, args: Mapping[str, Setting]) -> None:
    if (args.get("global_pool") or usual(name).get("global_pool")) != "token" or builds(name, args):
        return
    averaged = builds(name, {**args, "global_pool": "avg"})
    raise RecipeError(
        f"model.args: with class_token=false {name} has no token that global_pool=token could take",
        "--set model.args.global_pool=avg" if averaged else "leave out class_token",
    )
