"""Lower resolution: the dense model at the largest image size within the budget.

The rival that every pruned model has to beat: no unit is removed, position embeddings are resampled, and fewer patches
make the model faster. Image sizes are multiples of the patch size, so that a budget is met from below, not within 1 %.
"""

from __future__ import annotations

from functools import cached_property

from toolkit import recipe
from toolkit.errors import BadInput, BudgetError
from toolkit.models.model import Model
from toolkit.models.resize import resized
from toolkit.prune.budget import Budget, budget_of
from toolkit.prune.methods import Job, Method, Outcome
from toolkit.prune.verified_search import SEARCHES, LatencyMeter, record_of
from toolkit.records import LatencyRecord, PrunePlan


class Resolution(Method):
    """Lowers the image size until the budget is met."""

    quantities = ("macs", "latency")

    def check(self, settings: recipe.Prune) -> None:
        """Raise BadInput for settings that choose or repair units, of which none are removed."""
        for name in ("basis", "compensation"):
            if (value := getattr(settings, name)) != "none":
                raise BadInput(f"resolution removes no units: prune.{name} {value!r} has no use", f"--{name} none")

    def check_budget(self, model: Model, settings: recipe.Prune) -> None:
        if (budget := budget_of(settings)).quantity == "macs":
            Sizes(model).largest(budget, budget.fraction)

    def prune(self, model: Model, job: Job) -> Outcome:
        self.check(job.settings)
        sizes, budget = Sizes(model), job.budget
        if budget.quantity == "latency":
            assert job.latency is not None
            lower, latency = _by_latency(sizes, budget, job.latency)
            achieved = latency.measured_ms / latency.dense_ms
        else:
            lower, latency = sizes.model(sizes.largest(budget, budget.fraction)), None
            achieved = lower.cost.macs / model.cost.macs
        plan = PrunePlan(
            model_sha256=lower.info.weights_sha256,
            method="resolution",
            criterion="none",
            scope="none",
            budget=str(budget),
            achieved=achieved,
            seed=job.seed,
            cuts=(),
            latency=latency,
        )
        return Outcome(plan, lower)


class Sizes:
    """A model at all image sizes below its own."""

    def __init__(self, dense: Model) -> None:
        self.dense = dense

    def model(self, size: int) -> Model:
        """The model at an image size."""
        return resized(self.dense, size).identified()

    def kept(self, size: int) -> float:
        """Fraction of the dense model's MACs."""
        return self._kept[size]

    def largest(self, budget: Budget, fraction: float) -> int:
        """The largest image size with at most this fraction of the MACs. Raises BudgetError with the smallest one."""
        for size, kept in self._kept.items():
            if kept <= fraction:
                return size
        least = min(self._kept.values(), default=1.0)
        raise BudgetError(
            f"{budget} cannot be reached by a lower resolution: images of one patch leave {least:.3g} of the MACs",
            "choose a larger budget",
        )

    @cached_property
    def _kept(self) -> dict[int, float]:
        patch, own = self.dense.parts.patch_size, self.dense.info.image_size
        sizes = range((own - 1) // patch * patch, 0, -patch)
        return {size: resized(self.dense, size).cost.macs / self.dense.cost.macs for size in sizes}


def _by_latency(sizes: Sizes, budget: Budget, meter: LatencyMeter) -> tuple[Model, LatencyRecord]:
    """The largest size predicted to be within the budget, by MACs and by what the last one measured took for each."""
    dense, per_mac = sizes.dense, 1.0
    lower, record = dense, None
    for number in range(1, SEARCHES + 1):
        dense_ms = record.dense_ms if record else meter.measure(dense, ()).dense_ms
        if (asked := budget.limit(dense_ms)) >= dense_ms:
            raise BudgetError(f"{budget} removes nothing: the dense model takes {dense_ms:.3g} ms", "a smaller budget")
        size = sizes.largest(budget, asked / dense_ms / per_mac)
        if record is not None and size == lower.info.image_size:
            break
        lower = sizes.model(size)
        measured = meter.measure(dense, (lower,))
        predicted = per_mac * sizes.kept(size) * measured.dense_ms
        record = record_of(meter, measured, budget.limit(measured.dense_ms), predicted, number)
        per_mac = record.measured_ms / measured.dense_ms / sizes.kept(size)
    assert record is not None
    return lower, record


PLUGIN: Method = Resolution()
