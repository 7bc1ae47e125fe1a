"""bench: measure dense and slim interleaved on a device, keeping every sample."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from toolkit import hashing, records
from toolkit.errors import InvalidMeasurement, RecipeError, ToolkitError
from toolkit.records import BenchReport
from toolkit.stages import MODELS, Output, Run, Stage, hash_of
from toolkit.stages.export import artifact_folder, not_running_here


class Bench(Stage):
    name = "bench"
    needs = ("export",)

    def check(self, run: Run) -> None:
        from toolkit.bench.clocks import clock
        from toolkit.bench.devices import device
        from toolkit.bench.runtimes import runtime

        device(run.recipe.bench.device)
        clock(run.recipe.bench.clock)
        runtime(_runtime(run))
        _subjects(run)
        name, unavailable = _target(run), not_running_here(run)
        if name in unavailable and device(run.recipe.bench.device).is_this_machine:
            error = unavailable[name]
            raise type(error)(
                f"{name} artifacts cannot be measured on this machine: {error.message}",
                f"`toolkit export` can still write them; {error.hint}",
            )

    def outputs(self, run: Run) -> list[Output]:
        from toolkit.bench.identity import identify

        inputs = {f"subject {name}": identify(folder).sha256 for name, folder in _subjects(run).items()}
        inputs |= {"bench": hash_of(run.recipe.bench), "machine": _machine(run)}
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


def _machine(run: Run) -> str:
    """Hash of the device's hardware and software, without its clocks, which vary."""
    from toolkit.bench.devices import device

    environment = replace(device(run.recipe.bench.device).environment(), clocks_mhz=())
    return hashing.digest(asdict(environment))


def bench_folder(run: Run) -> str:
    """Result folder, relative to the run folder."""
    return f"bench/{_runtime(run)}-{run.recipe.bench.device}"


def _runtime(run: Run) -> str:
    """The runtime in the recipe, else that of the first export target."""
    from toolkit.export import target

    return run.recipe.bench.runtime or target(run.recipe.export.targets[0]).runtime


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
    from toolkit.bench.devices import device
    from toolkit.bench.messages import BenchRequest, Subject

    settings = run.recipe.bench
    request = BenchRequest(
        subjects={name: Subject(str(folder.resolve()), _runtime(run)) for name, folder in _subjects(run).items()},
        batch_sizes=settings.batch_size,
        seconds=settings.seconds,
        samples=settings.samples,
        threads=settings.threads,
        device=settings.device,
        clock=settings.clock,
    )
    with run.progress("bench") as progress:
        report = device(settings.device).bench(request, progress)
    records.save(report, out / "bench.json")
