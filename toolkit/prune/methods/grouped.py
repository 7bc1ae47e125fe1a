"""Grouped structural pruning of ViT, BEiT and DeiT (Riaz & Smeaton, "The effects of grouped structural global pruning
of vision transformers on domain generalisation", 2025).

A criterion scores every unit with all its coupled weights, a scope decides which units compete for the budget, and the
units are removed in one or several steps. Each step scores the remaining model again, and keeps the same fraction of
it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from toolkit import recipe
from toolkit.models.groups import Groups, Scores
from toolkit.models.model import Model
from toolkit.models.selection import Selection
from toolkit.models.surgery import Removal, remove
from toolkit.prune.budget import Budget, budget_of
from toolkit.prune.criteria import criterion
from toolkit.prune.fill_budget import check_reachable, fill_budget, ratio_of, removed_by
from toolkit.prune.methods import Job, Method, Outcome
from toolkit.prune.scopes import Constraints, scope
from toolkit.records import Cut, PrunePlan


class Grouped(Method):
    """Score, select and remove units step by step; the budget holds for the last step."""

    def check_budget(self, model: Model, settings: recipe.Prune) -> None:
        constraints = Constraints(model.groups.along(settings.axes), model.cost_model, settings.round_to)
        ranking = scope(settings.scope, settings.own(settings.scope))
        check_reachable(ranking, budget_of(settings), constraints, settings.steps)

    def prune(self, model: Model, job: Job) -> Outcome:
        settings, budget = job.settings, job.budget
        scorer = criterion(settings.criterion, settings.own(settings.criterion))
        ranking = scope(settings.scope, settings.own(settings.scope))
        allowed = model.groups.along(settings.axes)
        constraints = Constraints(allowed, model.cost_model, settings.round_to)
        check_reachable(ranking, budget, constraints, settings.steps)
        cuts: tuple[Cut, ...] = ()
        for done in range(settings.steps):
            job.progress(done, settings.steps)
            constraints = replace(constraints, final=done + 1 == settings.steps)
            if not cuts:
                scores = scorer.score(model.module, job.calibration, allowed)
            else:
                constraints = replace(constraints, removed=removed_by(cuts, allowed))
                removal = remove(model, cuts)
                remaining = removal.model.groups.along(settings.axes)
                scores = _in_source(scorer.score(removal.model.module, job.calibration, remaining), removal, allowed)
            step_budget = _partial(budget, (done + 1) / settings.steps)
            cuts = fill_budget(ranking.pools(scores, constraints), step_budget, constraints)
        job.progress(settings.steps, settings.steps)
        plan = PrunePlan(
            model_sha256=model.info.weights_sha256,
            method="grouped",
            criterion=settings.criterion,
            scope=settings.scope,
            budget=str(budget),
            achieved=_achieved(budget, cuts, constraints, model.groups),
            seed=job.seed,
            cuts=cuts,
        )
        return Outcome(plan, model)


def _partial(budget: Budget, progress: float) -> Budget:
    """The budget after the fraction `progress` of all steps: each step keeps the same fraction of the step before."""
    if budget.quantity == "ratio":
        return Budget("ratio", 1 - (1 - budget.fraction) ** progress)
    return Budget(budget.quantity, budget.fraction**progress)


def _in_source(scores: Scores, removal: Removal, groups: Groups) -> Scores:
    """Scores of the pruned model's units at their indices in the source model; NaN for removed units."""
    result = {group.key: torch.full((group.units,), torch.nan, dtype=torch.float64) for group in groups}
    for key, values in scores.items():
        place, units = removal.origin[key]
        result[place, key[1]][list(units)] = values
    return result


def _achieved(budget: Budget, cuts: tuple[Cut, ...], constraints: Constraints, groups: Groups) -> float:
    """Fraction of units removed, or of MACs or parameters that remain."""
    if budget.quantity == "ratio":
        return ratio_of(cuts, constraints.groups)
    cost = constraints.cost
    return budget.remaining(cost.after_removing(Selection(groups, cuts).removed), cost.dense)


PLUGIN: Method = Grouped()
