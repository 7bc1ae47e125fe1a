"""Fill a timm model with the weights of a file, or say what kind of model they are for and which tensors do not fit."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch
from timm.models import beit, vision_transformer
from torch import Tensor, nn

from toolkit.characters import listed
from toolkit.errors import WeightsError
from toolkit.models import networks, weight_file
from toolkit.models.kinship import differences
from toolkit.models.weight_kinds import PLAIN

LOG = logging.getLogger(__name__)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
COMPUTED = (torch.float16, torch.bfloat16, torch.float32, torch.float64, *FLOAT8)
"""Number formats of weights. Others are those of scales (float8_e8m0fnu) or hold several numbers in a byte."""
SHOWN, SHOWN_BESIDE_A_KIND = 8, 3
"""How many misfitting tensors an error lists, and how many where it can say what kind of model they are for."""


def fill(module: nn.Module, file: Path, key: str | None = None) -> tuple[str, ...]:
    """Load `file` into a timm ViT, DeiT or BEiT, resampling position embeddings to its image size as timm does.

    `key` chooses among several networks in the file. Where the network has a classifier for another number of classes,
    or none (a backbone), the model keeps its fresh one, and the names of its parameters are returned. Any other
    difference, and any value that is not finite, is a WeightsError that names the tensors.
    """
    own = module.state_dict()
    network = networks.choose(weight_file.read(file), own, key, file)
    if network.notes:
        LOG.warning("%s: %s", file, "; ".join(network.notes))
    given = _packed(_in_float32(network.tensors, own, file))
    try:
        state = _as_timm_has_them(module, given)
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, ValueError) as error:
        raise _misfit(module, given, _faults(given, own), file) from error
    if faults := _faults(state, own):
        raise _misfit(module, given, faults, file)
    fresh = [
        name for name in own if is_classifier(name) and (name not in state or own[name].shape != state[name].shape)
    ]
    for name in fresh:
        LOG.info("%s starts fresh: the file has none for %d classes", name, len(own[name]))
        state[name] = own[name]
    _check_heads(module, file)
    _check_finite(state, file)
    _tell_patches(given, own, file)
    module.load_state_dict(state, strict=True)
    return tuple(fresh)


def _tell_patches(given: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path) -> None:
    """timm resamples patches of another size too, which costs more accuracy than positions do."""
    name = "patch_embed.proj.weight"
    theirs, ours = given[name].shape[2:] if name in given else (), own[name].shape[2:]
    if len(theirs) == 2 and theirs != ours:
        LOG.warning("%s: its patches of %d pixels are resampled to %d pixels", file, theirs[0], ours[0])


def _faults(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Every tensor that is missing, too many or of another shape; a classifier may be missing or of another shape."""
    needed = [name for name in own if not is_classifier(name)]
    faults = [f"{name} is missing" for name in needed if name not in state]
    faults += [f"{name} is not part of the model" for name in state if name not in own]
    faults += [
        f"{name} is {list(state[name].shape)}, the model needs {list(own[name].shape)}"
        for name in needed
        if name in state and state[name].shape != own[name].shape
    ]
    return faults


def _misfit(module: nn.Module, given: Mapping[str, Tensor], faults: list[str], file: Path) -> WeightsError:
    """The error for tensors that do not fit: the file's kind first, then the tensors."""
    found = differences(given, module)
    tensors = listed(faults, SHOWN_BESIDE_A_KIND if found else SHOWN, between="; ")
    said = filter(None, (*(difference.said for difference in found), tensors))
    settings = " ".join(difference.settings for difference in found if difference.settings)
    hint = f"to build the file's kind of model: {settings}" if settings else ""
    if weight_file.record_beside(file):
        hint = f"`toolkit inspect {file.parent}` shows it; a model that was cut cannot be trained anew"
    name = getattr(module, "pretrained_cfg", {}).get("architecture") or type(module).__name__
    return WeightsError(
        f"{file} does not fit {name}: {'; '.join(said)}",
        hint or "check model.name, model.args and model.image_size",
    )


def _in_float32(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Numbers of any precision as the model computes; what is not plain numbers is refused by name."""
    odd = [f"{name} ({what})" for name, tensor in tensors.items() if (what := _odd(tensor, name in own))]
    if odd:
        raise WeightsError(
            f"{file} holds tensors that are no plain floating-point numbers: {listed(odd)}",
            PLAIN,
        )
    eighths = [name for name in tensors if name in own and tensors[name].dtype in FLOAT8]
    if eighths and (scales := [name for name in tensors if name not in own and "scale" in name]):
        raise WeightsError(f"{file} holds float8 numbers that others are to scale: {listed(scales)}", PLAIN)
    return {name: tensor.float() if tensor.dtype in COMPUTED else tensor for name, tensor in tensors.items()}


def _odd(tensor: Tensor, needed: bool) -> str:
    if tensor.is_meta:
        return "without values, on the meta device"
    if tensor.is_quantized or tensor.layout != torch.strided:
        return "quantised" if tensor.is_quantized else "sparse"
    dtype = str(tensor.dtype).removeprefix("torch.")
    return dtype if needed and tensor.dtype not in COMPUTED else ""


def _check_heads(module: nn.Module, file: Path) -> None:
    """A file of ours lies beside a record of its heads, which tensors do not show."""
    if found := weight_file.record_beside(file):
        theirs = [len(layout.heads) for layout in found[1].layouts]
        ours = [part.num_heads for part in module.modules() if hasattr(part, "num_heads")]
        if theirs != ours:
            raise WeightsError(
                f"{file} is of a model with {theirs[0]} heads, not {ours[0]}", f"--set model.args.num_heads={theirs[0]}"
            )


def _check_finite(state: Mapping[str, Tensor], file: Path) -> None:
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{file} holds values that are NaN or infinite, in {listed(broken)}",
            "its training has diverged: take an earlier checkpoint",
        )


def _packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense models that this toolkit has saved keep three biases where timm's ViT packs them into one."""
    packed = dict(state)
    for place in [name.removesuffix("k_bias") for name in state if name.endswith(".k_bias")]:
        names = [f"{place}{part}_bias" for part in "qkv"]
        if all(name in packed for name in names):
            packed[f"{place}qkv.bias"] = torch.cat([packed.pop(name) for name in names])
    return packed


def _as_timm_has_them(module: nn.Module, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's own conversions of other authors' names, and of positions and patches for another image size."""
    convert: Callable[..., dict[str, Tensor]] = beit.checkpoint_filter_fn
    if not isinstance(module, beit.Beit):
        convert = partial(vision_transformer.checkpoint_filter_fn, adapt_layer_scale=True)
        name = str(getattr(module, "pretrained_cfg", {}).get("architecture"))
        if "flexi" in name or "radio" in name:  # which timm resamples in another way
            convert = partial(convert, interpolation="bilinear", antialias=False)
    return convert(dict(given), module)


def is_classifier(name: str) -> bool:
    """Whether a parameter belongs to the last layer, which decides between classes."""
    return name.split(".", maxsplit=1)[0] in ("head", "head_dist")
