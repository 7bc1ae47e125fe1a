"""Read the tensors of a weights file, without executing anything in it."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from toolkit import hashing, recipe, records, strict_json
from toolkit.characters import is_url
from toolkit.errors import WeightsError
from toolkit.models.huggingface_folder import folder_of, weight_files
from toolkit.models.weight_formats import (
    DOWNLOAD_AGAIN,
    SAVE_UNQUANTISED,
    format_of,
    readable,
    unsafe_file_error,
    unsupported_dtypes,
)
from toolkit.records import ModelInfo

SAVE_STATE_DICT = "save the tensors by name: torch.save(model.state_dict(), FILE)"
MAX_DEPTH = 4
"""Maximum nesting of a checkpoint's entries."""


OUR_FIELDS = frozenset(("layouts", "weights_sha256"))
"""Fields that identify our `model.json`; TensorFlow.js also writes files of this name."""


def weights_files(settings: recipe.Model) -> tuple[Path, ...]:
    """The weights file, which may not exist, or those of a Hugging Face folder; none for timm's or random weights."""
    if settings.weights == "none":
        return ()
    if settings.weights == "hub":
        folder = folder_of(settings.name)
        return () if folder is None else weight_files(folder)
    if is_url(settings.weights):
        raise WeightsError(
            f"weights {settings.weights} is a URL, but weights must be a local file",
            "download it, then use --weights FILE",
        )
    try:
        return (Path(settings.weights).expanduser(),)
    except RuntimeError:
        raise WeightsError(f"weights file {settings.weights} does not exist: there is no such user") from None


def file_exists(file: Path) -> bool:
    """Whether `file` is a file; WeightsError if it cannot be accessed."""
    with readable(file):
        return file.is_file()


def sha256(file: Path) -> str:
    """Hash of a file's bytes; WeightsError if it cannot be read."""
    with readable(file):
        return hashing.sha256(file)


def adjacent_record(file: Path) -> tuple[Path, ModelInfo] | None:
    """This toolkit's `model.json` next to a `model.safetensors`, with its content; None if there is none, or if another
    program wrote it. Raises RecordError if it is damaged."""
    record = file.with_name("model.json")
    if file.name != "model.safetensors" or not file_exists(record):
        return None
    with readable(record):
        text = strict_json.text_of(record)
    content = strict_json.parse(text, str(record))
    if not isinstance(content, dict) or not OUR_FIELDS & content.keys():
        return None
    return record, records.loads(ModelInfo, text, str(record))


def read_all(files: Sequence[Path]) -> dict[str, Tensor]:
    """All tensors of the files of one model."""
    return {name: tensor for file in files for name, tensor in read(file, shard=len(files) > 1).items()}


def read(file: Path, shard: bool = False) -> dict[str, Tensor]:
    """All tensors of a file. Names are prefixed by checkpoint entries: "state_dict/blocks.0.norm1.weight".

    shard: whether it may be one of several files of a model.
    """
    if format_of(file, shard) == "safetensors":
        try:
            with readable(file):
                return load_file(file)
        except (SafetensorError, ValueError, KeyError) as error:
            if dtypes := unsupported_dtypes(file):
                raise WeightsError(
                    f"{file} has tensors of dtype {', '.join(dtypes)}, which PyTorch does not support", SAVE_UNQUANTISED
                ) from error
            raise WeightsError(f"{file} is truncated or damaged", DOWNLOAD_AGAIN) from error
    content = _unpickled(file)
    tensors = dict(_tensors_in(content))
    if not tensors:
        raise WeightsError(f"{file} contains {_description(content)}, not a dict of tensors", SAVE_STATE_DICT)
    return tensors


def _description(content: object) -> str:
    if isinstance(content, Tensor):
        return f"a single tensor of shape {list(content.shape)}"
    types = {Mapping: "a dict of other values", list: "a list", tuple: "a list", str: "a string", int: "a number"}
    if isinstance(content, Mapping) and not content:
        return "an empty dict"
    return next((text for cls, text in types.items() if isinstance(content, cls)), f"a {type(content).__name__}")


def _unpickled(file: Path) -> object:
    """Content of a torch.save file: tensors, plain containers, and the harmless argparse.Namespace."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # the file is either read or refused with our own message
            with file.open("rb") as opened:  # given a path, torch would rely on the suffix
                return torch.load(opened, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise unsafe_file_error(file, _unsafe_names(file, error)) from error
    except Exception as error:  # a damaged or forged pickle may raise any class of error
        raise WeightsError(f"{file} is truncated or damaged", DOWNLOAD_AGAIN) from error


def _unsafe_names(file: Path, error: Exception) -> list[str]:
    """Names of the classes and functions that unpickling the file would call."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file))
    except Exception:  # supports only the zip-based format
        names = re.findall(r"GLOBAL ([\w.]+)", str(error))
    return sorted(set(names))


def _tensors_in(content: object, path: str = "", depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    """Tensors of a checkpoint with their prefixed names; other values are skipped."""
    if not isinstance(content, Mapping) or depth > MAX_DEPTH:
        return
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{path}{key}", value.detach()
        else:
            yield from _tensors_in(value, f"{path}{key}/", depth + 1)
