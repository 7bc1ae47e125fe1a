"""bench: measure dense and slim interleaved on a device, keeping every sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import hashing, records
from toolkit.errors import InvalidMeasurement, RecipeError, ToolkitError
from toolkit.records import BenchReport
from toolkit.stages import MODELS, Output, Run, Stage, hash_of
from toolkit.stages.export import artifact_folder, not_running_here

if TYPE_CHECKING:
    from toolkit.bench.devices import Device
    from toolkit.bench.subjects import Opened


class Bench(Stage):
    name = "bench"
    needs = ("export",)

    def check(self, run: Run) -> None:
        from toolkit.bench.clocks import clock
        from toolkit.bench.runtimes import runtime
        from toolkit.bench.subjects import own_settings

        settings = run.recipe.bench
        timer = clock(settings.clock, own_settings(settings, settings.clock))
        library = runtime(runtime_of(run), own_settings(settings, runtime_of(run)))
        if timer.on_device and not library.uses_gpu:
            raise RecipeError(
                f"the clock {settings.clock!r} times a GPU, which the runtime {runtime_of(run)!r} does not use",
                "--clock host, or another --runtime",
            )
        _subjects(run)
        name, unavailable, here = target_of(run), not_running_here(run), _device(run).is_this_machine
        if name in unavailable and here:
            error = unavailable[name]
            raise type(error)(
                f"{name} artifacts cannot be measured on this machine: {error.message}",
                f"`toolkit export` can still write them; {error.hint}",
            )

    def outputs(self, run: Run) -> list[Output]:
        return [output(run, _subjects(run), bench_folder(run))]

    def record(self, run: Run) -> BenchReport:
        return run.folder.read(bench_folder(run), "bench.json", BenchReport)

    def summary_lines(self, run: Run) -> list[str]:
        from toolkit.bench.summary import latency_lines

        return latency_lines(self.record(run))

    def failure(self, run: Run) -> ToolkitError | None:
        invalid = [
            f"{result.subject} at batch {result.batch_size}: {', '.join(result.reasons)}"
            for result in self.record(run).measurements
            if not result.valid
        ]
        if not invalid:
            return None
        return InvalidMeasurement(
            f"the measurement is INVALID: {'; '.join(invalid)}", "close other programs, then `toolkit bench --force`"
        )


def output(run: Run, subjects: Mapping[str, Opened], result: str) -> Output:
    """Measurements of these folders as the result of this name."""
    from toolkit.bench.identity import identify

    inputs = {f"subject {name}": identify(folder).sha256 for name, (folder, _) in subjects.items()}
    settings = run.recipe.bench.model_copy(update={"runtime": runtime_of(run)})
    inputs |= {"bench": hash_of(settings), **_machine(run, subjects)}
    return Output(result, inputs, lambda out: _bench(run, subjects, out))


def _machine(run: Run, subjects: Mapping[str, Opened]) -> dict[str, str]:
    """Hash of the device without its clocks, which vary, and the versions of the libraries that run the files."""
    from toolkit.bench.subjects import running_libraries

    environment = _device(run).environment(running_libraries(subjects))
    machine = asdict(replace(environment, clocks_mhz=(), toolkit="", libraries={}))
    return {"machine": hashing.digest(machine), **environment.libraries}


def _device(run: Run) -> Device:
    from toolkit.bench.devices import device

    settings = run.recipe.bench
    return device(settings.device, settings.own(settings.device))


def bench_folder(run: Run) -> str:
    """Result folder, relative to the run folder."""
    return f"bench/{runtime_of(run)}-{run.recipe.bench.device}"


def runtime_of(run: Run) -> str:
    """The runtime in the recipe, else that of the first export target."""
    from toolkit.export import target

    return run.recipe.bench.runtime or target(run.recipe.export.targets[0]).runtime


def target_of(run: Run) -> str | None:
    """The first export target that the runtime opens, or None."""
    from toolkit.export import target

    return next((name for name in run.recipe.export.targets if target(name).runtime == runtime_of(run)), None)


def _subjects(run: Run) -> dict[str, Opened]:
    """Folders to measure: the artifacts that the runtime opens, or without any, the models."""
    from toolkit.bench.runtimes import runtime
    from toolkit.bench.subjects import Opened

    library, name = runtime_of(run), target_of(run)
    if name is not None:
        folders = {subject: artifact_folder(run, name, subject) for subject in MODELS}
        return {subject: Opened(run.folder.path / folder, library) for subject, folder in folders.items()}
    if runtime(library).opens_models:
        return {subject: Opened(run.folder.path / result, library) for subject, result in MODELS.items()}
    raise RecipeError(
        f"no exported artifact can be opened by runtime {library!r}",
        f"export.targets is {list(run.recipe.export.targets)}",
    )


def _bench(run: Run, subjects: Mapping[str, Opened], out: Path) -> None:
    from toolkit.bench.subjects import request_of

    with run.progress("bench") as progress:
        report = _device(run).bench(request_of(subjects, run.recipe.bench), progress)
    records.save(report, out / "bench.json")
