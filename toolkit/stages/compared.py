"""`toolkit prune --compare`: what is compared, and the stage that stands for `prune` and makes every variant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from toolkit.characters import counted
from toolkit.errors import PluginError, RecipeError, StorageError, ToolkitError, UnknownName
from toolkit.records import DENSE
from toolkit.stages import Output, Run, Stage, hash_of, latency_budget, prune
from toolkit.variants import Variant

FOLDER = "compared"
"""Folder in the run with everything that a comparison makes."""


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

    @property
    def measured(self) -> list[str]:
        """Names of the models whose latencies are compared; none without the dense model and a variant."""
        names = [name for name in self.models if name not in self.unmeasured]
        return names if DENSE in names and len(names) > 1 else []

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
                prune.check_model(own)
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


def result_of(variant: Variant) -> str:
    """Result folder of a variant."""
    return f"{FOLDER}/{variant.name}"


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
