"""parity: dense, slim and every exported model on the same images, domain by domain."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import gpu, records
from toolkit.characters import counted
from toolkit.errors import CheckFailed, DeviceUnreachable, LibraryDied, MissingDependency, ToolkitError, WrongMachine
from toolkit.records import DENSE, SLIM, Comparison, DomainParity, ParityReport
from toolkit.stages import MODELS, PARITY, Output, Run, Stage, hash_of
from toolkit.stages.export import artifact_folder, not_running_here, predictions

if TYPE_CHECKING:
    from toolkit.bench.parity import Predictions


class Parity(Stage):
    name = "parity"
    needs = ("export",)

    def check(self, run: Run) -> None:
        refused = not_running_here(run)
        if len(refused) < len(run.recipe.export.targets):
            for name, error in refused.items():
                run.tell(f"parity: warning: {name} cannot be compared here: {error.message}")
            return
        first = next(iter(refused.values()))
        raise type(first)(
            "nothing that is exported can be compared here: "
            + "; ".join(f"{name}: {error.message}" for name, error in refused.items()),
            f"`toolkit export` writes it all the same; {first.hint}",
        )

    def outputs(self, run: Run) -> list[Output]:
        from toolkit.bench.identity import identify

        inputs = {f"side {name}": identify(folder).sha256 for name, (folder, _) in _sides(run).items()}
        inputs |= {"data": run.domains.fingerprint(), "images": run.images_of(DENSE)}
        inputs["parity"] = hash_of(run.recipe.parity)
        if any(runtime == "tensorrt" for _, runtime in _sides(run).values()):
            inputs["gpu"] = (
                gpu.architecture_or_none() or "none"
            )  # with it, engines can be compared that could not be before
        return [Output(PARITY, inputs, lambda out: _compare(run, out))]

    def record(self, run: Run) -> ParityReport:
        return run.folder.read(PARITY, "parity.json", ParityReport)

    def summary_lines(self, run: Run) -> list[str]:
        lines = []
        for domain in self.record(run).domains:
            accuracies = ", ".join(f"{side} {accuracy:.1%}" for side, accuracy in domain.accuracy.items())
            verdicts = {made.verdict for made in domain.comparisons if made.verdict}
            note = " (never trained on)" if domain.held_out else ""
            images = counted(len(domain.labels), "image")
            lines.append(f"{domain.domain}{note}, {images}: {accuracies}: {', '.join(sorted(verdicts))}")
        return lines + [f"{side}: not compared: {why}" for side, why in self.record(run).unopened.items()]

    def failure(self, run: Run) -> ToolkitError | None:
        report = self.record(run)
        if report.verdict == "pass":
            return None
        faults = [
            f"{made.candidate} in {domain.domain}: {made.verdict}, {100 * made.difference:+.2f} pp "
            f"[{100 * made.low:+.2f}, {100 * made.high:+.2f}]{_needed(domain, made, report.margin)}"
            for domain in report.domains
            for made in domain.comparisons
            if made.verdict not in ("pass", None)
        ]
        if not faults:
            kind = CheckFailed if report.verdict == "fail" else DeviceUnreachable
            return kind(
                f"not compared, as it does not run here: {'; '.join(map(': '.join, report.unopened.items()))}",
                "the other results stand; where it runs, `toolkit parity --force` compares it too",
            )
        return CheckFailed(
            f"parity is not shown within {100 * report.margin:g} pp: {'; '.join(faults)}",
            "fail: the exported model answers worse; undecided: too few images to tell, add some or widen --margin",
        )


def _needed(domain: DomainParity, comparison: Comparison, margin: float) -> str:
    from toolkit.bench.parity import images_needed

    needed = images_needed(domain, comparison, margin) if comparison.verdict == "undecided" else None
    return f" on {counted(len(domain.labels), 'image')}, about {needed} would tell" if needed else ""


def _sides(run: Run) -> dict[str, tuple[Path, str]]:
    """Every side's folder and runtime."""
    from toolkit.export import target

    sides = {subject: (run.folder.path / result, "torch") for subject, result in MODELS.items()}
    for name in run.recipe.export.targets:
        folder = artifact_folder(run, name, SLIM)
        sides[Path(folder).name] = (run.folder.path / folder, target(name).runtime)
    return sides


def _compare(run: Run, out: Path) -> None:
    from toolkit.bench.identity import identify
    from toolkit.bench.parity import Pair, compare, side_by_side, worst

    sides = _sides(run)
    seen, unopened = _predictions(run, sides)
    crashed = {side: error for side, error in unopened.items() if isinstance(error, LibraryDied)}
    if unopened and all(side in MODELS for side in seen):
        first = [*crashed.values(), *unopened.values()][0]
        raise type(first)("; ".join(error.message for error in unopened.values()), first.hint)
    made = compare(
        domains=side_by_side(seen),
        sides={side: identify(sides[side][0]).sha256 for side in seen},
        pairs=[Pair(DENSE, SLIM, judged=False)]
        + [Pair(SLIM, side, judged=True) for side in seen if side not in MODELS],
        margin=run.recipe.parity.margin,
        held_out=run.domains.held_out,
    )
    if unopened:
        reasons = {side: f"{error.message} ({error.hint})" for side, error in unopened.items()}
        verdict = worst([made.verdict, "fail" if crashed else "undecided"])
        made = replace(made, unopened=reasons, crashed=tuple(crashed), verdict=verdict)
    records.save(made, out / "parity.json")


def _predictions(
    run: Run, sides: Mapping[str, tuple[Path, str]]
) -> tuple[dict[str, dict[str, Predictions]], dict[str, ToolkitError]]:
    """What every side predicts, by domain; and why there is nothing of the others."""
    parts = run.domains.evaluation_images()
    seen: dict[str, dict[str, Predictions]] = {}
    unopened: dict[str, ToolkitError] = {}
    steps, total = itertools.count(), len(sides) * len(parts)
    with run.progress("parity") as report:
        for side, where in sides.items():
            try:
                seen[side] = predictions(run, *where, parts, lambda: report(next(steps), total))
            except (DeviceUnreachable, LibraryDied, MissingDependency, WrongMachine) as error:
                unopened[side] = error
        report(total, total)
    return seen, unopened
