"""A trivial search: the same number of MLP units in every block, as many as the budget allows.

A plug-in as a user would write it, for the tests of latency budgets.
"""

from __future__ import annotations

from dataclasses import replace

from toolkit.errors import BudgetError
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.prune.cost_table import CostTable, CountedTable, ModelShape, shape_of, total
from toolkit.prune.grid import grid_of
from toolkit.prune.methods import Job, Method, Outcome
from toolkit.prune.verified_search import Candidate, search_by_latency
from toolkit.records import Cut, LatencyRecord, PrunePlan


class UniformMlp(Method):
    quantities = ("macs", "params", "latency")

    def prune(self, model: Model, job: Job) -> Outcome:
        budget, latency = job.budget, None
        if budget.quantity == "latency":
            assert job.latency is not None
            grid = grid_of(model, ("mlp",))
            found, latency = search_by_latency(
                model, budget, job.latency, grid, lambda table, limit: widest(model, table, limit)
            )
            achieved = latency.measured_ms / latency.dense_ms
        else:
            table = CountedTable(model, "MACs" if budget.quantity == "macs" else "parameters")
            dense = total(table, shape_of(model))
            found = widest(model, table, budget.limit(dense))
            achieved = total(table, found.shape) / dense
        return Outcome(plan_of(model, job, found.choice, achieved, latency), model)


def widest(model: Model, table: CostTable, limit: float) -> Candidate[int]:
    """The model with the widest MLPs whose cost is within the limit."""
    dense = shape_of(model)
    for kept in range(dense.blocks[0].mlp - 1, 7, -1):
        shape = ModelShape(tuple(replace(block, mlp=kept) for block in dense.blocks), dense.image_size)
        if total(table, shape) <= limit:
            return Candidate(kept, shape, remove(model, cuts_of(model, kept)).model.identified())
    raise BudgetError(f"the smallest reachable cost is {total(table, shape):.3g} {table.unit}, not {limit:.3g}")


def cuts_of(model: Model, kept: int) -> list[Cut]:
    """Cuts that leave the first `kept` units of every MLP."""
    groups = [group for group in model.groups if group.axis == "mlp"]
    return [Cut(group.place, "mlp", tuple(range(kept, group.units))) for group in groups]


def plan_of(model: Model, job: Job, kept: int, achieved: float, latency: LatencyRecord | None) -> PrunePlan:
    return PrunePlan(
        model_sha256=model.info.weights_sha256,
        method="uniform-mlp",
        criterion="first",
        scope="local",
        budget=str(job.budget),
        achieved=achieved,
        seed=job.seed,
        cuts=tuple(cuts_of(model, kept)),
        latency=latency,
    )


PLUGIN: Method = UniformMlp()
