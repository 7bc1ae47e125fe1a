"""Pipeline: runs the requested stages and their dependencies in order, skipping results that are up to date.

A result that fails a check (parity, a valid measurement) does not stop later stages; the first such failure is returned
after all stages have run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from toolkit import plugins, records, resolve
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
"""Stages by name, in execution order."""


Tell = Callable[[str], None]
"""Prints one line for the user."""


@dataclass(frozen=True)
class Step:
    """One planned result, for --dry-run."""

    stage: str
    result: str
    reason: str
    """Why it is going to be made; empty if it is up to date."""


def with_dependencies(names: Sequence[str]) -> list[Stage]:
    """The named stages and their dependencies, in execution order."""
    required: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in required:
            required.add(name)
            pending += STAGES[name].needs
    return [stage for name, stage in STAGES.items() if name in required]


def plan(run: Run, names: Sequence[str], force: bool = False) -> list[Step]:
    """The steps that `execute` would take. Stages that depend on a stale one are assumed to be stale."""
    steps: list[Step] = []
    stale: set[str] = set()
    for stage in _checked(run, names):
        stale_needs = sorted(stale.intersection(stage.needs))
        if stale_needs:
            steps.append(Step(stage.name, stage.name, f"depends on {', '.join(stale_needs)}"))
            stale.add(stage.name)
            continue
        for output in stage.outputs(run):
            reason = _reason(run, output.result, output.inputs, forced=force and stage.name in names)
            steps.append(Step(stage.name, output.result, reason))
            if reason:
                stale.add(stage.name)
        if stage.page:
            steps.append(Step(stage.name, stage.page, "written every time"))
    return steps


def execute(
    run: Run, settings: resolve.Resolved, names: Sequence[str], *, force: bool, allow_invalid: bool, tell: Tell
) -> ToolkitError | None:
    """Bring the named stages up to date, or remake them with `force`. Returns the first failed check; with
    `allow_invalid`, an INVALID measurement is a warning instead."""
    from toolkit.bench.environment import capture

    failure: ToolkitError | None = None
    stages = _checked(run, names)
    environment = capture((*plugins.requirements(), *run.recipe.needs([stage.name for stage in stages])))
    with _settings_saved(run, settings, environment) as finished:
        for stage in stages:
            for output in stage.outputs(run):
                reason = _reason(run, output.result, output.inputs, forced=force and stage.name in names)
                if not reason:
                    tell(f"{stage.name}: {output.result} is up to date")
                    continue
                for line in (f"making {output.result} ({reason})", *output.notes):
                    tell(f"{stage.name}: {line}")
                with run.folder.writing(output.result, output.inputs) as out, _image_check_discarded(run):
                    output.make(out)
                    records.save(environment, out / "environment.json")
                run.folder.clear_scratch(output.result)
                finished.append(output.result)
                run.folder.log("made", result=output.result)
            stage.write_page(run)
            for line in stage.summary_lines(run):
                tell(f"{stage.name}: {line}")
            stage_failure = stage.failure(run)
            if allow_invalid and isinstance(stage_failure, InvalidMeasurement):
                tell(f"{stage.name}: warning: {stage_failure.message}; {stage_failure.hint}")
            else:
                failure = failure or stage_failure
    return failure


@contextmanager
def _image_check_discarded(run: Run) -> Iterator[None]:
    """Discard the stored image check if an image that passed it cannot be read after all."""
    try:
        yield
    except DataError:
        run.discard_image_check()
        raise


def _checked(run: Run, names: Sequence[str]) -> list[Stage]:
    """The named stages and their dependencies; raises for invalid settings of any of them before anything is made."""
    stages = with_dependencies(names)
    for stage in stages:
        stage.check(run)
    for stage in stages:
        stage.check_data(run)
    return stages


@contextmanager
def _settings_saved(run: Run, settings: resolve.Resolved, environment: Environment) -> Iterator[list[str]]:
    """Write recipe, flags and environment; restore the former files if bad input ends the command before the first
    result. Yields the list to which finished results are appended."""
    files = {
        "recipe.yaml": resolve.as_yaml(settings.recipe),
        resolve.FLAGS_FILE: settings.flags_yaml(),
        "environment.json": records.dumps(environment),
    }
    if settings.file and settings.file.resolve() == (run.folder.path / "recipe.yaml").resolve():
        del files["recipe.yaml"]  # the recipe in use, which the user may edit
    finished: list[str] = []
    before = {name: path.read_text() if (path := run.folder.path / name).exists() else None for name in files}
    try:
        for name, text in files.items():
            run.folder.write_text(name, text)
        yield finished
    except BadInput as error:
        if not finished and not isinstance(error, StorageError):  # once there is disk space, the run resumes
            _restore(run, before)
        raise


def _restore(run: Run, files: Mapping[str, str | None]) -> None:
    for name, text in files.items():
        if text is None:
            (run.folder.path / name).unlink(missing_ok=True)
        else:
            run.folder.write_text(name, text)


def _reason(run: Run, result: str, inputs: Mapping[str, str], *, forced: bool) -> str:
    changed = run.folder.changed(result, inputs)
    if changed == ["missing"]:
        return "does not exist yet"
    if changed:
        return f"changed: {', '.join(changed)}"
    return "forced" if forced else ""
