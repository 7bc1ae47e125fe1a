"""One file per stage of a run: what it is made from, how it is made, and what it says when it is done.

A stage knows its own inputs and output, and the rooms that do the work. When it runs, in what order and whether it must
is the pipeline's part.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from toolkit import hashing, progress, records
from toolkit.errors import ToolkitError
from toolkit.recipe import Recipe
from toolkit.records import DENSE, SLIM
from toolkit.runfolder import RunFolder

if TYPE_CHECKING:
    from toolkit.dg.domains import Domains

PRUNED, FINETUNED, PARITY = "pruned", "finetuned", "parity"
"""Results of the stages, as folders of the run; the dense model's is named as the model."""
MODELS = {DENSE: DENSE, SLIM: FINETUNED}
"""The models that are exported, measured and compared, and the results that hold them."""


@dataclass(frozen=True)
class Unit:
    """One result of a stage: a folder that is up to date while its inputs have these hashes."""

    result: str
    inputs: Mapping[str, str]
    make: Callable[[Path], None]
    """Fills a new, empty folder."""
    told: tuple[str, ...] = ()
    """What a person is told before, a line each."""


@dataclass
class Run:
    """A recipe and the folder of its results."""

    recipe: Recipe
    folder: RunFolder
    shown: Callable[[str], AbstractContextManager[progress.Progress]] = progress.shown
    """Who listens to the progress of a piece of work."""
    dry: bool = False
    """Only looked at: not even what was found out about the images is kept."""

    @cached_property
    def domains(self) -> Domains:
        """The data set without broken images; every file is decoded once, and again only when the files change."""
        from toolkit.dg.broken import find_broken, without_broken
        from toolkit.dg.domains import read_domains

        listed = read_domains(self.recipe.data, self.recipe.seed)
        name = f".work/images-{listed.fingerprint()[:16]}.json"
        broken = _names_in(self.folder.path / name)
        if broken is not None:
            return without_broken(listed, broken, self.recipe.data.skip_broken)
        with self.shown("checking images") as report:
            broken = find_broken(listed, report)
        found = without_broken(listed, broken, self.recipe.data.skip_broken)
        if not self.dry:
            self.folder.write_text(name, json.dumps(broken))
        return found

    def images_of(self, result: str) -> str:
        """Hash of how images are prepared for a finished model: what was made from equal weights may still differ."""
        prepared = self.folder.read(result, "model.json", records.ModelInfo).preprocessing
        return hashing.digest(asdict(replace(prepared, origin="")))

    def weights_of(self, result: str) -> str:
        """Hash of a finished model."""
        return self.folder.read(result, "model.json", records.ModelInfo).weights_sha256


class Stage:
    """What every stage has. `name` is its command, `needs` are the stages whose results it reads."""

    name: str
    needs: Sequence[str] = ()
    page: str = ""
    """A file that is quick to write, and written every time."""

    def check(self, run: Run) -> None:
        """Raise BadInput for settings that cannot be carried out; called before anything is made."""

    def units(self, run: Run) -> list[Unit]:
        """Its results. Called when the stages before are finished."""
        raise NotImplementedError

    def write_page(self, run: Run) -> None:
        """Write `page`, if there is one."""

    def record(self, run: Run) -> object:
        """What `--json` prints."""
        raise NotImplementedError

    def told(self, run: Run) -> list[str]:
        """What a person is told of the result, a line each."""
        return []

    def verdict(self, run: Run) -> ToolkitError | None:
        """A check that the result does not pass; later stages still run, the command ends with its exit code."""
        return None


def _names_in(file: Path) -> tuple[str, ...] | None:
    """A list of names in a JSON file, or None where there is no such file or list."""
    try:
        names = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if whole else None


def hash_of(settings: BaseModel) -> str:
    """Hash of a section of the recipe."""
    return hashing.digest(settings.model_dump(mode="json"))
