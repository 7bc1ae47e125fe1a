"""The tensors of a file of weights, read without running anything in it."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from toolkit.errors import WeightsError
from toolkit.models.weight_kinds import AGAIN, kind_of, with_code

DEEPEST = 4
"""How far inside each other the entries of a checkpoint are looked into."""


def read(file: Path) -> dict[str, Tensor]:
    """Every tensor of a file. Entries of a checkpoint stand before their names: "state_dict/blocks.0.norm1.weight"."""
    if kind_of(file) == "safetensors":
        try:
            return load_file(file)
        except (SafetensorError, ValueError, KeyError) as error:
            raise WeightsError(f"{file} is truncated or damaged", AGAIN) from error
    tensors = dict(_tensors_in(_unpickled(file)))
    if not tensors:
        raise WeightsError(f"{file} holds no tensors", "save model.state_dict()")
    return tensors


def _unpickled(file: Path) -> object:
    """What torch.save has written, as tensors and plain containers; argparse's Namespace holds only attributes."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # what torch finds odd is read or refused
            with file.open("rb") as opened:  # by its name, torch would take it for what its suffix says
                return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise with_code(file, _foreign(file, error)) from error
    except Exception as error:  # a damaged or a forged pickle fails with any class of error
        raise WeightsError(f"{file} is truncated or damaged", AGAIN) from error


def _foreign(file: Path, error: Exception) -> list[str]:
    """Classes and functions that opening the file would call, by name."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception:  # it lists those of today's format alone
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
    return sorted(set(names))


def _tensors_in(content: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a checkpoint with their names; numbers, settings and lists are passed over."""
    if not isinstance(content, Mapping) or depth > DEEPEST:
        return
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{path}{key}", value.detach()
        else:
            yield from _tensors_in(value, f"{path}{key}/", depth + 1)
