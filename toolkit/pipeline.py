"""The stages in order: what must run, what is up to date, and what a command ends with.

A command names a stage; the stages it needs run first, each only if an input has changed. A result that fails a check
(parity, a valid measurement) does not stop the stages after it; the first such failure is returned when all have run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from toolkit import records, resolve
from toolkit.errors import BadInput, DataError, InvalidMeasurement, StorageError, ToolkitError
from toolkit.records import Environment
from toolkit.stages import Run, Stage
from toolkit.stages.bench import Bench
from toolkit.stages.export import Export
from toolkit.stages.finetune import Finetune
from toolkit.stages.parity import Parity
from toolkit.stages.prune import Prune
from toolkit.stages.report import Report
from toolkit.stages.train import Train

STAGES: dict[str, Stage] = {
    stage.name: stage for stage in (Train(), Prune(), Finetune(), Export(), Parity(), Bench(), Report())
}
"""Every stage by its name, in the order in which they run."""


Tell = Callable[[str], None]
"""Says one line to a person."""


@dataclass(frozen=True)
class Step:
    """One result on the way to a stage, as `plan` foresees it."""

    stage: str
    result: str
    reason: str
    """Why it will be made; empty: it is up to date."""


def needed(names: Sequence[str]) -> list[Stage]:
    """The stages of these names and all that they need, in order."""
    wanted: set[str] = set()
    open_ = list(names)
    while open_:
        name = open_.pop()
        if name not in wanted:
            wanted.add(name)
            open_ += STAGES[name].needs
    return [stage for name, stage in STAGES.items() if name in wanted]


def plan(run: Run, names: Sequence[str], force: bool = False) -> list[Step]:
    """What `execute` would do now. What follows a stage that must run is expected to run too."""
    steps: list[Step] = []
    stale: set[str] = set()
    for stage in _checked(run, names):
        waits = sorted(stale.intersection(stage.needs))
        if waits:
            steps.append(Step(stage.name, stage.name, f"follows {', '.join(waits)}"))
            stale.add(stage.name)
            continue
        for unit in stage.units(run):
            reason = _reason(run, unit.result, unit.inputs, forced=force and stage.name in names)
            steps.append(Step(stage.name, unit.result, reason))
            if reason:
                stale.add(stage.name)
        if stage.page:
            steps.append(Step(stage.name, stage.page, "written every time"))
    return steps


def execute(
    run: Run, settings: resolve.Resolved, names: Sequence[str], *, force: bool, allow_invalid: bool, tell: Tell
) -> ToolkitError | None:
    """Bring the stages of these names up to date; `force` makes them again. Returns the first check that failed; with
    `allow_invalid`, a measurement that is INVALID is told and does not count as one."""
    from toolkit.bench.environment import capture

    failure: ToolkitError | None = None
    environment = capture()
    stages = _checked(run, names)
    with _settings_kept(run, settings, environment) as made:
        for stage in stages:
            for unit in stage.units(run):
                reason = _reason(run, unit.result, unit.inputs, forced=force and stage.name in names)
                if not reason:
                    tell(f"{stage.name}: {unit.result} is up to date")
                    continue
                for line in (f"making {unit.result} ({reason})", *unit.told):
                    tell(f"{stage.name}: {line}")
                with run.folder.writing(unit.result, unit.inputs) as out, _images_doubted(run):
                    unit.make(out)
                    records.save(environment, out / "environment.json")
                run.folder.end_work(unit.result)
                made.append(unit.result)
                run.folder.log("made", result=unit.result)
            stage.write_page(run)
            for line in stage.told(run):
                tell(f"{stage.name}: {line}")
            verdict = stage.verdict(run)
            if allow_invalid and isinstance(verdict, InvalidMeasurement):
                tell(f"{stage.name}: warning: {verdict.message}; {verdict.hint}")
            else:
                failure = failure or verdict
    return failure


@contextmanager
def _images_doubted(run: Run) -> Iterator[None]:
    """An image that cannot be read now, although it could when it was checked, is not believed again."""
    try:
        yield
    except DataError:
        run.doubt_images()
        raise


def _checked(run: Run, names: Sequence[str]) -> list[Stage]:
    """The stages that are needed; what is wrong with any one's settings is said before the first makes anything."""
    stages = needed(names)
    for stage in stages:
        stage.check(run)
    for stage in stages:
        stage.check_data(run)
    return stages


@contextmanager
def _settings_kept(run: Run, settings: resolve.Resolved, environment: Environment) -> Iterator[list[str]]:
    """The run folder remembers the settings it is being made with, unless bad input ends the command before a result
    is made. Gives the list in which results that are made are noted."""
    files = {
        "recipe.yaml": resolve.as_yaml(settings.recipe),
        resolve.FLAGS_FILE: settings.remember(),
        "environment.json": records.dumps(environment),
    }
    if settings.file and settings.file.resolve() == (run.folder.path / "recipe.yaml").resolve():
        del files["recipe.yaml"]  # it is what was read, and may be somebody's own
    made: list[str] = []
    before = {name: path.read_text() if (path := run.folder.path / name).exists() else None for name in files}
    try:
        for name, text in files.items():
            run.folder.write_text(name, text)
        yield made
    except BadInput as error:
        if not made and not isinstance(error, StorageError):  # with room on the disk the same settings go on
            _put_back(run, before)
        raise


def _put_back(run: Run, files: Mapping[str, str | None]) -> None:
    for name, text in files.items():
        if text is None:
            (run.folder.path / name).unlink(missing_ok=True)
        else:
            run.folder.write_text(name, text)


def _reason(run: Run, result: str, inputs: Mapping[str, str], *, forced: bool) -> str:
    changed = run.folder.changed(result, inputs)
    if changed == ["missing"]:
        return "not there yet"
    if changed:
        return f"changed: {', '.join(changed)}"
    return "forced" if forced else ""
