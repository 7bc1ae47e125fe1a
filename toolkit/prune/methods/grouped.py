"""Grouped structural pruning of ViT, BEiT and DeiT (Riaz & Smeaton, "The effects of grouped structural global pruning
of vision transformers on domain generalisation", 2025).

A criterion scores every unit with all the weights that its group couples, an allocator spends the budget, and the units
go at once or in several rounds. Each round scores anew what the rounds before have left, and leaves the same factor.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from toolkit.models.groups import Groups, Scores
from toolkit.models.model import Model
from toolkit.models.selection import Selection
from toolkit.models.surgery import Removal, remove
from toolkit.prune.allocators import Terms, allocator
from toolkit.prune.budget import Budget, budget_of
from toolkit.prune.criteria import criterion
from toolkit.prune.methods import Job, Method
from toolkit.prune.spending import check_reachable, ratio_of, removed_by, spend
from toolkit.records import Cut, PrunePlan


class Grouped:
    def prune(self, model: Model, job: Job) -> PrunePlan:
        settings, budget = job.settings, budget_of(job.settings)
        scorer, spender = criterion(settings.criterion), allocator(settings.scope)
        allowed = model.groups.along(settings.axes)
        terms = Terms(allowed, model.cost_model, settings.round_to, partway=True)
        check_reachable(spender, budget, replace(terms, partway=False), settings.steps)
        cuts: tuple[Cut, ...] = ()
        for done in range(settings.steps):
            job.report(done, settings.steps)
            if done + 1 == settings.steps:
                terms = replace(terms, partway=False)
            if not cuts:
                scores = scorer.score(model.module, job.calibration, allowed)
            else:
                terms = replace(terms, gone=removed_by(cuts, allowed))
                removal = remove(model, cuts)
                left = removal.model.groups.along(settings.axes)
                scores = _in_source(scorer.score(removal.model.module, job.calibration, left), removal, allowed)
            cuts = spend(spender.pools(scores, terms), _after(budget, (done + 1) / settings.steps), terms)
        job.report(settings.steps, settings.steps)
        return PrunePlan(
            model_sha256=model.info.weights_sha256,
            method="grouped",
            criterion=settings.criterion,
            scope=settings.scope,
            budget=str(budget),
            met=_met(budget, cuts, terms, model.groups),
            seed=job.calibration.seed,
            cuts=cuts,
        )


def _after(budget: Budget, progress: float) -> Budget:
    """The budget part of the way: every round leaves the same factor of what the round before has left."""
    if budget.quantity == "ratio":
        return Budget("ratio", 1 - (1 - budget.share) ** progress)
    return Budget(budget.quantity, budget.share**progress)


def _in_source(scores: Scores, removal: Removal, groups: Groups) -> Scores:
    """Scores of a cut model's units at their indices in the model before; NaN for what was removed."""
    result = {group.key: torch.full((group.units,), torch.nan, dtype=torch.float64) for group in groups}
    for key, values in scores.items():
        place, units = removal.origin[key]
        result[place, key[1]][list(units)] = values
    return result


def _met(budget: Budget, cuts: tuple[Cut, ...], terms: Terms, groups: Groups) -> float:
    if budget.quantity == "ratio":
        return ratio_of(cuts, terms.groups)
    return budget.left(terms.cost.after_removing(Selection(groups, cuts).removed), terms.cost.dense)


PLUGIN: Method = Grouped()
