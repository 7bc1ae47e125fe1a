"""Installed TensorRT libraries, and one table of the features of their versions."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from toolkit.errors import BadInput, MissingDependency, plainly

PACKAGES = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
"""Target name to the module that builds and loads its engines."""


AMPERE = "sm_80"
"""Lowest architecture of hardware-compatible engines."""


@dataclass(frozen=True)
class Features:
    """Features of a library version."""

    opset: int
    """Highest ONNX opset of its parser."""
    typing_flag: bool
    """Strongly typed networks need a flag; in later versions all networks are strongly typed."""
    ampere_plus: bool = True
    """Can build engines for all GPUs from Ampere on."""
    plugins: bool = False
    """Supports plugins compiled ahead of time (`quick_plugin`)."""
    timing_cache: bool = True
    """Times kernels while building. TensorRT for RTX compiles kernels when the engine is loaded."""
    architectures: tuple[str, ...] = ()
    """GPU architectures that it cross-compiles for; empty: only the installed GPU."""


RTX = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120")
TABLE: Mapping[str, Mapping[tuple[int, int], Features]] = {
    "tensorrt": {
        (10, 3): Features(opset=20, typing_flag=True),
        (10, 9): Features(opset=20, typing_flag=True, plugins=True),
        (10, 14): Features(opset=23, typing_flag=True, plugins=True),
        (11, 0): Features(opset=23, typing_flag=False, plugins=True),
    },
    "tensorrt_rtx": {
        (1, 0): Features(opset=20, typing_flag=True, ampere_plus=False, timing_cache=False, architectures=RTX),
        (1, 7): Features(
            opset=23, typing_flag=True, ampere_plus=False, timing_cache=False, architectures=(*RTX, "sm_121")
        ),
    },
}
"""Features by package and minimum version."""


@dataclass(frozen=True)
class Library:
    """An installed TensorRT or TensorRT for RTX."""

    package: str
    features: Features

    @property
    def module(self) -> Any:
        return importlib.import_module(self.package)

    @property
    def version(self) -> str:
        return str(self.module.__version__)


def library(target: str) -> Library:
    """The library of a target; MissingDependency, with what to install, if it cannot be imported.

    It is imported for its version, which can differ from that in the package's metadata; nothing is initialised.
    """
    package = PACKAGES[target]
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise MissingDependency(
            f"the target {target!r} needs {package}, which cannot be imported: {plainly(error)}", _INSTALL[target]
        ) from error
    return Library(package, features_of(package, str(module.__version__)))


_INSTALL = {
    "tensorrt": "pip install 'vit-toolkit[tensorrt]' on the machine whose GPU will run the engine; "
    "`toolkit export --rtx` builds engines for RTX GPUs on any machine (pip install 'vit-toolkit[rtx]')",
    "rtx": "pip install 'vit-toolkit[rtx]'",
}


def features_of(package: str, version: str) -> Features:
    """The row of `TABLE` for a version; BadInput if it is older than all rows."""
    match = re.match(r"(\d+)\.(\d+)", version)
    number = (int(match[1]), int(match[2])) if match else (0, 0)
    applicable = [minimum for minimum in TABLE[package] if minimum <= number]
    if not applicable:
        oldest = ".".join(map(str, min(TABLE[package])))
        raise BadInput(f"{package} {version} is too old", f"install {oldest} or newer")
    return TABLE[package][max(applicable)]
