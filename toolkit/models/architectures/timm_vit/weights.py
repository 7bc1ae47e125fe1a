"""Load a weights file into a timm model, or explain which tensors do not match and which architecture would."""

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
from toolkit.models.architectures.timm_vit.architecture_diff import differences
from toolkit.models.architectures.timm_vit.canonical import timm_name
from toolkit.models.weight_formats import SAVE_UNQUANTISED

LOG = logging.getLogger(__name__)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz)
WEIGHT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, *FLOAT8)
"""Dtypes of weights. Others are for scales (float8_e8m0fnu) or pack several values into a byte."""
CLASSIFIERS = ("head", "head_dist")
"""Names of timm's classifiers; only distilled models have the second."""
LISTED, LISTED_WITH_DIFFERENCES = 8, 3
"""Number of mismatched tensors in an error message, without and with known differences of architecture."""


def fill(module: nn.Module, file: Path, key: str | None = None) -> tuple[str, ...]:
    """Load `file` into a timm ViT, DeiT or BEiT; timm resamples position embeddings to the model's image size.

    `key` selects one of several networks in the file. If the file's classifier is missing or for another number of
    classes, the model's initial one is kept, and the names of its parameters are returned. Raises WeightsError, which
    names the tensors, for any other difference and for NaN or infinity.
    """
    own = module.state_dict()
    network = networks.select(weight_file.read(file), own, key, file)
    if network.notes:
        LOG.warning("%s: %s", file, "; ".join(network.notes))
    tensors = _source_tensors(_in_float32(network.tensors, own, file), module)
    try:
        state = _converted_by_timm(module, tensors)
    except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, ValueError) as error:
        raise _mismatch_error(module, tensors, _mismatches(tensors, own), file) from error
    if mismatches := _mismatches(state, own):
        raise _mismatch_error(module, tensors, mismatches, file)
    fresh = [
        name for name in own if is_classifier(name) and (name not in state or own[name].shape != state[name].shape)
    ]
    for name in fresh:
        LOG.info("%s is newly initialised: the file has none for %d classes", name, len(own[name]))
        state[name] = own[name]
    _check_heads(module, file)
    _check_finite(state, file)
    _warn_if_patches_resampled(tensors, own, file)
    module.load_state_dict(state, strict=True)
    return tuple(fresh)


def _warn_if_patches_resampled(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path) -> None:
    """timm also resamples the patch embedding, which costs more accuracy than resampling position embeddings."""
    name = "patch_embed.proj.weight"
    theirs, ours = tensors[name].shape[2:] if name in tensors else (), own[name].shape[2:]
    if len(theirs) == 2 and theirs != ours:
        LOG.warning("%s: the patch embedding is resampled from %d to %d pixels", file, theirs[0], ours[0])


def _mismatches(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Missing and unexpected tensors and other shapes, except that a classifier may be missing or of another shape."""
    required = [name for name in own if not is_classifier(name)]
    missing = [f"{name} is missing" for name in required if name not in state]
    unexpected = [f"{name} is not part of the model" for name in state if name not in own]
    shapes = [
        f"{name} is {list(state[name].shape)}, the model needs {list(own[name].shape)}"
        for name in required
        if name in state and state[name].shape != own[name].shape
    ]
    return missing + unexpected + shapes


def _mismatch_error(
    module: nn.Module, tensors: Mapping[str, Tensor], mismatches: list[str], file: Path
) -> WeightsError:
    """The error for tensors that do not match: differences of architecture first, then the tensors."""
    known = differences(tensors, module)
    names = listed(mismatches, LISTED_WITH_DIFFERENCES if known else LISTED, separator="; ")
    problems = filter(None, (*(difference.message for difference in known), names))
    settings = " ".join(difference.settings for difference in known if difference.settings)
    hint = f"to build the file's architecture: {settings}" if settings else ""
    if weight_file.adjacent_record(file):
        hint = f"`toolkit inspect {file.parent}` shows it; `toolkit train` cannot start from a pruned model"
    name = getattr(module, "pretrained_cfg", {}).get("architecture") or type(module).__name__
    return WeightsError(
        f"{file} does not match {name}: {'; '.join(problems)}",
        hint or "check model.name, model.args and model.image_size",
    )


def _in_float32(tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """Tensors of any floating-point dtype converted to float32; WeightsError names those that are not plain floats."""
    unsupported = [
        f"{name} ({storage})"
        for name, tensor in tensors.items()
        if (storage := _unsupported_storage(tensor, name in own))
    ]
    if unsupported:
        raise WeightsError(
            f"{file} has tensors that are not plain floating-point numbers: {listed(unsupported)}", SAVE_UNQUANTISED
        )
    float8 = [name for name in tensors if name in own and tensors[name].dtype in FLOAT8]
    if float8 and (scales := [name for name in tensors if name not in own and "scale" in name]):
        raise WeightsError(f"{file} has float8 tensors with separate scales: {listed(scales)}", SAVE_UNQUANTISED)
    return {name: tensor.float() if tensor.dtype in WEIGHT_DTYPES else tensor for name, tensor in tensors.items()}


def _unsupported_storage(tensor: Tensor, required: bool) -> str:
    if tensor.is_meta:
        return "without values, on the meta device"
    if tensor.is_quantized or tensor.layout != torch.strided:
        return "quantised" if tensor.is_quantized else "sparse"
    dtype = str(tensor.dtype).removeprefix("torch.")
    return dtype if required and tensor.dtype not in WEIGHT_DTYPES else ""


def _check_heads(module: nn.Module, file: Path) -> None:
    """Compare the number of heads with the `model.json` next to our own files, since tensors do not show it."""
    if record := weight_file.adjacent_record(file):
        theirs = [len(layout.heads) for layout in record[1].layouts]
        ours = [part.num_heads for part in module.modules() if hasattr(part, "num_heads")]
        if theirs != ours:
            raise WeightsError(
                f"{file} has {theirs[0]} heads, the model has {ours[0]}", f"--set model.args.num_heads={theirs[0]}"
            )


def _check_finite(state: Mapping[str, Tensor], file: Path) -> None:
    broken = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if broken:
        raise WeightsError(
            f"{file} contains NaN or infinity, in {listed(broken)}",
            "the training may have diverged: use an earlier checkpoint",
        )


def _source_tensors(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """timm's names of BEiT's layer scales, and timm's packed query, key and value biases, in a file of this toolkit."""
    packed = {timm_name(name) if isinstance(module, beit.Beit) else name: tensor for name, tensor in state.items()}
    for place in [name.removesuffix("k_bias") for name in state if name.endswith(".k_bias")]:
        names = [f"{place}{part}_bias" for part in "qkv"]
        if all(name in packed for name in names):
            packed[f"{place}qkv.bias"] = torch.cat([packed.pop(name) for name in names])
    return packed


def _converted_by_timm(module: nn.Module, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """timm's conversion of other authors' names, and of position and patch embeddings for another image size."""
    convert: Callable[..., dict[str, Tensor]] = beit.checkpoint_filter_fn
    if not isinstance(module, beit.Beit):
        convert = partial(vision_transformer.checkpoint_filter_fn, adapt_layer_scale=True)
        name = str(getattr(module, "pretrained_cfg", {}).get("architecture"))
        if "flexi" in name or "radio" in name:  # timm resamples these differently
            convert = partial(convert, interpolation="bilinear", antialias=False)
    return convert(dict(tensors), module)


def is_classifier(name: str) -> bool:
    """Whether a parameter belongs to a classifier."""
    return name.split(".", maxsplit=1)[0] in CLASSIFIERS
