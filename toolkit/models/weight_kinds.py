"""What a file given as weights is, by what it holds and not by its name.

Two kinds can be read. The others are named with what to do: often one command that makes a file of plain tensors.
None of them is opened here, as pickles, TorchScript and exported programs run code when they are.
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

Kind = Literal["safetensors", "torch"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Usual names of files of weights, in a folder."""
ANOTHER = "give a safetensors file, or one that torch.save has written"
UNPACK = "unpack it and give the file of weights inside"
AGAIN = "copy or download it again"
PLAIN = "save the state_dict of the model before it was quantised or made sparse"
READ_FORMATS = frozenset((
    "BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64", "F16", "BF16", "F32", "F64", "C64",
    "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "F8_E8M0",
))  # fmt: skip
"""Safetensors' names of the number formats that there are in PyTorch."""
MADE_BY_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How files of torch before 1.6 begin; later ones are zip archives."""
HEAD = 300
"""Bytes that tell a kind."""

_MARKS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a git-lfs pointer, not the file itself", "`git lfs pull` fetches it"),
    (0, b"\x89HDF\r\n", "an HDF5 file, as Keras writes", ANOTHER),
    (0, b"\x93NUMPY", "a single NumPy array", ANOTHER),
    (0, b"GGUF", "a GGUF file", ANOTHER),
    (4, b"TFL3", "a TensorFlow Lite file", ANOTHER),
    (0, b"\x1f\x8b", "compressed with gzip", UNPACK),
    (0, b"BZh", "compressed with bzip2", UNPACK),
    (0, b"\xfd7zXZ", "compressed with xz", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    (0, b"7z\xbc\xaf", "a 7z archive", UNPACK),
    (0, b"Rar!", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
)
"""Where a format's mark stands, the mark, what such a file is, and what to do."""

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
_PART = re.compile(r"-\d{5}-of-(?!00001)\d{5}\.")
"""In the name of one file of several: model-00001-of-00002.safetensors."""


@contextmanager
def readable(file: Path) -> Iterator[None]:
    """WeightsError naming the file where the system refuses to look at it or to read it."""
    try:
        yield
    except OSError as error:
        raise WeightsError(f"{file} cannot be read: {os.strerror(error.errno or errno.EIO)}", ANOTHER) from error


def kind_of(file: Path) -> Kind:
    """The kind of a file that can be read; WeightsError for all else."""
    with readable(file):
        return _kind_of(file)


def _kind_of(file: Path) -> Kind:
    if file.is_dir():
        raise _folder(file)
    head = _head(file)
    if _PART.search(file.name):
        raise WeightsError(f"{file} is one of several files that belong together", _joined(file.parent) or ANOTHER)
    if head[8:9] == b"{":
        return "safetensors"
    if head.startswith(b"PK"):
        _check_archive(file)
    elif head[:1] == b"\x80":
        if not MADE_BY_OLD_TORCH.startswith(head[: len(MADE_BY_OLD_TORCH)]):
            said = f"{file} is a pickle that torch.save has not written, and opening it could run code"
            raise WeightsError(said, _trusted(_BY_PICKLE, file))
    else:
        what, mend = _described(file, head)
        raise WeightsError(f"{file} is {what}", mend)
    return "torch"


def unread_formats(file: Path) -> list[str]:
    """Number formats that a safetensors file names and PyTorch has not."""
    try:
        with file.open("rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        found = {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError):  # damaged
        return []
    return sorted(str(each) for each in found - READ_FORMATS)


def with_code(file: Path, names: Sequence[str]) -> WeightsError:
    """The error for a file of torch's that holds objects of these classes, or calls these functions."""
    held = f"it also holds {listed(names)}" if names else "it holds more than these"
    return WeightsError(
        f"{file} cannot be read as plain tensors: {held}, and unpickling that could run code", _trusted(_BY_TORCH, file)
    )


def _head(file: Path) -> bytes:
    """The first bytes of a file that can be read."""
    if not file.exists():
        what = "is a link to nothing" if file.is_symlink() else "does not exist"
        raise WeightsError(f"weights file {file} {what}", 'give a file, "hub" or "none"')
    if not file.is_file():
        raise WeightsError(f"{file} is not a file", ANOTHER)
    with file.open("rb") as opened:
        head = opened.read(HEAD)
    if not head:
        raise WeightsError(f"{file} is empty", AGAIN)
    return head


def _folder(folder: Path) -> WeightsError:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    whole = [path.name for path in found if not _PART.search(path.name)]
    mend = f"give one of its files: {', '.join(whole[:5])}" if whole else _joined(folder) or ANOTHER
    if len(whole) == 1:
        mend = f"give the file in it: --weights {shlex.quote(str(folder / whole[0]))}"
    return WeightsError(f"{folder} is a folder", mend)


def _joined(folder: Path) -> str:
    """How to join the safetensors files that belong together in a folder; empty if there are none."""
    parts = sorted(path for path in folder.glob("*.safetensors") if _PART.search(path.name))
    return f"join them: {_command(_JOIN, folder / 'joined.safetensors', *parts)}" if parts else ""


def _check_archive(file: Path) -> None:
    """WeightsError for a zip archive that is not torch.save's."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise WeightsError(f"{file} is truncated or damaged", AGAIN) from error
    inside = {name.partition("/")[2] or name for name in names}
    if "constants.pkl" in inside:
        said = f"{file} is a TorchScript program, which runs code when it is opened"
        raise WeightsError(said, _trusted(_FROM_SCRIPT, file))
    if any("archive_format" in name or "serialized_exported_program" in name for name in names):
        raise WeightsError(f"{file} is a torch.export program", _trusted(_FROM_EXPORT, file))
    if names and all(name.endswith(".npy") for name in names):
        how = _command(_FROM_NPZ, file, _beside(file), "MODEL")
        said = f"{file} is a NumPy archive, as the authors of ViT publish"
        raise WeightsError(said, f"timm reads it into a MODEL of its size: {how}")
    if "data.pkl" not in inside:
        raise WeightsError(f"{file} is a zip archive without weights of PyTorch", UNPACK)


def _described(file: Path, head: bytes) -> tuple[str, str]:
    """What a file is that torch and safetensors have not written, and what to do."""
    for at, mark, what, mend in _MARKS:
        if head[at:].startswith(mark):
            return what, mend
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        return "a web page, not weights", "download the file itself, by its raw or resolve link"
    if start.startswith(b"{"):
        return "JSON, not weights", _joined(file.parent) or ANOTHER
    if file.suffix.lower() == ".onnx" or (head[:1] == b"\x08" and head[2:3] == b"\x12"):
        return "an ONNX model, which cannot be trained", "give the weights it was exported from"
    return "neither safetensors nor a PyTorch file", ANOTHER


def _beside(file: Path) -> Path:
    """Where a converted copy goes."""
    return file.with_name(f"{file.name.partition('.')[0]}-clean.pth")


def _trusted(program: str, file: Path) -> str:
    how = _command(program, file, _beside(file))
    return f"if you trust where it comes from, this opens it and writes the tensors alone: {how}"


def _command(program: str, *words: Path | str) -> str:
    return " ".join(["python", "-c", f'"{program}"', *(shlex.quote(str(word)) for word in words)])
