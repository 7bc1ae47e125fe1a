"""Find plug-ins by file name.

A plug-in is one file in a folder: `toolkit/prune/criteria/magnitude_l1.py` is the criterion `magnitude-l1`, and ends
with `PLUGIN: Criterion = ...`. `NEEDS = ("package",)` lists packages that it imports later, or in another process.
Listing names reads the folder and imports nothing, so help and completion stay fast.
"""

from __future__ import annotations

import importlib
import importlib.util
import keyword
import re
from pathlib import Path
from typing import Any

from toolkit.errors import MissingDependency, UnknownName

_PLUGIN_LINE = re.compile(r"^PLUGIN\b", re.MULTILINE)
"""Matches the definition of PLUGIN; files without it are shared code."""


def names(package: str) -> list[str]:
    """Sorted names of the plug-ins in `package` ("toolkit.prune.criteria"), without importing them."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.submodule_search_locations is None:
        raise ValueError(f"{package} is not a package")
    files = [file for folder in spec.submodule_search_locations for file in Path(folder).glob("*.py")]
    return sorted(_name(file.stem) for file in files if _PLUGIN_LINE.search(file.read_text(encoding="utf-8")))


def load(package: str, name: str) -> Any:
    """The `PLUGIN` called `name` in `package`.

    Raises UnknownName with the closest names, or MissingDependency for a package that is not installed.
    """
    known = names(package)
    if name not in known:
        raise UnknownName(kind_of(package), name, known)
    try:
        module = importlib.import_module(f"{package}.{_file(name)}")
        for package_name in getattr(module, "NEEDS", ()):
            if importlib.util.find_spec(package_name) is None:
                raise ModuleNotFoundError(name=package_name)
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing in ("", "toolkit"):
            raise
        raise MissingDependency(
            f"{kind_of(package)} {name!r} needs the package {missing!r}, which is not installed",
            f"pip install {missing.replace('_', '-')}",
        ) from error
    return module.PLUGIN


def kind_of(package: str) -> str:
    """What a plug-in in this package is called: toolkit.prune.criteria -> criterion."""
    folder = package.rsplit(".", 1)[-1]
    return {"criteria": "criterion", "compensate": "compensation", "bases": "basis", "export": "target"}.get(
        folder, folder.removesuffix("s")
    )


def _name(file: str) -> str:
    return file.rstrip("_").replace("_", "-")


def _file(name: str) -> str:
    file = name.replace("-", "_")
    return f"{file}_" if keyword.iskeyword(file) else file
