"""Folders that transformers' `save_pretrained` writes: `config.json`, and weights in one or several files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, TypeAlias

from toolkit import strict_json
from toolkit.errors import BadInput, WeightsError

Config: TypeAlias = dict[str, Any]
"""Unvalidated content of a JSON file."""

CONFIG = "config.json"
WHOLE, PICKLED = "model.safetensors", "pytorch_model.bin"
"""Names of a single weights file, preferred first."""
DOWNLOAD_AGAIN = "copy or download the folder again"


def folder_of(name: str) -> Path | None:
    """The folder that a model's name (`--model`) refers to; None for other names. The folder may not exist."""
    path = Path(name)
    if name.startswith((".", "~", os.sep)) or (os.sep in name and path.is_dir()) or (path / CONFIG).is_file():
        return path.expanduser()
    return None


def config_files(name: str) -> tuple[Path, ...]:
    """The config that a model of this name is built by; none for names that are no folders."""
    folder = folder_of(name)
    return () if folder is None else (folder / CONFIG,)


def config_of(folder: Path) -> Config:
    """Content of `config.json`; BadInput if it is missing or damaged."""
    return _mapping(folder / CONFIG)


def weight_files(folder: Path) -> tuple[Path, ...]:
    """The files with the weights; WeightsError if there are none, or if a shard is missing."""
    for name in (WHOLE, PICKLED):
        if (folder / name).is_file():
            return (folder / name,)
        if (index := folder / f"{name}.index.json").is_file():
            return _shards(index)
    raise WeightsError(f"{folder} contains no weights ({WHOLE})", "model.save_pretrained(FOLDER) writes them")


def _shards(index: Path) -> tuple[Path, ...]:
    names = _mapping(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise WeightsError(f"{index} does not list files by tensor", DOWNLOAD_AGAIN)
    files = sorted({index.parent / name for name in names.values()})
    if missing := [file.name for file in files if file.parent != index.parent or not file.is_file()]:
        raise WeightsError(f"{index.parent} lacks {', '.join(missing)}", DOWNLOAD_AGAIN)
    return tuple(files)


def _mapping(file: Path) -> Config:
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{file} does not exist", "model.save_pretrained(FOLDER) writes it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file} cannot be read: {error}", DOWNLOAD_AGAIN) from None
    try:
        content = strict_json.parse(text, str(file))
    except BadInput as error:
        raise BadInput(error.message, DOWNLOAD_AGAIN) from error
    if not isinstance(content, dict):
        raise BadInput(f"{file} does not contain settings", DOWNLOAD_AGAIN)
    return content
