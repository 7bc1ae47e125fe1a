"""Stages of `toolkit prune --compare` that make variants of a pruning, export them and measure them.

They stand for the stages of the same names, call the same code, and go on where one variant fails.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import hashing
from toolkit.characters import counted
from toolkit.errors import InvalidMeasurement, PluginError, RecipeError, StorageError, ToolkitError, UnknownName
from toolkit.records import DENSE, SLIM, BenchReport
from toolkit.stages import Output, Run, Stage, bench, export, hash_of, latency_budget, prune
from toolkit.variants import Variant

if TYPE_CHECKING:
    from toolkit.bench.subjects import Opened

FOLDER = "compared"
"""Folder in the run with everything that a comparison makes."""
LATENCY = f"{FOLDER}/latency"


@dataclass
class Comparing:
    """A comparison, and what failed so far."""

    variants: tuple[Variant, ...]
    failures: dict[str, ToolkitError] = field(default_factory=dict)
    """Why variants could not be pruned, by name."""
    unmeasured: dict[str, ToolkitError] = field(default_factory=dict)
    """Why models could not be exported or measured, by name."""

    @property
    def remaining(self) -> list[Variant]:
        """Variants that have not failed. Raises the error that they failed with if there are none."""
        if remaining := [variant for variant in self.variants if variant.name not in self.failures]:
            return remaining
        first, *others = self.failures.values()
        if all(error.message == first.message for error in others):
            raise first
        reasons = "; ".join(f"{name}: {error.message}" for name, error in self.failures.items())
        raise _like(first, f"all {counted(len(self.failures), 'variant')} failed: {reasons}", first.hint)

    @property
    def models(self) -> dict[str, str]:
        """Results by name: the dense model, and the variants that have not failed."""
        return {DENSE: DENSE, **{variant.name: result_of(variant) for variant in self.remaining}}

    def failed(self, variant: Variant, run: Run, error: ToolkitError) -> bool:
        """Note the error that a variant ended with; False if the others would end with it as well."""
        if isinstance(error, StorageError):
            return False
        self.failures[variant.name] = error
        run.tell(f"prune: {result_of(variant)} failed: {error.message}")
        return True

    def not_measured(self, names: Sequence[str], run: Run, error: ToolkitError) -> bool:
        """Note the error that exporting or measuring models ended with; False for a disk that cannot be written."""
        if isinstance(error, StorageError):
            return False
        self.unmeasured |= dict.fromkeys(names, error)
        run.tell(f"bench: not measured: {', '.join(names)}: {error.message}")
        return True


class VariantPrune(Stage):
    """One result per variant."""

    name = "prune"
    needs = ("train",)

    def __init__(self, comparing: Comparing) -> None:
        self._comparing = comparing

    def check(self, run: Run) -> None:
        self._comparing.variants = distinct(run, self._comparing.variants)
        warnings: list[str] = []
        for variant, own in self._runs(run, self._comparing.variants):
            own.tell = warnings.append
            self._fail(variant, run, _refusal(own))
        for line in dict.fromkeys(warnings):
            run.tell(line)
        _ = self._comparing.remaining

    def check_data(self, run: Run) -> None:
        if run.has_dense:
            return
        _ = run.domains  # read once for all
        for variant, own in self._runs(run, self._comparing.remaining):
            try:
                prune.check_budget(own)
            except ToolkitError as error:
                self._fail(variant, run, error)
        _ = self._comparing.remaining

    def planned(self, run: Run) -> Sequence[str]:
        return [result_of(variant) for variant in self._comparing.remaining]

    def packages(self, run: Run) -> Sequence[str]:
        runs = self._runs(run, self._comparing.remaining)
        return [package for _, own in runs for package in own.recipe.needs([self.name])]

    def outputs(self, run: Run) -> list[Output]:
        return [
            replace(prune.output(own, result_of(variant)), tolerates=partial(self._comparing.failed, variant, run))
            for variant, own in self._runs(run, self._comparing.remaining)
        ]

    def summary_lines(self, run: Run) -> list[str]:
        results = [result_of(variant) for variant in self._comparing.remaining]
        return [f"{result}: {line}" for result in results for line in prune.summary(run, result)]

    def _runs(self, run: Run, variants: Sequence[Variant]) -> Iterator[tuple[Variant, Run]]:
        """The variants, each with a run of its settings."""
        return ((variant, run.with_prune(variant.prune)) for variant in variants)

    def _fail(self, variant: Variant, run: Run, error: ToolkitError | None) -> None:
        if error is not None and not self._comparing.failed(variant, run, error):
            raise error


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
            inputs = output.inputs if name == DENSE else {**output.inputs, "structure": structure_of(run, result)}
            tolerates = partial(self._comparing.not_measured, [name], run)
            outputs.append(replace(output, inputs=inputs, tolerates=tolerates))
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
        others = [name for name in subjects if name != DENSE]
        if DENSE in unmeasured:  # a speed-up is one over the dense model
            unmeasured |= dict.fromkeys(others, unmeasured[DENSE])
        if DENSE in unmeasured or not others:
            return []
        output = bench.output(run, subjects, LATENCY)
        structures = [structure_of(run, self._comparing.models[name]) for name in subjects]
        report = self.report(run) if run.folder.stage(LATENCY) else None
        invalid = report is not None and not all(result.valid for result in report.measurements)
        return [
            replace(
                output,
                inputs={**output.inputs, "structures": hashing.digest(structures)},
                again="it was INVALID" if invalid and not self._allow_invalid else "",
                tolerates=partial(self._comparing.not_measured, [*subjects], run),
            )
        ]

    def failure(self, run: Run) -> ToolkitError | None:
        if DENSE in self._comparing.unmeasured:
            return self._comparing.unmeasured[DENSE]
        if not self._subjects(run).keys() - {DENSE}:
            return next(iter(self._comparing.unmeasured.values()))
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

    def _subjects(self, run: Run) -> Mapping[str, Opened]:
        """Folder and runtime of every model that could be exported."""
        from toolkit.bench.subjects import Opened

        target, runtime = bench.target_of(run), bench.runtime_of(run)
        return {
            name: Opened(run.folder.path / (exported_folder(run, target, name) if target else result), runtime)
            for name, result in self._comparing.models.items()
            if name not in self._comparing.unmeasured
        }


def result_of(variant: Variant) -> str:
    """Result folder of a variant."""
    return f"{FOLDER}/{variant.name}"


def exported_folder(run: Run, target: str, name: str) -> str:
    """Result folder of a model's file: compared/onnx-fp32-method-oneshot for a variant."""
    if name == DENSE:
        return export.artifact_folder(run, target, DENSE)
    return f"{FOLDER}/{Path(export.artifact_folder(run, target, SLIM)).name}-{name}"


def structure_of(run: Run, result: str) -> str:
    """Hash of everything that determines a finished model: models of other image sizes or merges may have the same
    weights."""
    return hashing.sha256(run.folder.path / result / "model.json")


def distinct(run: Run, variants: Sequence[Variant]) -> tuple[Variant, ...]:
    """The variants without those that differ in settings without effect only. Raises RecipeError if none differ."""
    by_settings: dict[str, list[Variant]] = {}
    for variant in variants:
        by_settings.setdefault(hash_of(latency_budget.effective(variant.prune)), []).append(variant)
    if len(by_settings) == 1 < len(variants):
        raise RecipeError(
            f"all {len(variants)} variants are the same: {', '.join(variants[0].settings)} has no effect",
            "settings of a plug-in need the plug-in (--method optin), and --at-batch and --runtime a latency budget",
        )
    for first, *others in by_settings.values():
        for other in others:
            run.tell(f"prune: {other.name} is left out: its settings have the effect of {first.name}")
    return tuple(first for first, *_ in by_settings.values())


def _refusal(own: Run) -> ToolkitError | None:
    """Why a variant cannot be made, as far as that is known before training; raises for names that do not exist."""
    try:
        prune.check_names(own.recipe.prune)
        prune.check_support(own)
    except (UnknownName, PluginError):
        raise
    except ToolkitError as error:
        return error
    return None


def _like(error: ToolkitError, message: str, hint: str) -> ToolkitError:
    """An error of the same kind, without the fields of special ones."""
    kind = type(error)
    while kind.__init__ is not ToolkitError.__init__:
        kind = kind.__mro__[1]
    return kind(message, hint)


@contextmanager
def _latencies_optional() -> Iterator[None]:
    """Add to an error's hint that latencies can be left out."""
    try:
        yield
    except ToolkitError as error:
        error.hint = ", or ".join(filter(None, (error.hint, "leave latencies out: --no-latency")))
        raise
