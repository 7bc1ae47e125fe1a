"""How the model that a file of weights is for differs from the one that is built, in words and as settings.

A file says little: its tensors' names and shapes. They show the family, sizes, extra tokens, norms and biases, but not
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

from toolkit.models.arguments import usual

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Difference:
    """What is different, and the settings that would build the file's kind (empty: there are none)."""

    said: str
    settings: str = ""


@dataclass(frozen=True)
class Trait:
    """Something that a model has or has not, seen by one tensor, and timm's arguments for both; with_it is empty where
    this toolkit cannot cut such a model."""

    tensor: str
    what: str
    with_it: str
    without: str


VIT_TRAITS = (
    Trait("cls_token", "a class token", "class_token=true", "class_token=false --set model.args.global_pool=avg"),
    Trait("pos_embed", "a table of positions", "pos_embed=learn", "pos_embed=none"),
    Trait("norm_pre.weight", "a norm before the blocks", "pre_norm=true", "pre_norm=false"),
    Trait("fc_norm.weight", "a norm after averaging the tokens", "global_pool=avg", "fc_norm=false"),
    Trait("blocks.0.ls1.gamma", "layer scale", "init_values=1e-5", "init_values=0"),
    Trait("blocks.0.attn.qkv.bias", "biases of queries, keys and values", "qkv_bias=true", "qkv_bias=false"),
    Trait("blocks.0.attn.q_norm.weight", "norms of queries and keys", "", "qk_norm=false"),
    Trait("blocks.0.attn.norm.weight", "a norm inside attention", "", "scale_attn_norm=false"),
    Trait("blocks.0.mlp.norm.weight", "a norm inside the MLP", "", "scale_mlp_norm=false"),
)
BEIT_TRAITS = (
    Trait("pos_embed", "a table of absolute positions", "use_abs_pos_emb=true", "use_abs_pos_emb=false"),
    Trait("fc_norm.weight", "a norm after averaging the tokens", "global_pool=avg", "global_pool=token"),
    Trait(
        "rel_pos_bias.relative_position_bias_table",
        "relative positions that all blocks share",
        "",
        "use_shared_rel_pos_bias=false",
    ),
    Trait("blocks.0.gamma_1", "layer scale", "init_values=0.1", "init_values=0"),
    Trait("blocks.0.attn.q_bias", "biases of queries and values", "qkv_bias=true", "qkv_bias=false"),
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
MISTAKABLE = ("cls_token", "pos_embed", "blocks.0.attn.qkv.bias")
"""Tensors that other libraries have too, by other names."""
HEADS = "--set model.args.num_heads=..."
"""Which tensors do not show."""
RENAMED = {"register_tokens": "reg_token"}
"""Names of other authors that timm converts."""
STRANGERS = (
    (r"encoder\.layer\.\d+\.attention\.attention\.", "Hugging Face transformers"),
    (r"encoder\.layers\.encoder_layer_\d+\.", "torchvision"),
    (r"transformer\.layers\.\d+\.\d+\.", "vit-pytorch"),
    (r"layers\.\d+\.ffn\.layers\.", "OpenMMLab"),
    (r"(^|/)Transformer/encoderblock", "JAX"),
)
"""Names of tensors that only another library uses."""
SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
"""Embedding widths by the names that timm's models have."""


def differences(state: State, module: nn.Module) -> list[Difference]:
    """What kind of model the tensors are of, where it is another than `module`; empty where their kind is the same."""
    state = {RENAMED.get(name, name): tensor for name, tensor in state.items()}
    own = module.state_dict()
    if stranger := _stranger(state, own):
        return [Difference(f"its tensors have the names of {stranger}, not of timm")]
    if layout := _other_layout(state):
        return [Difference(layout)]
    if _length(state, PATCHES, 0) != _width(state):
        return []
    if other := _other_family(state, module):
        return [other]
    tokens = [*_distilled(state, own), *_registers(state, own)]
    traits = _traits(state, own, BEIT_TRAITS if isinstance(module, Beit) else VIT_TRAITS)
    return [*_sizes(state, own, module), *tokens, *traits, *_positions(state, module)]


def _stranger(state: State, own: State) -> str | None:
    if own.keys() & state.keys():
        return None
    return next((who for names, who in STRANGERS if any(re.search(names, name) for name in state)), None)


def _other_layout(state: State) -> str:
    """How the same layers are kept by another library, where that shows; empty: as timm keeps them."""
    if packed := next((name for name in state if name.endswith("in_proj_weight")), ""):
        return f"its attention is torch.nn.MultiheadAttention ({packed}), which timm has under other names"
    width = _width(state)
    for name, ours, theirs in ((f"{BLOCK}mlp.fc1.weight", 1, 0), (f"{BLOCK}mlp.fc2.weight", 0, 1), (PATCHES, 0, -1)):
        shape = state[name].shape if name in state else ()
        if width and len(shape) > 1 and shape[ours] != width == shape[theirs]:
            return f"its kernels are transposed, as Flax and TensorFlow have them ({name} is {list(shape)})"
    return ""


def _width(state: State) -> int:
    """Of the tokens, by a norm, which has no other side."""
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
    said = "the file is a distilled DeiT (dist_token)" if "dist_token" in state else "the file is not distilled"
    family = "deit_{}_distilled" if "dist_token" in state else "deit_{}"
    return [Difference(said, _model(state, family))]


def _model(state: State, family: str) -> str:
    """--model for the plainest model of a family, "beit_{}", that has the file's width and patches, or usual ones, and
    the settings that give it the file's sizes."""
    width, patch = _length(state, PATCHES, 0), _length(state, PATCHES, 3)
    for size in (SIZES.get(width, "base"), "base"):
        for side in (patch, 16):
            if found := timm.list_models(f"{family.format(size)}_patch{side}_*"):
                name = min(found, key=lambda name: (len(name), name))
                return " ".join([f"--model {name}", *_resizing(state, name)])
    return ""


def _resizing(state: State, name: str) -> Iterator[str]:
    """Settings that give an architecture the file's sizes."""
    width, hidden = _length(state, PATCHES, 0), _length(state, f"{BLOCK}mlp.fc1.weight", 0)
    sizes: dict[str, float] = {"embed_dim": width, "depth": _depth(state), "patch_size": _length(state, PATCHES, 3)}
    if width and hidden:
        sizes["mlp_ratio"] = _ratio(hidden, width)
    changed = [argument for argument, value in sizes.items() if value and value != usual(name).get(argument)]
    yield from (_set(f"{argument}={sizes[argument]:.16g}") for argument in changed)
    if "embed_dim" in changed:
        yield HEADS


def _resized(module: nn.Module, width: int) -> str:
    """--model for the same architecture in the size that has this width, where there is one."""
    name = str(getattr(module, "pretrained_cfg", {}).get("architecture"))
    sized = re.sub(rf"_({'|'.join(SIZES.values())})_", f"_{SIZES.get(width)}_", name)
    return f"--model {sized}" if sized != name and timm.is_model(sized) else ""


def _registers(state: State, own: State) -> list[Difference]:
    theirs, ours = (_length(held, "reg_token", 1) for held in (state, own))
    return _number("number of register tokens", "reg_tokens", theirs, ours)


def _traits(state: State, own: State, traits: tuple[Trait, ...]) -> list[Difference]:
    found = []
    for trait in traits:
        if trait.tensor in state and trait.tensor not in own:
            cut = "" if trait.with_it else ", and with them it cannot be cut"
            settings = _set(trait.with_it) if trait.with_it else ""
            found.append(Difference(f"the file has {trait.what}, the model has none{cut}", settings))
        elif trait.tensor in own and trait.tensor not in state and not _renamed(trait.tensor, state, own):
            settings = _set(trait.without)
            if trait.tensor == "cls_token" and "norm.weight" in state:  # not the norm of averaged tokens
                settings = f"{settings} {_set('fc_norm=false')}"
            found.append(Difference(f"the model has {trait.what}, the file has none", settings))
    return found


def _sizes(state: State, own: State, module: nn.Module) -> list[Difference]:
    width, ours = (_length(held, PATCHES, 0) for held in (state, own))
    found = _number("width", "embed_dim", width, ours)
    if found:  # the file does not say how many heads
        wider = _resized(module, width) or f"{found[0].settings} {HEADS}"
        found = [Difference(found[0].said, wider)]
    found += _number("depth", "depth", _depth(state), _depth(own))
    hidden, wide = (_length(held, f"{BLOCK}mlp.fc1.weight", 0) for held in (state, own))
    if hidden and wide:
        found += _number("MLP ratio", "mlp_ratio", _ratio(hidden, width), _ratio(wide, ours))
    return [*found, *_number("number of colour channels", "", *(_length(held, PATCHES, 1) for held in (state, own)))]


def _depth(state: State) -> int:
    return len({name.split(".")[1] for name in state if name.startswith("blocks.")})


def _ratio(hidden: int, width: int) -> float:
    """With int(width * ratio) = hidden, which is how timm computes it, and few digits."""
    found = hidden / width
    while int(width * found) < hidden:
        found = nextafter(found, inf)
    return next(short for digits in range(1, 18) if int(width * (short := float(f"{found:.{digits}g}"))) == hidden)


def _renamed(missing: str, state: State, own: State) -> bool:
    """Whether the file may have the same under another name: one of its size that the model does not know."""
    if missing not in MISTAKABLE:
        return False
    strange = (
        tensor for name, tensor in state.items() if name not in own and not name.startswith(("norm.", "fc_norm."))
    )
    return any(tensor.numel() == own[missing].numel() for tensor in strange)


def _number(what: str, argument: str, theirs: float, ours: float) -> list[Difference]:
    if theirs == ours:
        return []
    said = f"its {what} is {theirs:.16g}, the model's {ours:.16g}"
    return [Difference(said, _set(f"{argument}={theirs:.16g}") if argument else "")]


def _positions(state: State, module: nn.Module) -> list[Difference]:
    """Whether the table of positions has entries for the class token and its like."""
    if "pos_embed" not in state or getattr(module, "pos_embed", None) is None:
        return []
    count = _length(state, "pos_embed", 1)
    extra = sum(_length(state, name, 1) for name in ("cls_token", "dist_token", "reg_token"))
    without = bool(getattr(module, "no_embed_class", False))
    if extra and without and _is_square(count - extra) and not _is_square(count):
        return [Difference(f"its {count} positions include the class token's", _set("no_embed_class=false"))]
    if extra and not without and _is_square(count) and not _is_square(count - extra):
        return [Difference(f"its {count} positions do not include the class token's", _set("no_embed_class=true"))]
    return []


def _length(state: State, name: str, dim: int) -> int:
    """Length of a tensor along a dimension; 0 where there is no such tensor or dimension."""
    return state[name].shape[dim] if name in state and state[name].dim() > dim else 0


def _is_square(count: int) -> bool:
    return count > 0 and isqrt(count) ** 2 == count


def _set(argument: str) -> str:
    return f"--set model.args.{argument}"
