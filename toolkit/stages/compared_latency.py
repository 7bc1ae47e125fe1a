"""Stages of `toolkit prune --compare` that stand for `export` and `bench`: files and latencies of all variants."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.errors import InvalidMeasurement, RecipeError, ToolkitError
from toolkit.records import DENSE, SLIM, BenchReport
from toolkit.stages import Output, Run, Stage, bench, export
from toolkit.stages.compared import FOLDER, Comparing

if TYPE_CHECKING:
    from toolkit.bench.subjects import Opened

LATENCY = f"{FOLDER}/latency"


class VariantExport(Stage):
    """Files of the dense model and of the variants, to be measured; the dense one is also the stage `export`'s."""

    name = "export"
    needs = ("prune",)

    def __init__(self, comparing: Comparing) -> None:
        self._comparing = comparing

    def check(self, run: Run) -> None:
        with _latencies_optional():
            export.Export().check(run)

    def check_data(self, run: Run) -> None:
        with _latencies_optional():
            export.Export().check_data(run)

    def outputs(self, run: Run) -> list[Output]:
        target = bench.target_of(run)
        if target is None:  # the runtime opens model folders
            return []
        outputs = []
        for name, result in self._comparing.models.items():
            output = export.output(run, target, result, exported_folder(run, target, name))
            outputs.append(replace(output, tolerates=partial(self._comparing.not_measured, [name], run)))
        return outputs


class VariantBench(Stage):
    """Latencies of the dense model and the variants, interleaved."""

    name = "bench"
    needs = ("export",)

    def __init__(self, comparing: Comparing, allow_invalid: bool = False) -> None:
        """allow_invalid: an INVALID measurement is not repeated."""
        self._comparing, self._allow_invalid = comparing, allow_invalid

    def check(self, run: Run) -> None:
        fixed, sizes = run.recipe.export.fixed_batch, run.recipe.bench.batch_size
        with _latencies_optional():
            bench.Bench().check(run)
            if fixed and bench.target_of(run) and {*sizes} != {fixed}:
                raise RecipeError(
                    f"bench.batch_size is {', '.join(map(str, sizes))}, but files are exported for batch size {fixed}",
                    f"--set bench.batch_size={fixed}",
                )

    def outputs(self, run: Run) -> list[Output]:
        subjects, unmeasured = self._subjects(run), self._comparing.unmeasured
        if not subjects:
            why = self._reason
            unmeasured |= {name: unmeasured.get(name, why) for name in self._comparing.models}
            return []
        output = bench.output(run, subjects, LATENCY)
        report = self.report(run) if run.folder.stage(LATENCY) else None
        invalid = report is not None and not all(result.valid for result in report.measurements)
        return [
            replace(
                output,
                again="it was INVALID" if invalid and not self._allow_invalid else "",
                tolerates=partial(self._comparing.not_measured, [*subjects], run),
            )
        ]

    def failure(self, run: Run) -> ToolkitError | None:
        if not self._comparing.measured:
            return self._reason
        reasons: dict[int, dict[str, None]] = {}
        for result in self.report(run).measurements:
            if result.reasons:
                reasons.setdefault(result.batch_size, {}).update(dict.fromkeys(result.reasons))
        if not reasons:
            return None
        listed = [f"batch {size}: {', '.join(why)}" for size, why in reasons.items()]
        return InvalidMeasurement(
            f"the measurement is INVALID: {'; '.join(listed)}",
            "close other programs, then run the same command again: it repeats this measurement only",
        )

    def report(self, run: Run) -> BenchReport:
        """The measurements that were made last."""
        return run.folder.read(LATENCY, "bench.json", BenchReport)

    @property
    def _reason(self) -> ToolkitError:
        """Why nothing is measured: the dense model's error, or the first one."""
        unmeasured = self._comparing.unmeasured
        return unmeasured[DENSE] if DENSE in unmeasured else next(iter(unmeasured.values()))

    def _subjects(self, run: Run) -> Mapping[str, Opened]:
        """Folder and runtime of every model that is measured."""
        from toolkit.bench.subjects import Opened

        target, runtime, models = bench.target_of(run), bench.runtime_of(run), self._comparing.models
        return {
            name: Opened(run.folder.path / (exported_folder(run, target, name) if target else models[name]), runtime)
            for name in self._comparing.measured
        }


def exported_folder(run: Run, target: str, name: str) -> str:
    """Result folder of a model's file: compared/onnx-fp32-method-oneshot for a variant."""
    if name == DENSE:
        return export.artifact_folder(run, target, DENSE)
    return f"{FOLDER}/{Path(export.artifact_folder(run, target, SLIM)).name}-{name}"


@contextmanager
def _latencies_optional() -> Iterator[None]:
    """Add to an error's hint that latencies can be left out."""
    try:
        yield
    except ToolkitError as error:
        error.hint = ", or ".join(filter(None, (error.hint, "leave latencies out: --no-latency")))
        raise
