"""bench: measure dense and slim interleaved on a device, keeping every sample."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import hashing, plugins, records
from toolkit.errors import InvalidMeasurement, RecipeError, ToolkitError
from toolkit.records import BenchReport
from toolkit.stages import MODELS, Output, Run, Stage, hash_of
from toolkit.stages.export import artifact_folder, not_running_here, running_libraries

if TYPE_CHECKING:
    from toolkit.bench.devices import Device


class Bench(Stage):
    name = "bench"
    needs = ("export",)

    def check(self, run: Run) -> None:
        from toolkit.bench.clocks import clock
        from toolkit.bench.runtimes import runtime

        clock(run.recipe.bench.clock, _settings_of(run, run.recipe.bench.clock))
        runtime(_runtime(run), _settings_of(run, _runtime(run)))
        _subjects(run)
        name, unavailable, here = _target(run), not_running_here(run), _device(run).is_this_machine
        if name in unavailable and here:
            error = unavailable[name]
            raise type(error)(
                f"{name} artifacts cannot be measured on this machine: {error.message}",
                f"`toolkit export` can still write them; {error.hint}",
            )

    def outputs(self, run: Run) -> list[Output]:
        from toolkit.bench.identity import identify

        inputs = {f"subject {name}": identify(folder).sha256 for name, folder in _subjects(run).items()}
        settings = run.recipe.bench.model_copy(update={"runtime": _runtime(run)})
        inputs |= {"bench": hash_of(settings), **_machine(run)}
        return [Output(bench_folder(run), inputs, lambda out: _bench(run, out))]

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


def _machine(run: Run) -> dict[str, str]:
    """Hash of the device without its clocks, which vary, and the versions of the libraries that run the files."""
    environment = _device(run).environment(_libraries(run))
    machine = asdict(replace(environment, clocks_mhz=(), toolkit="", libraries={}))
    return {"machine": hashing.digest(machine), **environment.libraries}


def _device(run: Run) -> Device:
    from toolkit.bench.devices import device

    settings = run.recipe.bench
    return device(settings.device, settings.own(settings.device))


def _libraries(run: Run) -> list[str]:
    """Modules that run the files to measure."""
    name = _target(run)
    return running_libraries([_runtime(run)], [] if name is None else [name])


def bench_folder(run: Run) -> str:
    """Result folder, relative to the run folder."""
    return f"bench/{_runtime(run)}-{run.recipe.bench.device}"


def _runtime(run: Run) -> str:
    """The runtime in the recipe, else that of the first export target."""
    from toolkit.export import target

    return run.recipe.bench.runtime or target(run.recipe.export.targets[0]).runtime


def _settings_of(run: Run, plugin: str) -> str:
    """A plug-in's own settings as JSON; empty: its defaults."""
    own = run.recipe.bench.own(plugin)
    return "" if own is None else own.model_dump_json()


def _target(run: Run) -> str | None:
    """The first export target that the runtime opens, or None."""
    from toolkit.export import target

    return next((name for name in run.recipe.export.targets if target(name).runtime == _runtime(run)), None)


def _subjects(run: Run) -> dict[str, Path]:
    """Folders to measure: the artifacts that the runtime opens, or without any, the models."""
    from toolkit.bench.runtimes import runtime

    library, name = _runtime(run), _target(run)
    if name is not None:
        return {subject: run.folder.path / artifact_folder(run, name, subject) for subject in MODELS}
    if runtime(library).opens_models:
        return {subject: run.folder.path / result for subject, result in MODELS.items()}
    raise RecipeError(
        f"no exported artifact can be opened by runtime {library!r}",
        f"export.targets is {list(run.recipe.export.targets)}",
    )


def _bench(run: Run, out: Path) -> None:
    from toolkit.bench.messages import BenchRequest, Subject

    settings, runtime, own = run.recipe.bench, _runtime(run), _settings_of(run, _runtime(run))
    request = BenchRequest(
        subjects={name: Subject(str(folder.resolve()), runtime, own) for name, folder in _subjects(run).items()},
        batch_sizes=settings.batch_size,
        seconds=settings.seconds,
        samples=settings.samples,
        threads=settings.threads,
        device=settings.device,
        clock=settings.clock,
        clock_settings=_settings_of(run, settings.clock),
        libraries=tuple(dict.fromkeys((*plugins.requirements(), *_libraries(run)))),
    )
    with run.progress("bench") as progress:
        report = _device(run).bench(request, progress)
    records.save(report, out / "bench.json")
