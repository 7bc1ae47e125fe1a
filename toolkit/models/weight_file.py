"""The file of weights that a model starts from, and its tensors, read without running anything in it."""

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

from toolkit import hashing, recipe, strict_json
from toolkit.characters import is_address
from toolkit.errors import WeightsError
from toolkit.models.weight_kinds import AGAIN, PLAIN, kind_of, readable, unread_formats, with_code
from toolkit.records import SCHEMA, ModelInfo

NAMED = "save the tensors by name: torch.save(model.state_dict(), FILE)"
DEEPEST = 4
"""How far inside each other the entries of a checkpoint are looked into."""


OURS = frozenset(("layouts", "weights_sha256"))
"""Fields of our `model.json` that nobody else's has: TensorFlow.js writes files of this name, too."""


def weights_path(settings: recipe.Model) -> Path | None:
    """The file that a model starts from, which may be missing; None for weights of timm's or random ones."""
    if settings.weights in ("hub", "none"):
        return None
    if is_address(settings.weights):
        raise WeightsError(
            f"weights {settings.weights} is an address, and weights are read from a file here",
            "download it first, and give the file: --weights FILE",
        )
    try:
        return Path(settings.weights).expanduser()
    except RuntimeError:
        raise WeightsError(f"weights file {settings.weights} does not exist: no user of that name") from None


def is_there(file: Path) -> bool:
    """Whether it is a file; WeightsError where the system does not tell."""
    with readable(file):
        return file.is_file()


def sha256(file: Path) -> str:
    """Hash of its bytes; WeightsError where they cannot be read."""
    with readable(file):
        return hashing.sha256(file)


def record_beside(file: Path) -> tuple[Path, ModelInfo] | None:
    """The `model.json` that this toolkit has written with a `model.safetensors`, and what it says; None where there is
    none, or it is somebody else's. RecordError for one that is damaged."""
    beside = file.with_name("model.json")
    if file.name != "model.safetensors" or not is_there(beside):
        return None
    with readable(beside):
        text = strict_json.text_of(beside)
    content = strict_json.parse(text, str(beside))
    if not isinstance(content, dict) or not OURS & content.keys():
        return None
    return beside, strict_json.loads(ModelInfo, text, str(beside), SCHEMA)


def read(file: Path) -> dict[str, Tensor]:
    """Every tensor of a file. Entries of a checkpoint stand before their names: "state_dict/blocks.0.norm1.weight"."""
    if kind_of(file) == "safetensors":
        try:
            with readable(file):
                return load_file(file)
        except (SafetensorError, ValueError, KeyError) as error:
            if odd := unread_formats(file):
                raise WeightsError(
                    f"{file} holds numbers in {', '.join(odd)}, which PyTorch does not read", PLAIN
                ) from error
            raise WeightsError(f"{file} is truncated or damaged", AGAIN) from error
    content = _unpickled(file)
    tensors = dict(_tensors_in(content))
    if not tensors:
        raise WeightsError(f"{file} holds {_described(content)}, not tensors by name", NAMED)
    return tensors


def _described(content: object) -> str:
    if isinstance(content, Tensor):
        return f"a single tensor of shape {list(content.shape)}"
    kinds = {Mapping: "names with other values", list: "a list", tuple: "a list", str: "a text", int: "a number"}
    if isinstance(content, Mapping) and not content:
        return "nothing"
    return next((said for kind, said in kinds.items() if isinstance(content, kind)), f"a {type(content).__name__}")


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
