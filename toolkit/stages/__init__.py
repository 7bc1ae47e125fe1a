"""One file per stage of a run: what it is made from, how it is made, and what it says when it is done.

A stage knows its own inputs and output, and the rooms that do the work. When it runs, in what order and whether it must
is the pipeline's part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from toolkit import hashing, progress, records
from toolkit.errors import RecordError, ToolkitError
from toolkit.recipe import Recipe
from toolkit.records import DENSE, SLIM
from toolkit.runfolder import RunFolder

if TYPE_CHECKING:
    from toolkit.dg.broken import ImageCheck
    from toolkit.dg.domains import Domains
    from toolkit.models.model import Model

PRUNED, FINETUNED, PARITY = "pruned", "finetuned", "parity"
"""Results of the stages, as folders of the run; the dense model's is named as the model."""
MODELS = {DENSE: DENSE, SLIM: FINETUNED}
"""The models that are exported, measured and compared, and the results that hold them."""


def _unheard(line: str) -> None:
    """For callers that do not listen."""


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
    tell: Callable[[str], None] = _unheard
    """Who is told, a line at a time, what was found in the data."""

    @cached_property
    def domains(self) -> Domains:
        """The data set without what cannot be read; told when it is first asked for. Every file is decoded once, and
        again only when the files change, when one could not be opened, or could not be read after all."""
        from toolkit.dg.broken import find_broken, without_broken
        from toolkit.dg.domains import read_domains
        from toolkit.dg.summary import lines_of, summarise

        data = self.recipe.data
        listed = read_domains(data, self.recipe.seed)
        name = f".work/images-{listed.files()[:16]}.json"
        check = _read_check(self.folder.path / name)
        known = check is not None
        if check is None:
            with self.shown("checking images") as report:
                check = find_broken(listed, report)
        found = without_broken(listed, check, data.skip_broken)
        if not self.dry and not known and check.lasts:
            self.folder.write_text(name, records.dumps(check))
        for line in lines_of(summarise(found)):
            self.tell(f"data: {line}")
        return found

    def doubt_images(self) -> None:
        """One could not be read although it had been: the next command decodes all of them again."""
        for file in (self.folder.path / ".work").glob("images-*.json"):
            file.unlink(missing_ok=True)

    @cached_property
    def outline(self) -> Model:
        """The dense model as shapes, for as many classes as any; BadInput for one that a later stage could not take."""
        from toolkit.models.build import outline

        return outline(self.recipe.model, ("one", "other"))

    @property
    def has_dense(self) -> bool:
        """Whether a dense model of these settings has been made; its data or training may still be out of date."""
        dense = self.folder.stage(DENSE)
        return dense is not None and dense.inputs.get("model") == hash_of(self.recipe.model)

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
        """Raise BadInput for settings that cannot be carried out; called before data are read or anything is made."""

    def check_data(self, run: Run) -> None:
        """Raise BadInput for settings that these data do not allow; called before anything is made."""

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


def _read_check(file: Path) -> ImageCheck | None:
    """What was found at an earlier command; None where there is nothing, or nothing that we can read."""
    from toolkit.dg.broken import ImageCheck

    try:
        return records.load(ImageCheck, file)
    except RecordError:
        return None


def hash_of(settings: BaseModel) -> str:
    """Hash of a section of the recipe."""
    return hashing.digest(settings.model_dump(mode="json"))
