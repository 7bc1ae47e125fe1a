"""Differences between the architecture of a weights file and the model, as text and as settings that resolve them.

They are inferred from tensor names and shapes, which show the family, sizes, extra tokens, norms and biases, but not
the number of heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import inf, isqrt, nextafter

import timm
from timm.models.beit import Beit
from torch import Tensor, nn

from toolkit.models.architectures.timm_vit.arguments import default_arguments

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Difference:
    """One difference, and the settings that build the file's architecture (empty if there are none)."""

    message: str
    settings: str = ""


@dataclass(frozen=True)
class Trait:
    """An optional part of an architecture, the tensor that reveals it, and timm's arguments with and without it;
    `args_with` is empty if models with it cannot be pruned."""

    tensor: str
    part: str
    args_with: str
    args_without: str


VIT_TRAITS = (
    Trait("cls_token", "a class token", "class_token=true", "class_token=false --set model.args.global_pool=avg"),
    Trait("pos_embed", "position embeddings", "pos_embed=learn", "pos_embed=none"),
    Trait("norm_pre.weight", "a norm before the blocks", "pre_norm=true", "pre_norm=false"),
    Trait("fc_norm.weight", "a norm after average pooling", "global_pool=avg", "fc_norm=false"),
    Trait("blocks.0.ls1.gamma", "layer scale", "init_values=1e-5", "init_values=0"),
    Trait("blocks.0.attn.qkv.bias", "query, key and value biases", "qkv_bias=true", "qkv_bias=false"),
    Trait("blocks.0.attn.q_norm.weight", "query and key norms", "qk_norm=true", "qk_norm=false"),
    Trait("blocks.0.attn.norm.weight", "a norm inside attention", "", "scale_attn_norm=false"),
    Trait("blocks.0.mlp.norm.weight", "a norm inside the MLP", "", "scale_mlp_norm=false"),
)
BEIT_TRAITS = (
    Trait("pos_embed", "absolute position embeddings", "use_abs_pos_emb=true", "use_abs_pos_emb=false"),
    Trait("fc_norm.weight", "a norm after average pooling", "global_pool=avg", "global_pool=token"),
    Trait(
        "rel_pos_bias.relative_position_bias_table",
        "relative positions shared by all blocks",
        "",
        "use_shared_rel_pos_bias=false",
    ),
    Trait("blocks.0.gamma_1", "layer scale", "init_values=0.1", "init_values=0"),
    Trait("blocks.0.attn.q_bias", "query and value biases", "qkv_bias=true", "qkv_bias=false"),
    Trait("blocks.0.mlp.norm.weight", "a norm inside the MLP", "", "scale_mlp=false"),
    Trait(
        "blocks.0.attn.relative_position_bias_table",
        "relative positions in every block",
        "use_rel_pos_bias=true",
        "use_rel_pos_bias=false",
    ),
)
PATCHES = "patch_embed.proj.weight"  # [width, channels, patch, patch]
BLOCK = "blocks.0."
COMMON_TENSORS = ("cls_token", "pos_embed", "blocks.0.attn.qkv.bias")
"""Tensors that other libraries have under other names."""
SET_HEADS = "--set model.args.num_heads=..."
"""Hint for the number of heads, which tensors do not show."""
RENAMED = {"register_tokens": "reg_token"}
"""Other authors' tensor names that timm converts."""
OTHER_LIBRARIES = (
    (r"encoder\.layer\.\d+\.attention\.attention\.", "Hugging Face transformers"),
    (r"encoder\.layers\.encoder_layer_\d+\.", "torchvision"),
    (r"transformer\.layers\.\d+\.\d+\.", "vit-pytorch"),
    (r"layers\.\d+\.ffn\.layers\.", "OpenMMLab"),
    (r"(^|/)Transformer/encoderblock", "JAX"),
)
"""Patterns of tensor names that only one other library uses."""
SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
"""Size in timm's model names, by embedding width."""


def differences(state: State, module: nn.Module) -> list[Difference]:
    """Differences between the architecture of these tensors and `module`; empty if they match."""
    state = {RENAMED.get(name, name): tensor for name, tensor in state.items()}
    own = module.state_dict()
    if library := _other_library(state, own):
        return [Difference(f"its tensors are named as in {library}, not as in timm")]
    if layout := _other_layout(state):
        return [Difference(layout)]
    if _length(state, PATCHES, 0) != _width(state):
        return []
    if other := _other_family(state, module):
        return [other]
    tokens = [*_distilled(state, own), *_registers(state, own)]
    traits = _traits(state, own, BEIT_TRAITS if isinstance(module, Beit) else VIT_TRAITS)
    return [*_sizes(state, own, module), *tokens, *traits, *_positions(state, module)]


def _other_library(state: State, own: State) -> str | None:
    if own.keys() & state.keys():
        return None
    return next((who for pattern, who in OTHER_LIBRARIES if any(re.search(pattern, name) for name in state)), None)


def _other_layout(state: State) -> str:
    """How another library stores the same layers; empty if they are stored as in timm."""
    if packed := next((name for name in state if name.endswith("in_proj_weight")), ""):
        return f"its attention is torch.nn.MultiheadAttention ({packed}), whose tensors timm does not use"
    width = _width(state)
    for name, ours, theirs in ((f"{BLOCK}mlp.fc1.weight", 1, 0), (f"{BLOCK}mlp.fc2.weight", 0, 1), (PATCHES, 0, -1)):
        shape = state[name].shape if name in state else ()
        if width and len(shape) > 1 and shape[ours] != width == shape[theirs]:
            return f"its weights are transposed, as in Flax and TensorFlow ({name} is {list(shape)})"
    return ""


def _width(state: State) -> int:
    """Token width, from a norm, whose only dimension it is."""
    return _length(state, f"{BLOCK}norm1.weight", 0)


def _other_family(state: State, module: nn.Module) -> Difference | None:
    marks = [name for name in state if name.endswith(("relative_position_bias_table", ".q_bias"))]
    if marks and not isinstance(module, Beit):
        return Difference(f"the file is a BEiT ({marks[0]})", _model(state, "beit_{}"))
    if isinstance(module, Beit) and not marks and ("pos_embed" in state or "blocks.0.attn.qkv.bias" in state):
        return Difference("the file is a ViT or DeiT, without relative positions", _model(state, "vit_{}"))
    return None


def _distilled(state: State, own: State) -> list[Difference]:
    if ("dist_token" in state) == ("dist_token" in own):
        return []
    message = "the file is a distilled DeiT (dist_token)" if "dist_token" in state else "the file is not distilled"
    family = "deit_{}_distilled" if "dist_token" in state else "deit_{}"
    return [Difference(message, _model(state, family))]


def _model(state: State, family: str) -> str:
    """`--model` with the shortest name of a family ("beit_{}") with the file's width and patch size, or common ones,
    and the settings that give it the file's sizes."""
    width, patch = _length(state, PATCHES, 0), _length(state, PATCHES, 3)
    for size in (SIZES.get(width, "base"), "base"):
        for side in (patch, 16):
            if names := timm.list_models(f"{family.format(size)}_patch{side}_*"):
                name = min(names, key=lambda name: (len(name), name))
                return " ".join([f"--model {name}", *_resizing(state, name)])
    return ""


def _resizing(state: State, name: str) -> Iterator[str]:
    """Settings that give an architecture the file's sizes."""
    width, hidden = _length(state, PATCHES, 0), _length(state, f"{BLOCK}mlp.fc1.weight", 0)
    sizes: dict[str, float] = {"embed_dim": width, "depth": _depth(state), "patch_size": _length(state, PATCHES, 3)}
    if width and hidden:
        sizes["mlp_ratio"] = _ratio(hidden, width)
    changed = [
        argument for argument, value in sizes.items() if value and value != default_arguments(name).get(argument)
    ]
    yield from (_set(f"{argument}={sizes[argument]:.16g}") for argument in changed)
    if "embed_dim" in changed:
        yield SET_HEADS


def _resized(module: nn.Module, width: int) -> str:
    """`--model` with the same architecture in the size of this width; empty if there is none."""
    name = str(getattr(module, "pretrained_cfg", {}).get("architecture"))
    sized = re.sub(rf"_({'|'.join(SIZES.values())})_", f"_{SIZES.get(width)}_", name)
    return f"--model {sized}" if sized != name and timm.is_model(sized) else ""


def _registers(state: State, own: State) -> list[Difference]:
    theirs, ours = (_length(tensors, "reg_token", 1) for tensors in (state, own))
    return _number("number of register tokens", "reg_tokens", theirs, ours)


def _traits(state: State, own: State, traits: tuple[Trait, ...]) -> list[Difference]:
    result = []
    for trait in traits:
        if trait.tensor in state and trait.tensor not in own:
            unsupported = "" if trait.args_with else ", and such models cannot be pruned"
            settings = _set(trait.args_with) if trait.args_with else ""
            result.append(Difference(f"the file has {trait.part}, the model has none{unsupported}", settings))
        elif trait.tensor in own and trait.tensor not in state and not _renamed(trait.tensor, state, own):
            settings = _set(trait.args_without)
            if trait.tensor == "cls_token" and "norm.weight" in state:  # a norm before pooling, not after
                settings = f"{settings} {_set('fc_norm=false')}"
            result.append(Difference(f"the model has {trait.part}, the file has none", settings))
    return result


def _sizes(state: State, own: State, module: nn.Module) -> list[Difference]:
    width, own_width = (_length(tensors, PATCHES, 0) for tensors in (state, own))
    result = _number("width", "embed_dim", width, own_width)
    if result:  # the file does not show the number of heads
        settings = _resized(module, width) or f"{result[0].settings} {SET_HEADS}"
        result = [Difference(result[0].message, settings)]
    result += _number("depth", "depth", _depth(state), _depth(own))
    hidden, own_hidden = (_length(tensors, f"{BLOCK}mlp.fc1.weight", 0) for tensors in (state, own))
    if hidden and own_hidden:
        result += _number("MLP ratio", "mlp_ratio", _ratio(hidden, width), _ratio(own_hidden, own_width))
    channels = (_length(tensors, PATCHES, 1) for tensors in (state, own))
    return [*result, *_number("number of colour channels", "", *channels)]


def _depth(state: State) -> int:
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def _ratio(hidden: int, width: int) -> float:
    """The shortest decimal with int(width * ratio) = hidden, as timm computes the hidden width."""
    ratio = hidden / width
    while int(width * ratio) < hidden:
        ratio = nextafter(ratio, inf)
    return next(short for digits in range(1, 18) if int(width * (short := float(f"{ratio:.{digits}g}"))) == hidden)


def _renamed(missing: str, state: State, own: State) -> bool:
    """Whether the file may have a missing tensor under another name: it has an unknown tensor of equal size."""
    if missing not in COMMON_TENSORS:
        return False
    unknown = (
        tensor for name, tensor in state.items() if name not in own and not name.startswith(("norm.", "fc_norm."))
    )
    return any(tensor.numel() == own[missing].numel() for tensor in unknown)


def _number(quantity: str, argument: str, theirs: float, ours: float) -> list[Difference]:
    if theirs == ours:
        return []
    message = f"its {quantity} is {theirs:.16g}, the model's {ours:.16g}"
    return [Difference(message, _set(f"{argument}={theirs:.16g}") if argument else "")]


def _positions(state: State, module: nn.Module) -> list[Difference]:
    """Whether the position embeddings include the class token and other extra tokens."""
    if "pos_embed" not in state or getattr(module, "pos_embed", None) is None:
        return []
    count = _length(state, "pos_embed", 1)
    extra = sum(_length(state, name, 1) for name in ("cls_token", "dist_token", "reg_token"))
    without = bool(getattr(module, "no_embed_class", False))
    if extra and without and _is_square(count - extra) and not _is_square(count):
        return [Difference(f"its {count} position embeddings include the class token", _set("no_embed_class=false"))]
    if extra and not without and _is_square(count) and not _is_square(count - extra):
        return [
            Difference(f"its {count} position embeddings do not include the class token", _set("no_embed_class=true"))
        ]
    return []


def _length(state: State, name: str, dim: int) -> int:
    """Size of a tensor along a dimension; 0 if the tensor or the dimension does not exist."""
    return state[name].shape[dim] if name in state and state[name].dim() > dim else 0


def _is_square(count: int) -> bool:
    return count > 0 and isqrt(count) ** 2 == count


def _set(argument: str) -> str:
    return f"--set model.args.{argument}"
