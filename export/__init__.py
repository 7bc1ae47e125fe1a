"""Write a model as a file that a runtime opens. Every target is one file in this folder, found by its name.

Importing this package, or what builds engines in it, loads no torch: a device does it too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from toolkit import plugins
from toolkit.isolated import NativeLibrary
from toolkit.progress import Progress
from toolkit.records import Fusion, Lowered, Setting

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.prepare import Prepared

ENGINE_SETTINGS = (
    "gpus",
    "builder_level",
    "workspace_mib",
    "version_compatible",
    "hardware_compatible",
    "timing_cache",
)
OWN_SETTINGS = (*ENGINE_SETTINGS, "compile", "opset")
"""Settings that not every target reads; the first are for engines."""
INPUT, OUTPUT = "images", "logits"
"""Names of a graph's input and output."""


class HeadWidths(NamedTuple):
    """Widths of heads that a kernel takes."""

    multiple: int
    least: int
    equal: bool = True
    """Queries and values of a head are of one width."""


@dataclass(frozen=True)
class Abilities:
    """What a target can hold."""

    precisions: tuple[str, ...]
    opsets: tuple[int, int]
    """Lowest and highest ONNX operator set that it reads."""
    opset: int
    """The one it reads best."""
    attention: tuple[str, ...]
    """Forms of attention that it runs, the fastest first."""
    at_load: tuple[str, ...] = ()
    """Precisions that the runtime chooses when it loads the file; the graph stays float32."""
    symmetric: bool = False
    """Wants int8 activations around zero."""
    int8_within: str = "fp32"
    """Precision of what is not quantised in int8."""
    any_image_size: bool = False
    """Runs files whose images' height and width are free."""
    all_rows_in_fixed_batches: bool = False
    """Its compiler fails on attention with fewer queries than keys, unless the batch is free."""
    fused_heads: HeadWidths | None = None
    """What its fused attention takes in fp16 and bf16; None: any."""
    custom_heads: HeadWidths | None = None
    """What its kernel for the custom node takes."""
    tokens_multiple: int = 1
    """Its matrix products are slower for some numbers of rows, but for no multiple of this."""
    linear_patches: bool = False
    """It is faster with a patch embedding that is a linear layer than with a convolution."""
    lacking: dict[str, str] = field(default_factory=dict)
    """Why there is no such precision or form of attention."""


@dataclass(frozen=True)
class Written:
    """What a target has put into a folder."""

    file: str
    also: tuple[str, ...] = ()
    """Files that belong to it: weights beside a graph, the list of an engine's layers."""
    built_with: tuple[str, ...] = ()
    """Packages that took part."""
    builder: dict[str, str] = field(default_factory=dict)
    """Library that opens the file only in this version: its module and what that says of itself."""
    notes: tuple[str, ...] = ()
    """What a user should know."""
    difference: float | None = None
    """Largest difference of a logit from torch's, where the file could be run."""
    fusion: tuple[Fusion, ...] = ()
    """What became of every block's attention."""
    lowered: Lowered | None = None
    """What a precision costs that the runtime chooses when it loads the file."""
    options: dict[str, Setting] = field(default_factory=dict)
    """What was chosen that only this target knows."""
    architecture: str | None = None


class Target(Protocol):
    """A file format that a model can be written in."""

    runtime: str
    """Name of the runtime that opens what this target writes."""
    reads: tuple[str, ...] = ("opset",)
    """Those of OWN_SETTINGS that change what it writes."""

    def abilities(self) -> Abilities:
        """Raises MissingDependency, with what to install, where the target's own library is not there."""
        ...

    def guest(self, hint: str) -> NativeLibrary:
        """The library, with its version, that runs what this target writes; `hint`: what to do when it dies."""
        ...

    def check(self, options: recipe.Export) -> None:
        """Raise BadInput for settings that only this target knows about and cannot carry out."""
        return

    def check_runs_here(self, options: recipe.Export) -> None:
        """Raise what opening the file on this machine would raise, as far as it is known before there is one:
        WrongMachine, DeviceUnreachable, MissingDependency."""
        return

    def depends_on(self, options: recipe.Export) -> dict[str, str]:
        """What decides what is written besides model and options: libraries and hardware that it only works with."""
        return {}

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, report: Progress) -> Written:
        """Write the file into the folder `out`; run it where this machine can, and compare it with torch.

        Raises CheckFailed when the numbers are not torch's.
        """
        ...


def target(name: str) -> Target:
    """The target of that name; UnknownName says which there are."""
    found: Target = plugins.load(__name__, name)
    return found
