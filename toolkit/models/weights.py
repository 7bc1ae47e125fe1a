"""Read a file of trained weights and fill a timm model with it, or say exactly which tensors do not fit."""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import beit, vision_transformer
from torch import Tensor, nn

from toolkit.errors import WeightsError

LOG = logging.getLogger(__name__)
SHOWN = 8
"""How many misfitting tensors an error lists."""


def fill(module: nn.Module, file: Path) -> tuple[str, ...]:
    """Load `file` into a timm ViT, DeiT or BEiT, resampling position embeddings to its image size as timm does.

    Where the file has a classifier for another number of classes, or none (a backbone), the model keeps its fresh one,
    and the names of its parameters are returned. Any other difference is a WeightsError that names the tensors.
    """
    state = _fitted(module, _packed(read(file)), file)
    own = module.state_dict()
    fresh = [
        name for name in own if is_classifier(name) and (name not in state or own[name].shape != state[name].shape)
    ]
    for name in fresh:
        LOG.info("%s starts fresh: the file has none for %d classes", name, len(own[name]))
        state[name] = own[name]
    faults = [f"{name} is missing" for name in own if name not in state]
    faults += [f"{name} is not part of the model" for name in state if name not in own]
    faults += [
        f"{name} is {list(state[name].shape)}, the model needs {list(own[name].shape)}"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    if faults:
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        ours = (file.parent / "model.json").is_file()
        raise WeightsError(
            f"{file} does not fit {type(module).__name__}: {'; '.join(faults[:SHOWN])}{more}",
            "check model.name, model.args and model.image_size"
            + (f"; a model that was cut cannot be trained anew: see `toolkit inspect {file.parent}`" if ours else ""),
        )
    module.load_state_dict(state, strict=True)
    return tuple(fresh)


def read(file: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file, or of a PyTorch file that holds nothing but tensors and plain containers."""
    if not file.is_file():
        raise WeightsError(f"weights file {file} does not exist", 'give a file, "hub" or "none"')
    if file.suffix == ".safetensors":
        try:
            return load_file(file)
        except SafetensorError as error:
            raise WeightsError(f"{file} is truncated or not a safetensors file: {error}") from error
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # it is read or refused below
            state = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(
            f"{file} cannot be read as plain tensors: {reason}",
            "unpickling could run code, so it is refused; save the model's state_dict, best as safetensors",
        ) from error
    for key in ("model", "state_dict"):
        state = state.get(key, state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{file} holds no state_dict of tensors", "save model.state_dict()")
    return dict(state)


def _packed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dense models that this toolkit has saved keep three biases where timm's ViT packs them into one."""
    packed = dict(state)
    for place in [name.removesuffix("k_bias") for name in state if name.endswith(".k_bias")]:
        names = [f"{place}{part}_bias" for part in "qkv"]
        if all(name in packed for name in names):
            packed[f"{place}qkv.bias"] = torch.cat([packed.pop(name) for name in names])
    return packed


def _fitted(module: nn.Module, state: dict[str, Tensor], file: Path) -> dict[str, Tensor]:
    """timm's own conversions of old names and of position embeddings for another image size."""
    try:
        if isinstance(module, vision_transformer.VisionTransformer):
            fitted: dict[str, Tensor] = vision_transformer.checkpoint_filter_fn(state, module)
        else:
            fitted = beit.checkpoint_filter_fn(state, module)
    except (KeyError, AttributeError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{file} does not fit {type(module).__name__}: {error}") from error
    return fitted


def is_classifier(name: str) -> bool:
    """Whether a parameter belongs to the last layer, which decides between classes."""
    return name.split(".", maxsplit=1)[0] in ("head", "head_dist")
