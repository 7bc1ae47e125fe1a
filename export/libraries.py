"""Which TensorRT is installed, and what its version can do: one table instead of questions all over the code."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.errors import BadInput, MissingDependency, plainly

PACKAGES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Target to the module that builds and loads its engines."""


AMPERE = "sm_80"
"""Oldest GPUs that an engine runs on which is for more than one kind."""


@dataclass(frozen=True)
class Version:
    """What a version of a library can do and wants to be asked for."""

    opset: int
    """Highest ONNX operator set that its parser reads."""
    typing_flag: bool
    """Strong typing must be asked for; later it is the only way."""
    ampere_plus: bool = True
    """Builds engines that run on all GPUs from Ampere on."""
    plugins: bool = False
    """Takes plugins that are compiled ahead of time (`quick_plugin`)."""
    timing_cache: bool = True
    """Times kernels while it builds. TensorRT for RTX compiles them where the engine is loaded."""
    architectures: tuple[str, ...] = ()
    """GPUs that it builds for without having them; none: only for the GPU in the machine."""


RTX = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120")
TABLE: Mapping[str, Mapping[tuple[int, int], Version]] = {
    "tensorrt": {
        (10, 3): Version(opset=20, typing_flag=True),
        (10, 9): Version(opset=20, typing_flag=True, plugins=True),
        (10, 14): Version(opset=23, typing_flag=True, plugins=True),
        (11, 0): Version(opset=23, typing_flag=False, plugins=True),
    },
    "tensorrt_rtx": {
        (1, 0): Version(opset=20, typing_flag=True, ampere_plus=False, timing_cache=False, architectures=RTX),
        (1, 7): Version(
            opset=23, typing_flag=True, ampere_plus=False, timing_cache=False, architectures=(*RTX, "sm_121")
        ),
    },
}
"""Package and first version of it that is so."""


@dataclass(frozen=True)
class Library:
    """An installed TensorRT, whichever it is."""

    package: str
    can: Version

    @property
    def module(self) -> Any:
        return importlib.import_module(self.package)

    @property
    def version(self) -> str:
        return str(self.module.__version__)


def library(target: str) -> Library:
    """The library that builds for a target; MissingDependency, with what to install, where it cannot be imported.

    It is imported here for that and for its version, which a package's metadata may give with other digits; nothing of
    it is started.
    """
    package = PACKAGES[target]
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise MissingDependency(
            f"the target {target!r} needs {package}, which cannot be imported: {plainly(error)}", _HOW[target]
        ) from error
    return Library(package, version_of(package, str(module.__version__)))


_HOW = {
    "tensorrt": "pip install 'vit-toolkit[tensorrt]' on the machine that will run the engine (it needs its GPU); "
    "`toolkit export --rtx` builds engines for RTX GPUs on any machine (pip install 'vit-toolkit[rtx]')",
    "rtx": "pip install 'vit-toolkit[rtx]'",
}


def version_of(package: str, version: str) -> Version:
    """The row of `TABLE` for a version; BadInput for one older than all rows."""
    found = re.match(r"(\d+)\.(\d+)", version)
    number = (int(found[1]), int(found[2])) if found else (0, 0)
    known = [since for since in TABLE[package] if since <= number]
    if not known:
        oldest = ".".join(map(str, min(TABLE[package])))
        raise BadInput(f"{package} {version} is too old", f"install {oldest} or newer")
    return TABLE[package][max(known)]
