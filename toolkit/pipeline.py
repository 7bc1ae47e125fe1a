"""Pipeline: runs the requested stages and their dependencies in order, skipping results that are up to date.

A result that fails a check (parity, a valid measurement) does not stop later stages; the first such failure is returned
after all stages have run.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from toolkit import plugins, records, resolve
from toolkit.errors import BadInput, DataError, InvalidMeasurement, StorageError, ToolkitError
from toolkit.records import Environment
from toolkit.stages import Output, Run, Stage
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


@dataclass(frozen=True)
class Step:
    """One planned result, for --dry-run."""

    stage: str
    result: str
    reason: str
    """Why it is going to be made; empty if it is up to date."""


def with_dependencies(names: Sequence[str], stages: Mapping[str, Stage] = STAGES) -> list[Stage]:
    """The named stages and their dependencies, in execution order."""
    required: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name not in required:
            required.add(name)
            pending += stages[name].needs
    return [stage for name, stage in stages.items() if name in required]


def plan(run: Run, names: Sequence[str], force: bool = False, stages: Mapping[str, Stage] = STAGES) -> list[Step]:
    """The steps that `execute` would take. Stages that depend on a stale one are assumed to be stale."""
    steps: list[Step] = []
    stale: set[str] = set()
    for stage in _checked(run, names, stages):
        stale_needs = sorted(stale.intersection(stage.needs))
        if stale_needs:
            reason = f"depends on {', '.join(stale_needs)}"
            steps += [Step(stage.name, result, reason) for result in stage.planned(run)]
            stale.add(stage.name)
            continue
        for output in stage.outputs(run):
            reason = _reason(run, output, forced=force and stage.name in names)
            steps.append(Step(stage.name, output.result, reason))
            if reason:
                stale.add(stage.name)
        if stage.page:
            steps.append(Step(stage.name, stage.page, "written every time"))
    return steps


def execute(
    run: Run,
    settings: resolve.Resolved,
    names: Sequence[str],
    *,
    force: bool,
    allow_invalid: bool,
    stages: Mapping[str, Stage] = STAGES,
) -> ToolkitError | None:
    """Bring the named stages up to date, or remake them with `force`. Returns the first failed check; with
    `allow_invalid`, an INVALID measurement is a warning instead."""
    from toolkit.bench.environment import capture

    failure: ToolkitError | None = None
    required = _checked(run, names, stages)
    packages = itertools.chain.from_iterable(stage.packages(run) for stage in required)
    environment = capture((*plugins.requirements(), *dict.fromkeys(packages)))
    with _settings_saved(run, settings, environment) as finished:
        for stage in required:
            for output in stage.outputs(run):
                reason = _reason(run, output, forced=force and stage.name in names)
                if not reason:
                    run.tell(f"{stage.name}: {output.result} is up to date")
                    continue
                for line in (f"making {output.result} ({reason})", *output.notes):
                    run.tell(f"{stage.name}: {line}")
                if _made(run, output, environment):
                    finished.append(output.result)
            stage.write_page(run)
            for line in stage.summary_lines(run):
                run.tell(f"{stage.name}: {line}")
            stage_failure = stage.failure(run)
            if allow_invalid and isinstance(stage_failure, InvalidMeasurement):
                run.tell(f"{stage.name}: warning: {stage_failure.message}; {stage_failure.hint}")
            else:
                failure = failure or stage_failure
    return failure


def _made(run: Run, output: Output, environment: Environment) -> bool:
    """Make a result; False if it ended with an error that the stage tolerates."""
    try:
        with run.folder.writing(output.result, output.inputs) as out, _image_check_discarded(run):
            output.make(out)
            records.save(environment, out / "environment.json")
    except ToolkitError as error:
        if not output.tolerates(error):
            raise
        return False
    run.folder.clear_scratch(output.result)
    run.folder.log("made", result=output.result)
    return True


@contextmanager
def _image_check_discarded(run: Run) -> Iterator[None]:
    """Discard the stored image check if an image that passed it cannot be read after all."""
    try:
        yield
    except DataError:
        run.discard_image_check()
        raise


def _checked(run: Run, names: Sequence[str], stages: Mapping[str, Stage]) -> list[Stage]:
    """The named stages and their dependencies; raises for invalid settings of any of them before anything is made."""
    required = with_dependencies(names, stages)
    for stage in required:
        stage.check(run)
    for stage in required:
        stage.check_data(run)
    return required


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


def _reason(run: Run, output: Output, *, forced: bool) -> str:
    """Why a result is made; empty if it is up to date."""
    changed = run.folder.changed(output.result, output.inputs)
    if changed == ["missing"]:
        return "does not exist yet"
    if changed:
        return f"changed: {', '.join(changed)}"
    return "forced" if forced else output.again
