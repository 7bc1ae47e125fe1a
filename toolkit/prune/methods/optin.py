"""OPTIN, pruning without training and without labels (Khaki and Plataniotis, "The need for speed: pruning transformers
with one recipe", ICLR 2024).

From the paper: the score of a head or MLP unit is the trajectory distance of the model with this unit masked, on one
batch: manifold distillation summed over all later blocks, plus a term on the logits (768 tokens, temperature 4, lambda
10); heads and MLP units are ranked globally, and every number of heads is tried (`split_search`).

Ours, where the paper and its code differ from each other or leave it open:

- Scores are not multiplied by a ramp over the units' indices, as the published code does for language models.
- The logits' term is scaled once for all units, so that the sums of both terms over all units have the ratio lambda;
  the published code scales that of each unit by a power of ten.
- The last block has no later blocks, so its own output counts. The published code halves the scores of its units, and
  those of heads; we do not.
- `scores: fast` estimates all scores at once by gradients (`trajectory_gradients`); `exact` masks one unit after the
  other, as published.
- Units are removed, not masked; every layer keeps a head and `round_to` MLP units.
- `tau`: the paper's token reduction, in our form: see `merge_ladder`. Every number of merged tokens is tried, and the
  least total score of merges and removed units wins.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from toolkit import recipe
from toolkit.errors import BadInput, BudgetError, DataError
from toolkit.models.groups import Groups, Scores
from toolkit.models.model import Model
from toolkit.models.tokens import check_merges
from toolkit.prune.budget import TOLERANCE, Budget, budget_of
from toolkit.prune.calibration import Calibration
from toolkit.prune.merge_ladder import Rung, merge_ladder, merge_score
from toolkit.prune.methods import Job, Method, Outcome
from toolkit.prune.scopes import Constraints
from toolkit.prune.split_search import Split, best_split, check_smallest
from toolkit.prune.trajectory import Comparison, Terms, exact_terms
from toolkit.prune.trajectory_gradients import Probes, estimated_terms
from toolkit.records import PrunePlan
from toolkit.section import Section
from toolkit.setting_types import Positive

AXES = ("head", "mlp")


class Settings(Section):
    scores: Literal["fast", "exact"] = "fast"
    """Score all units at once by gradients (fast), or mask one unit after the other (exact)."""
    images: Positive = 64
    """Calibration images, drawn in equal numbers from every source domain; at most prune.samples."""
    tokens: Positive = 768
    """Tokens of all images that are compared after each block."""
    temperature: Annotated[float, Field(gt=0)] = 4.0
    """Temperature of the logits' term."""
    balance: Annotated[float, Field(gt=0)] = 10.0
    """Lambda: the sum over all units of the blocks' terms, divided by that of the logits' terms."""
    probes: Positive = 4
    """Random directions for each term of fast scores; their error falls with the square root."""
    tau: bool = False
    """Merge tokens as well, where that costs less of the score than removing units."""
    merge_step: Positive = 16
    """Tokens that each step of tau merges."""


@dataclass(frozen=True)
class Optin(Method):
    """Scores heads and MLP units by the trajectory distance, and searches for the split of the budget."""

    quantities = ("macs", "params")
    settings: Settings = Settings()

    def check(self, settings: recipe.Prune) -> None:
        """Raise BadInput for axes and steps that this method does not support, and for tau without a budget of MACs."""
        if unsupported := [axis for axis in settings.axes if axis not in AXES]:
            raise BadInput(f"optin prunes heads and MLP units, not {', '.join(unsupported)}", "--axes head,mlp")
        if self.settings.tau and (budget := budget_of(settings)).quantity != "macs":
            raise BadInput(f"merging tokens saves MACs, not {budget.quantity}", "--budget macs=0.5, or no tau")
        if settings.steps != 1:
            raise BadInput(f"optin prunes in one step, not {settings.steps}", "--steps 1")

    def check_budget(self, model: Model, settings: recipe.Prune) -> None:
        if not self.settings.tau:
            constraints = Constraints(model.groups.along(settings.axes), model.cost_model, settings.round_to)
            check_smallest(budget_of(settings), constraints)

    def prune(self, model: Model, job: Job) -> Outcome:
        self.check(job.settings)
        own, images = self.settings, drawn(job.calibration, self.settings.images)
        comparison = Comparison(own.tokens, own.temperature, job.seed)
        constraints = Constraints(model.groups.along(job.settings.axes), model.cost_model, job.settings.round_to)
        if own.tau:
            _check_mergeable(model)
        else:
            check_smallest(job.budget, constraints)
        terms = self._terms(model, constraints.groups, images, comparison, job)
        factor = terms.factor(own.balance)
        rungs: Iterable[Rung] = [Rung(model, (), 0.0)]
        if own.tau:
            rungs = merge_ladder(model, merge_score(model, images, comparison, factor), own.merge_step)
        chosen, split = best_on_ladder(rungs, terms.scores(factor), job.budget, constraints)
        plan = PrunePlan(
            model_sha256=model.info.weights_sha256,
            method="optin",
            criterion=f"trajectory-{own.scores}",
            scope="global",
            budget=str(job.budget),
            achieved=split.remaining,
            seed=job.seed,
            cuts=split.cuts,
            merges=chosen.merges,
        )
        return Outcome(plan, model)

    def _terms(self, model: Model, groups: Groups, images: Tensor, comparison: Comparison, job: Job) -> Terms:
        if self.settings.scores == "exact":
            return exact_terms(model, groups, images, comparison, job.progress)
        probes = Probes(self.settings.probes, job.seed)
        return estimated_terms(model, groups, images, comparison, probes, job.progress)


def _check_mergeable(model: Model) -> None:
    if model.info.merges:
        raise BadInput("the model merges tokens already", "prune it without prune.optin.tau")
    check_merges(model, ())


def best_on_ladder(
    rungs: Iterable[Rung], scores: Scores, budget: Budget, constraints: Constraints
) -> tuple[Rung, Split]:
    """The rung, and the split of what it leaves of the budget, with the least total of merges' and units' scores.

    Raises BudgetError if no rung can meet the budget.
    """
    found: list[tuple[Rung, Split]] = []
    refused: BudgetError | None = None
    axes = tuple({group.axis for group in constraints.groups})
    for rung in rungs:
        merged = budget.remaining(rung.model.cost, constraints.cost.dense)
        if merged < (1 - TOLERANCE) * budget.fraction:
            break  # merging alone is more than the budget asks for
        if merged <= budget.fraction:
            found.append((rung, Split((), 0.0, merged)))
            continue
        left = Budget(budget.quantity, budget.fraction / merged)
        own = replace(constraints, groups=rung.model.groups.along(axes), cost=rung.model.cost_model)
        try:
            split = best_split(scores, left, own)
        except BudgetError as error:
            refused = refused or error
            continue
        found.append((rung, replace(split, remaining=split.remaining * merged)))
    if not found:
        raise refused or BudgetError(f"{budget} cannot be met", "use a smaller prune.optin.merge_step")
    return min(found, key=lambda pair: pair[0].importance + pair[1].removed_importance)


def drawn(calibration: Calibration, count: int) -> Tensor:
    """[images, 3, S, S]: up to `count` calibration images, in equal numbers from every domain; DataError for none."""
    parts = []
    for number, domain in enumerate(calibration.domains):
        batches = [batch.images for batch in calibration.of(domain)]
        if not batches:
            continue
        images = torch.cat(batches)
        share = (count + len(calibration.domains) - 1 - number) // len(calibration.domains)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(calibration.seed))
        parts.append(images[order[:share]])
    if not sum(map(len, parts)):
        raise DataError("there are no calibration images to compare the model's outputs on")
    return torch.cat(parts)


PLUGIN: Method = Optin()
