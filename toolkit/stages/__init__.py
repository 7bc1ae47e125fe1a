"""Stages of a run, one file each: inputs, outputs, and the summary for the user.

A stage calls the packages that do the work. The pipeline decides when a stage runs, and whether it has to.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import hashing, plugins, progress, records
from toolkit.errors import RecordError, ToolkitError
from toolkit.models import factories
from toolkit.recipe import Prune, Recipe
from toolkit.records import DENSE, SLIM
from toolkit.runfolder import RunFolder
from toolkit.section import PluginSection, Section

if TYPE_CHECKING:
    from rich.console import RenderableType

    from toolkit.dg.domains import Domains
    from toolkit.dg.image_check import CheckedImages
    from toolkit.dg.pictures import Pictures
    from toolkit.models.model import Model

PRUNED, FINETUNED, PARITY = "pruned", "finetuned", "parity"
"""Result folder names; the dense model's is `DENSE`."""
IMAGE_CHECK = ".work/images.json"
"""File in the run folder with the results of decoding every image once."""
MODELS = {DENSE: DENSE, SLIM: FINETUNED}
"""Result folders of the models that are exported, measured and compared."""


def _ignore(line: str) -> None:
    """Discard a message."""


def _nothing(error: ToolkitError) -> bool:
    """Tolerate no error."""
    return False


@dataclass(frozen=True)
class Output:
    """One result folder of a stage, up to date while the hashes of its inputs are unchanged."""

    result: str
    inputs: Mapping[str, str]
    make: Callable[[Path], None]
    """Fills a new, empty folder."""
    notes: tuple[str, ...] = ()
    """Messages printed before it is made."""
    again: str = ""
    """Reason to make it again although its inputs are unchanged."""
    tolerates: Callable[[ToolkitError], bool] = _nothing
    """Called with the error that making it ended with; True: the stage notes it, and the other results are made."""


@dataclass
class Run:
    """A recipe and the folder of its results."""

    recipe: Recipe
    folder: RunFolder
    progress: Callable[[str], AbstractContextManager[progress.Progress]] = progress.display
    """Opens a progress display with a title."""
    dry_run: bool = False
    """Read-only: not even the image check is stored."""
    tell: Callable[[str], None] = _ignore
    """Prints a message about the data."""

    def __post_init__(self) -> None:
        factories.allow(self.recipe.model.name)

    @cached_property
    def domains(self) -> Domains:
        """The dataset without unreadable files, summarised for the user on first access.

        Every file is decoded once, and again only after a change, or if opening or reading it later failed.
        """
        from toolkit.dg.broken import checked_domains
        from toolkit.dg.summary import lines_of, summarise

        stored, display = self._image_check(), partial(self.progress, "checking images")
        domains, check = checked_domains(self.recipe.data, self.recipe.seed, stored, display)
        if check is not stored and not self.dry_run:
            self.folder.write_text(IMAGE_CHECK, records.dumps(check))
        for line in lines_of(summarise(domains)):
            self.tell(f"data: {line}")
        return domains

    def pictures(self, folder: str) -> Pictures:
        """The pictures of a folder without labels, each decoded once."""
        from toolkit.dg.left_out import by_reason, descriptions
        from toolkit.dg.pictures import checked_pictures

        stored, display = self._image_check(), partial(self.progress, "checking pictures")
        pictures, check = checked_pictures(folder, self.recipe.data, self.recipe.seed, stored, display)
        if check is not stored and not self.dry_run:
            self.folder.write_text(IMAGE_CHECK, records.dumps(check))
        for line in (f"{len(pictures.images):,} without labels", *descriptions(by_reason(pictures.left_out))):
            self.tell(f"pictures: {line}")
        return pictures

    def _image_check(self) -> CheckedImages:
        """The results that earlier commands stored; empty if there are none that can be read and apply."""
        from toolkit.dg.image_check import CheckedImages, empty_check

        empty = empty_check(self.recipe.data.background)
        try:
            stored = records.load(CheckedImages, self.folder.path / IMAGE_CHECK)
        except RecordError:
            return empty
        return stored if stored.conversion == empty.conversion else empty

    def discard_image_check(self) -> None:
        """Make the next command decode every image again."""
        (self.folder.path / IMAGE_CHECK).unlink(missing_ok=True)

    def with_prune(self, settings: Prune) -> Run:
        """The run with other settings of `prune`; what was read of its data is shared."""
        other = copy.copy(self)
        other.recipe = self.recipe.model_copy(update={"prune": settings})
        return other

    @cached_property
    def outline(self) -> Model:
        """The dense model on the meta device, with two classes; BadInput for one that a later stage cannot handle."""
        from toolkit.models.build import outline

        return outline(self.recipe.model, ("one", "other"))

    @property
    def has_dense(self) -> bool:
        """Whether there is a dense model of these model settings; its data or training may be out of date."""
        dense = self.folder.stage(DENSE)
        return dense is not None and dense.inputs.get("model") == hash_of(self.recipe.model)

    def images_of(self, result: str) -> str:
        """Hash of a finished model's preprocessing, which results depend on besides its weights."""
        prepared = self.folder.read(result, "model.json", records.ModelInfo).preprocessing
        return hashing.digest(asdict(replace(prepared, origin="")))

    def identity_of(self, result: str) -> str:
        """Hash of a finished model: of its weights, and of how it merges tokens."""
        return self.folder.read(result, "model.json", records.ModelInfo).identity


class Stage:
    """Base class of the stages: `name` is its command, `needs` are the stages whose results it reads."""

    name: str
    needs: Sequence[str] = ()
    page: str = ""
    """A file that is written every time."""

    def check(self, run: Run) -> None:
        """Raise BadInput for invalid settings, before data are read or anything is made."""

    def check_data(self, run: Run) -> None:
        """Raise BadInput for settings that do not match the data, before anything is made."""

    def outputs(self, run: Run) -> list[Output]:
        """The stage's results; called when the stages it needs are finished."""
        raise NotImplementedError

    def planned(self, run: Run) -> Sequence[str]:
        """Names of the results for --dry-run, as far as they are known before the stages it needs are finished."""
        return [self.name]

    def packages(self, run: Run) -> Sequence[str]:
        """Packages that its plug-ins need, by module name."""
        return run.recipe.needs([self.name])

    def write_page(self, run: Run) -> None:
        """Write `page`, if there is one."""

    def record(self, run: Run) -> object:
        """The record that --json prints."""
        raise NotImplementedError

    def summary_lines(self, run: Run) -> list[str]:
        """Summary of the result for the user, line by line."""
        return []

    def table(self, run: Run) -> RenderableType | None:
        """A table of the results, which the command ends with; None for a summary only."""
        return None

    def failure(self, run: Run) -> ToolkitError | None:
        """The check that the result fails, or None. Later stages still run; the command ends with its exit code."""
        return None


def inputs_of(name: str, settings: PluginSection) -> dict[str, str]:
    """Inputs of a result that a section determines: its hash, and the versions of what its plug-ins need."""
    return {name: hash_of(settings), **plugins.versions(settings.needs())}


def hash_of(settings: Section) -> str:
    """Hash of a section of the recipe and of the settings of the plug-ins that it names, and of no others."""
    shared = settings.model_dump(mode="json", include=set(type(settings).model_fields))
    own = settings.chosen() if isinstance(settings, PluginSection) else {}
    return hashing.digest(shared | {name: chosen.model_dump(mode="json") for name, chosen in own.items()})
