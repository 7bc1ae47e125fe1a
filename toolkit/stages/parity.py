"""parity: compare dense, slim and all exported models on the same images, per domain."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import plugins, records
from toolkit.characters import counted
from toolkit.errors import CheckFailed, DeviceUnreachable, LibraryDied, MissingDependency, ToolkitError, WrongMachine
from toolkit.machine import cuda
from toolkit.records import DENSE, SLIM, Comparison, DomainParity, ParityReport
from toolkit.stages import MODELS, PARITY, Output, Run, Stage, hash_of
from toolkit.stages.export import artifact_folder, not_running_here, predictions

if TYPE_CHECKING:
    from toolkit.bench.parity import Side
    from toolkit.bench.subjects import Opened


class Parity(Stage):
    name = "parity"
    needs = ("export",)

    def check(self, run: Run) -> None:
        unavailable = not_running_here(run)
        if len(unavailable) < len(run.recipe.export.targets):
            for name, error in unavailable.items():
                run.tell(f"parity: warning: {name} cannot be compared on this machine: {error.message}")
            return
        first = next(iter(unavailable.values()))
        raise type(first)(
            "no exported model can be compared on this machine: "
            + "; ".join(f"{name}: {error.message}" for name, error in unavailable.items()),
            f"`toolkit export` can still write it; {first.hint}",
        )

    def outputs(self, run: Run) -> list[Output]:
        from toolkit.bench.identity import identify
        from toolkit.bench.runtimes import described
        from toolkit.bench.subjects import running_libraries

        sides = _sides(run)
        inputs = {f"side {name}": identify(folder).sha256 for name, (folder, _) in sides.items()}
        inputs |= {"data": run.domains.fingerprint(), "images": run.images_of(DENSE)}
        inputs["parity"] = hash_of(run.recipe.parity)
        inputs |= plugins.versions(running_libraries(sides))
        if any(described(runtime).uses_gpu for _, runtime in sides.values()):
            inputs["gpu"] = cuda.architecture_or_none() or "none"  # with a GPU, engines can be compared too
        return [Output(PARITY, inputs, lambda out: _compare(run, out))]

    def record(self, run: Run) -> ParityReport:
        return run.folder.read(PARITY, "parity.json", ParityReport)

    def summary_lines(self, run: Run) -> list[str]:
        lines = []
        for domain in self.record(run).domains:
            accuracies = ", ".join(f"{side} {accuracy:.1%}" for side, accuracy in domain.accuracy.items())
            verdicts = ", ".join(f"{_pair(pair)}: {pair.verdict}" for pair in domain.comparisons if pair.verdict)
            note = " (never trained on)" if domain.held_out else ""
            images = counted(len(domain.labels), "image")
            lines.append(f"{domain.domain}{note}, {images}: {accuracies}; {verdicts}")
        return lines + [f"{side}: not compared: {why}" for side, why in self.record(run).unopened.items()]

    def failure(self, run: Run) -> ToolkitError | None:
        report = self.record(run)
        if report.verdict == "pass":
            return None
        failures = [
            f"{_pair(pair)} in {domain.domain}: {pair.verdict}, {100 * pair.difference:+.2f} pp "
            f"[{100 * pair.low:+.2f}, {100 * pair.high:+.2f}]{_needed(domain, pair, report.margin)}"
            for domain in report.domains
            for pair in domain.comparisons
            if pair.verdict not in ("pass", None)
        ]
        if not failures:
            kind = CheckFailed if report.verdict == "fail" else DeviceUnreachable
            return kind(
                "not compared, as it does not run on this machine: "
                f"{'; '.join(map(': '.join, report.unopened.items()))}",
                "the other results are valid; `toolkit parity --force` compares it on a machine that runs it",
            )
        return CheckFailed(
            f"parity is not shown within {100 * report.margin:g} pp: {'; '.join(failures)}",
            "fail: the exported model is less accurate; undecided: too few images, add some or widen --margin",
        )


def _pair(comparison: Comparison) -> str:
    return f"{comparison.candidate} vs {comparison.reference}"


def _needed(domain: DomainParity, comparison: Comparison, margin: float) -> str:
    """Number of images that would decide the comparison, for a message; empty if it is decided or none would."""
    from toolkit.bench.parity import images_needed

    needed = images_needed(domain, comparison, margin) if comparison.verdict == "undecided" else None
    return f" on {counted(len(domain.labels), 'image')}, about {needed} would decide it" if needed else ""


def _sides(run: Run) -> dict[str, Opened]:
    """Folder and runtime of every side."""
    from toolkit.bench.subjects import Opened
    from toolkit.export import target

    sides = {subject: Opened(run.folder.path / result, "torch") for subject, result in MODELS.items()}
    for name in run.recipe.export.targets:
        folder = artifact_folder(run, name, SLIM)
        sides[Path(folder).name] = Opened(run.folder.path / folder, target(name).runtime)
    return sides


def _compare(run: Run, out: Path) -> None:
    from toolkit.bench.parity import Pair, compare_sides, worst

    sides = _sides(run)
    results, unopened = _predictions(run, sides)
    crashed = {side: error for side, error in unopened.items() if isinstance(error, LibraryDied)}
    if unopened and all(side in MODELS for side in results):
        first = [*crashed.values(), *unopened.values()][0]
        raise type(first)("; ".join(error.message for error in unopened.values()), first.hint)
    report = compare_sides(
        results,
        pairs=[Pair(DENSE, SLIM, judged=False)]
        + [Pair(SLIM, side, judged=True) for side in results if side not in MODELS],
        margin=run.recipe.parity.margin,
        held_out=run.domains.held_out,
    )
    if unopened:
        reasons = {side: f"{error.message} ({error.hint})" for side, error in unopened.items()}
        verdict = worst([report.verdict, "fail" if crashed else "undecided"])
        report = replace(report, unopened=reasons, crashed=tuple(crashed), verdict=verdict)
    records.save(report, out / "parity.json")


def _predictions(run: Run, sides: Mapping[str, Opened]) -> tuple[dict[str, Side], dict[str, ToolkitError]]:
    """Predictions of every side by domain, and the errors of the sides that do not run here."""
    parts = run.domains.evaluation_images()
    results: dict[str, Side] = {}
    unopened: dict[str, ToolkitError] = {}
    steps, total = itertools.count(), len(sides) * len(parts)
    with run.progress("parity") as progress:
        for side, opened in sides.items():
            try:
                results[side] = predictions(run, opened, parts, lambda: progress(next(steps), total))
            except (DeviceUnreachable, LibraryDied, MissingDependency, WrongMachine) as error:
                unopened[side] = error
        progress(total, total)
    return results, unopened
