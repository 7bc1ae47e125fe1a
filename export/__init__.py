"""Exported model files. Every target is one file in this folder, found by its name.

Importing this package, or the modules that build engines, loads no torch: devices import them too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from toolkit import plugins
from toolkit.export.capabilities import Capabilities
from toolkit.isolated import NativeLibrary
from toolkit.progress import Progress
from toolkit.records import BatchRange, EngineTraits, Fusion, Lowered

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.prepare import Prepared
    from toolkit.section import Section

KIND = "target"


@dataclass(frozen=True)
class Written:
    """Result of writing a model into a folder."""

    file: str
    extra_files: tuple[str, ...] = ()
    """Files that belong to it: external weights, the list of an engine's layers."""
    built_with: dict[str, str] = field(default_factory=dict)
    """Versions that libraries report at run time, by module name; other modules get their package's version."""
    notes: tuple[str, ...] = ()
    """Notes for the user."""
    difference: float | None = None
    """Largest absolute difference of a logit from PyTorch's; None: the file was not run."""
    fusion: tuple[Fusion, ...] = ()
    """Fusion status of every block's attention."""
    lowered: Lowered | None = None
    """Accuracy in a precision that the runtime applies when it loads the file."""
    batch: BatchRange | None = None
    """Batch sizes, if the file does not accept all of the graph's."""
    compiled: bool = False
    """Whether the file contains machine code from PyTorch's compiler."""
    engine: EngineTraits | None = None
    graph_difference: float | None = None
    """`difference` of the graph that the file was built from, for a file that was not run."""
    architecture: str | None = None


class Target(Protocol):
    """A file format that a model can be exported to."""

    flag: str
    """Its flag of `toolkit export`: "trt" is --trt."""
    help: str
    """Help text of the flag."""
    runtime: str
    """Name of the runtime that opens its files."""
    needs: tuple[str, ...]
    """Packages that it needs to write files, besides torch and timm; the artifact records their versions."""
    runs_with: tuple[str, ...] = ()
    """Packages needed to run its files, besides those that the runtime needs."""

    def capabilities(self) -> Capabilities:
        """Raises MissingDependency, with what to install, if the target's library is not installed."""
        ...

    def native_library(self, hint: str) -> NativeLibrary:
        """The library, with its version, that runs the files; `hint`: what to do if it crashes."""
        ...

    def check(self, options: recipe.Export) -> None:
        """Raise BadInput if the target's own settings cannot be applied."""
        return

    def check_runs_here(self, options: recipe.Export) -> None:
        """Raise what opening the file on this machine would raise, as far as is known before it is written:
        WrongMachine, DeviceUnreachable, MissingDependency."""
        return

    def depends_on(self) -> dict[str, str]:
        """Dependencies of the output besides model and settings: versions of the libraries that it needs, hardware."""
        return plugins.versions(self.needs)

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, progress: Progress) -> Written:
        """Write the file into the folder `out`; run it if this machine can, and compare its logits with PyTorch's.

        Raises CheckFailed if they differ.
        """
        ...


def target(name: str, own: Section | None = None) -> Target:
    """The target of this name with its own settings (None: its defaults); UnknownName lists the existing ones."""
    plugin: Target = plugins.load(__name__, name, own)
    return plugin
