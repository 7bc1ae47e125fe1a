"""compare: variants of a pruning side by side, without a look at the held-out domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import records
from toolkit.errors import ToolkitError
from toolkit.records import (
    DENSE,
    DomainValidation,
    ModelCost,
    ModelInfo,
    PruneComparison,
    PrunedVariant,
    PrunePlan,
    ValidationReport,
)
from toolkit.stages import Output, Run, Stage, bench
from toolkit.stages.compared import FOLDER, Comparing, VariantPrune, result_of
from toolkit.stages.compared_latency import VariantBench, VariantExport
from toolkit.stages.report import latency_of
from toolkit.variants import Variant

if TYPE_CHECKING:
    from rich.console import RenderableType

    from toolkit.dg.evaluate import Logits
    from toolkit.report.comparison import Sheet

VALIDATION = f"{FOLDER}/validation"
RECORD, PAGE = "comparison.json", "comparison.md"


class Compare(Stage):
    """Predictions on the validation images of the source domains, and the table of everything."""

    name = "compare"
    page = f"{FOLDER}/{PAGE}"

    def __init__(self, comparing: Comparing, latencies: VariantBench | None) -> None:
        self._comparing, self._latencies = comparing, latencies
        self.needs = ("prune", "bench") if latencies else ("prune",)

    def outputs(self, run: Run) -> list[Output]:
        models = self._comparing.models
        inputs = {f"model {name}": run.identity_of(result) for name, result in models.items()}
        inputs |= {"data": run.domains.fingerprint(), "images": run.images_of(DENSE)}
        return [Output(VALIDATION, inputs, lambda out: _validate(run, models, out))]

    def planned(self, run: Run) -> Sequence[str]:
        return [self.page]

    def write_page(self, run: Run) -> None:
        from toolkit.report.comparison import as_markdown

        comparison = self._comparison(run)
        run.folder.write_text(f"{FOLDER}/{RECORD}", records.dumps(comparison))
        run.folder.write_text(self.page, as_markdown(_sheet(comparison)))

    def record(self, run: Run) -> PruneComparison:
        return run.folder.read(FOLDER, RECORD, PruneComparison)

    def table(self, run: Run) -> RenderableType:
        from toolkit.report.text import comparison_table

        return comparison_table(_sheet(self.record(run)))

    def _comparison(self, run: Run) -> PruneComparison:
        target, unmeasured = bench.target_of(run), self._comparing.unmeasured
        measured = self._latencies if self._comparing.measured else None
        return PruneComparison(
            source=run.folder.read(DENSE, "model.json", ModelInfo).name,
            dense=_cost(run, DENSE),
            variants=tuple(self._variant(run, variant) for variant in self._comparing.variants),
            validation=run.folder.read(VALIDATION, "validation.json", ValidationReport),
            held_out=run.domains.held_out,
            latency=measured.report(run) if measured else None,
            file_format=f"{target}-{run.recipe.export.precision}" if measured and target else "",
            unmeasured={name: _text(error) for name, error in unmeasured.items()},
        )

    def _variant(self, run: Run, variant: Variant) -> PrunedVariant:
        settings = dict(variant.settings)
        if error := self._comparing.failures.get(variant.name):
            return PrunedVariant(variant.name, settings, None, error=_text(error))
        plan = run.folder.read(result_of(variant), "plan.json", PrunePlan)
        stage = run.folder.stage(result_of(variant))
        assert stage is not None  # made, or the variant would have failed
        cost = _cost(run, result_of(variant))
        return PrunedVariant(variant.name, settings, cost, plan.budget, plan.achieved, stage.seconds)


def stages_of(variants: Sequence[Variant], *, latencies: bool, allow_invalid: bool) -> dict[str, Stage]:
    """The stages of a comparison by name; those called like an ordinary stage stand for it. With `allow_invalid`, an
    INVALID measurement is not repeated."""
    comparing = Comparing(tuple(variants))
    measuring = VariantBench(comparing, allow_invalid) if latencies else None
    stages = [VariantPrune(comparing), VariantExport(comparing), measuring, Compare(comparing, measuring)]
    return {stage.name: stage for stage in stages if stage is not None}


def _sheet(comparison: PruneComparison) -> Sheet:
    from toolkit.report.comparison import sheet_of

    measurements = comparison.latency.measurements if comparison.latency else ()
    return sheet_of(comparison, *latency_of(measurements))


def _cost(run: Run, result: str) -> ModelCost:
    info = run.folder.read(result, "model.json", ModelInfo)
    return ModelCost(info.weights_sha256, info.image_size, info.parameters, info.macs)


def _text(error: ToolkitError) -> str:
    return f"{error.message} ({error.hint})" if error.hint else error.message


def _validate(run: Run, models: Mapping[str, str], out: Path) -> None:
    """Compute the logits of every model once."""
    from toolkit.dg.evaluate import agreement, divergence, labels_of

    images = run.domains.selection_images()
    logits: dict[str, dict[str, Logits]] = {}
    with run.progress("validate") as progress:
        for done, (name, result) in enumerate(models.items()):
            progress(done, len(models), name)
            logits[name] = _logits(run, result)
        progress(len(models), len(models))
    domains = []
    for domain in images:
        labels, dense = labels_of(images[domain]), logits[DENSE][domain]
        top = {name: found[domain].argmax(axis=1) for name, found in logits.items()}
        domains.append(
            DomainValidation(
                domain=domain,
                images=len(images[domain]),
                accuracy={name: agreement(top[name], labels) for name in models},
                agreement={name: agreement(top[name], top[DENSE]) for name in models},
                divergence_nats={name: divergence(dense, found[domain]) for name, found in logits.items()},
            )
        )
    weights = {name: run.identity_of(result) for name, result in models.items()}
    records.save(ValidationReport(weights, tuple(domains)), out / "validation.json")


def _logits(run: Run, result: str) -> dict[str, Logits]:
    """A model's logits for the validation images of each source domain."""
    from toolkit.dg.evaluate import logits
    from toolkit.dg.trainer import best_device
    from toolkit.models import store

    model = store.load(run.folder.path / result)
    module, recipe = model.module.to(best_device()), run.recipe
    return {
        domain: logits(module, images, model.info, recipe.parity.batch_size, recipe.data.workers)
        for domain, images in run.domains.selection_images().items()
    }
