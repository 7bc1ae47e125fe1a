"""Write a model as a file that a runtime opens. Every file in this folder is one target and nothing else.

Importing this package loads no torch: listing the targets must stay fast.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from toolkit import plugins
from toolkit.records import Artifact

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.models.source import LoadedModel


class Target(Protocol):
    """A file format that a model can be written in."""

    runtime: str
    """Name of the runtime that opens what this target writes."""

    def export(self, model: LoadedModel, options: recipe.Export, out: Path) -> Artifact:
        """Write the file and its `artifact.json` into the folder `out`; the caller's module stays as it is.

        A target runs what it wrote where it can, and raises CheckFailed when the numbers are not torch's.
        """
        ...


def target(name: str) -> Target:
    """The target of that name; UnknownName says which there are."""
    found: Target = plugins.load(__name__, name)
    return found
