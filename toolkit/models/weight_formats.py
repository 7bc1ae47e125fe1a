"""Detect the format of a weights file from its content, not from its name.

Two formats can be read. Others are refused by name with a hint, often a command that converts the file to plain
tensors. Nothing is unpickled or loaded here, since pickles, TorchScript and exported programs execute code on loading.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from toolkit.characters import listed
from toolkit.errors import WeightsError

Format = Literal["safetensors", "torch"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Common suffixes of weights files."""
OTHER_FILE = "use a safetensors file, or one written by torch.save"
UNPACK = "unpack it and use the weights file inside"
DOWNLOAD_AGAIN = "copy or download it again"
SAVE_UNQUANTISED = "save the state_dict of the model before quantisation or sparsification"
SUPPORTED_DTYPES = frozenset((
    "BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64", "F16", "BF16", "F32", "F64", "C64",
    "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0",
))  # fmt: skip
"""Safetensors' names of the dtypes that PyTorch supports."""
LEGACY_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""First bytes of files saved before torch 1.6; later ones are zip archives."""
HEAD_BYTES = 300
"""Number of first bytes that are read to detect the format."""

_MAGIC_BYTES: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a git-lfs pointer, not the file itself", "run `git lfs pull`"),
    (0, b"\x89HDF\r\n", "an HDF5 file, as written by Keras", OTHER_FILE),
    (0, b"\x93NUMPY", "a single NumPy array", OTHER_FILE),
    (0, b"GGUF", "a GGUF file", OTHER_FILE),
    (4, b"TFL3", "a TensorFlow Lite file", OTHER_FILE),
    (0, b"\x1f\x8b", "compressed with gzip", UNPACK),
    (0, b"BZh", "compressed with bzip2", UNPACK),
    (0, b"\xfd7zXZ", "compressed with xz", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    (0, b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
)
"""Offset and magic bytes of a format, its description, and a hint."""

_FROM_PICKLE = (
    "import pathlib, pickle, sys, torch; "
    "state = lambda x: x.state_dict() if hasattr(x, 'state_dict') else x; "
    "plain = lambda x: torch.is_tensor(x) or isinstance(x, dict) and all(map(torch.is_tensor, x.values())); "
    "held = state({load}); "
    "torch.save({{k: s for k, v in held.items() if plain(s := state(v))}}, sys.argv[2])"
)
_BY_TORCH = _FROM_PICKLE.format(load="torch.load(sys.argv[1], 'cpu', weights_only=False)")
_BY_PICKLE = _FROM_PICKLE.format(load="pickle.loads(pathlib.Path(sys.argv[1]).read_bytes())")
_FROM_SCRIPT = "import sys, torch; torch.save(dict(torch.jit.load(sys.argv[1], 'cpu').state_dict()), sys.argv[2])"
_FROM_EXPORT = "import sys, torch; torch.save(dict(torch.export.load(sys.argv[1]).state_dict), sys.argv[2])"
_FROM_NPZ = (
    "import sys, timm, torch; "
    "torch.save(timm.create_model(sys.argv[3], checkpoint_path=sys.argv[1]).state_dict(), sys.argv[2])"
)
_JOIN = (
    "import sys; from safetensors.torch import load_file, save_file; "
    "save_file({k: v for part in sys.argv[2:] for k, v in load_file(part).items()}, sys.argv[1])"
)
_SHARD = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.")
"""Matches names of sharded files: model-00001-of-00002.safetensors."""


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """Turn OSError into a WeightsError that names the file."""
    try:
        yield
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {os.strerror(error.errno or errno.EIO)}", OTHER_FILE) from error


def format_of(file: Path, shard: bool = False) -> Format:
    """The format of a file; WeightsError if it cannot be read, or is one of several and not a `shard`."""
    with readable(file):
        return _format_of(file, shard)


def _format_of(file: Path, shard: bool) -> Format:
    if file.is_dir():
        raise _folder_error(file)
    head = _head(file)
    if not shard and _SHARD.search(file.name):
        raise WeightsError(f"{file} is one shard of several", _join_hint(file.parent) or OTHER_FILE)
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith(b"PK"):
        _check_archive(file)
    elif head[:1] == b"\x80":
        if not LEGACY_TORCH_MAGIC.startswith(head[: len(LEGACY_TORCH_MAGIC)]):
            message = f"{file} is a pickle that was not written by torch.save, and loading it could execute code"
            raise WeightsError(message, _conversion_hint(_BY_PICKLE, file))
    else:
        description, hint = _description(file, head)
        raise WeightsError(f"{file} is {description}", hint)
    return "torch"


def unsupported_dtypes(file: Path) -> list[str]:
    """Dtypes of a safetensors file that PyTorch does not support."""
    try:
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        dtypes = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):  # damaged
        return []
    return sorted(str(dtype) for dtype in dtypes - SUPPORTED_DTYPES)


def unsafe_file_error(file: Path, names: Sequence[str]) -> WeightsError:
    """The error for a torch.save file with objects of these classes, or calls of these functions."""
    contents = f"it also contains {listed(names)}" if names else "it also contains other objects"
    return WeightsError(
        f"{file} cannot be read as plain tensors: {contents}, and unpickling could execute code",
        _conversion_hint(_BY_TORCH, file),
    )


def _head(file: Path) -> bytes:
    """The first bytes of a file; WeightsError if it is missing, empty or not a file."""
    if not file.exists():
        problem = "is a broken link" if file.is_symlink() else "does not exist"
        raise WeightsError(f"weights file {file} {problem}", 'use a file, "hub" or "none"')
    if not file.is_file():
        raise WeightsError(f"{file} is not a file", OTHER_FILE)
    with file.open("rb") as opened:
        head = opened.read(HEAD_BYTES)
    if not head:
        raise WeightsError(f"{file} is empty", DOWNLOAD_AGAIN)
    return head


def _folder_error(folder: Path) -> WeightsError:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    whole = [path.name for path in files if not _SHARD.search(path.name)]
    hint = f"use one of its files: {', '.join(whole[:5])}" if whole else _join_hint(folder) or OTHER_FILE
    if len(whole) == 1:
        hint = f"use the file in it: --weights {shlex.quote(str(folder / whole[0]))}"
    return WeightsError(f"{folder} is a folder", hint)


def _join_hint(folder: Path) -> str:
    """A command that joins the safetensors shards in a folder; empty if there are none."""
    shards = sorted(path for path in folder.glob("*.safetensors") if _SHARD.search(path.name))
    return f"join them: {_command(_JOIN, folder / 'joined.safetensors', *shards)}" if shards else ""


def _check_archive(file: Path) -> None:
    """Raise WeightsError for a zip archive that torch.save did not write."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise WeightsError(f"{file} is truncated or damaged", DOWNLOAD_AGAIN) from error
    inside = {name.partition("/")[2] or name for name in names}
    if "constants.pkl" in inside:
        message = f"{file} is a TorchScript program, which executes code when it is loaded"
        raise WeightsError(message, _conversion_hint(_FROM_SCRIPT, file))
    if any("archive_format" in name or "serialized_exported_program" in name for name in names):
        raise WeightsError(f"{file} is a torch.export program", _conversion_hint(_FROM_EXPORT, file))
    if names and all(name.endswith(".npy") for name in names):
        command = _command(_FROM_NPZ, file, _converted_path(file), "MODEL")
        message = f"{file} is a NumPy archive, as published by the authors of ViT"
        raise WeightsError(message, f"convert it with timm, where MODEL has the same architecture: {command}")
    if "data.pkl" not in inside:
        raise WeightsError(f"{file} is a zip archive without PyTorch weights", UNPACK)


def _description(file: Path, head: bytes) -> tuple[str, str]:
    """Description of an unsupported file, and a hint."""
    for offset, magic, description, hint in _MAGIC_BYTES:
        if head[offset:].startswith(magic):
            return description, hint
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        return "a web page, not weights", "download the file itself, from its raw or resolve URL"
    if start.startswith(b"{"):
        return "JSON, not weights", _join_hint(file.parent) or OTHER_FILE
    if file.suffix.lower() == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):
        return "an ONNX model, which cannot be trained", "use the weights it was exported from"
    return "neither safetensors nor a PyTorch file", OTHER_FILE


def _converted_path(file: Path) -> Path:
    """Path of a converted copy."""
    return file.with_name(f"{file.name.partition('.')[0]}-clean.pth")


def _conversion_hint(program: str, file: Path) -> str:
    command = _command(program, file, _converted_path(file))
    return f"if you trust its source, load it and save only the tensors: {command}"


def _command(program: str, *words: Path | str) -> str:
    return " ".join(["python", "-c", f'"{program}"', *(shlex.quote(str(word)) for word in words)])
