"""bench: dense and slim side by side on a device, every sample kept."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from toolkit import hashing, records
from toolkit.errors import InvalidMeasurement, RecipeError, ToolkitError
from toolkit.records import DENSE, SLIM, BenchReport
from toolkit.stages import MODELS, Output, Run, Stage, hash_of
from toolkit.stages.export import artifact_folder, not_running_here


class Bench(Stage):
    name = "bench"
    needs = ("export",)

    def check(self, run: Run) -> None:
        from toolkit.bench.devices import device
        from toolkit.bench.runtimes import runtime

        device(run.recipe.bench.device)
        runtime(_runtime(run))
        _subjects(run)
        name, refused = _target(run), not_running_here(run)
        if name in refused and device(run.recipe.bench.device).is_this_machine:
            error = refused[name]
            raise type(error)(
                f"what {name} writes cannot be measured here: {error.message}",
                f"`toolkit export` writes it all the same; {error.hint}",
            )

    def outputs(self, run: Run) -> list[Output]:
        from toolkit.bench.identity import identify

        inputs = {f"subject {name}": identify(folder).sha256 for name, folder in _subjects(run).items()}
        inputs |= {"bench": hash_of(run.recipe.bench), "machine": _machine(run)}
        return [Output(bench_folder(run), inputs, lambda out: _bench(run, out))]

    def record(self, run: Run) -> BenchReport:
        return run.folder.read(bench_folder(run), "bench.json", BenchReport)

    def summary_lines(self, run: Run) -> list[str]:
        from toolkit.bench.statistics import percentiles, ratio_of_medians

        lines, found = [], {(each.batch_size, each.subject): each for each in self.record(run).measurements}
        for size in sorted({size for size, _ in found}):
            dense, slim = found[size, DENSE].latency_ms, found[size, SLIM].latency_ms
            ratio = ratio_of_medians(dense, slim)
            medians = [percentiles(samples, [50])[0] for samples in (dense, slim)]
            valid = found[size, DENSE].valid and found[size, SLIM].valid
            lines.append(
                f"{'' if valid else 'INVALID: '}batch {size}: dense {medians[0]:.2f} ms, slim {medians[1]:.2f} ms, "
                f"dense / slim {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
            )
        return lines

    def failure(self, run: Run) -> ToolkitError | None:
        faults = [
            f"{found.subject} at batch {found.batch_size}: {', '.join(found.reasons)}"
            for found in self.record(run).measurements
            if not found.valid
        ]
        if not faults:
            return None
        return InvalidMeasurement(
            f"the measurement is INVALID: {'; '.join(faults)}", "quiet the machine and run `toolkit bench --force`"
        )


def _machine(run: Run) -> str:
    """Hash of what decides a latency on the device; clocks change from moment to moment and are left out."""
    from toolkit.bench.devices import device

    found = replace(device(run.recipe.bench.device).environment(), clocks_mhz=())
    return hashing.digest(asdict(found))


def bench_folder(run: Run) -> str:
    return f"bench/{_runtime(run)}-{run.recipe.bench.device}"


def _runtime(run: Run) -> str:
    """The one asked for, or that of the first file that is exported."""
    from toolkit.export import target

    return run.recipe.bench.runtime or target(run.recipe.export.targets[0]).runtime


def _target(run: Run) -> str | None:
    """The first whose files the chosen runtime opens."""
    from toolkit.export import target

    return next((name for name in run.recipe.export.targets if target(name).runtime == _runtime(run)), None)


def _subjects(run: Run) -> dict[str, Path]:
    """The folders that the chosen runtime opens: of exported files, or for torch without any, of models."""
    chosen, name = _runtime(run), _target(run)
    if name is not None:
        return {subject: run.folder.path / artifact_folder(run, name, subject) for subject in MODELS}
    if chosen == "torch":
        return {subject: run.folder.path / result for subject, result in MODELS.items()}
    raise RecipeError(
        f"nothing is exported that {chosen} can run", f"export.targets is {list(run.recipe.export.targets)}"
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
    )
    with run.progress("bench") as report:
        measured = device(settings.device).bench(request, report)
    records.save(measured, out / "bench.json")
