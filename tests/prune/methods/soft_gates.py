"""A pruning method that trains: gates with an L1 penalty, then hard pruning by the magnitude of the gates.

A plug-in as a user would write it, for the tests.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from toolkit.dg.batches import Batch
from toolkit.dg.extensions import TrainingExtension
from toolkit.dg.objectives import Classifier
from toolkit.models.gates import gated
from toolkit.models.groups import Key
from toolkit.models.model import Model
from toolkit.models.selection import Selection
from toolkit.prune.fill_budget import fill_budget
from toolkit.prune.methods import Job, Method, Outcome
from toolkit.prune.scopes import Constraints, scope
from toolkit.records import PrunePlan


class GatePenalty(TrainingExtension):
    """loss + strength * sum |g|; the gates are part of the model, so that the selected state includes them."""

    name = "gates"
    learning_rate = 0.05

    def __init__(self, gates: dict[Key, nn.Parameter], strength: float) -> None:
        self.modules = nn.ParameterList(gates.values())
        self.strength = strength

    def loss(self, step: int, model: Classifier, batches: Sequence[Batch], loss: Tensor, logits: Tensor) -> Tensor:
        return loss + self.strength * torch.cat(list(self.modules)).abs().sum()


class SoftGates(Method):
    """Trains a copy of the model with gates, and removes the units with the smallest gates."""

    trains = True

    def prune(self, model: Model, job: Job) -> Outcome:
        settings, budget = job.settings, job.budget
        trained = replace(model, module=copy.deepcopy(model.module))
        allowed = trained.groups.along(settings.axes)
        constraints = Constraints(allowed, trained.cost_model, settings.round_to)
        with gated(trained, [group.key for group in allowed]) as gates:
            job.train(trained, GatePenalty(gates, strength=0.01))
            scores = {key: gate.detach().abs().double() for key, gate in gates.items()}
        cuts = fill_budget(scope(settings.scope).pools(scores, constraints), budget, constraints)
        cost = trained.cost_model.after_removing(Selection(trained.groups, cuts).removed)
        achieved = budget.remaining(cost, trained.cost)
        plan = PrunePlan("", "soft-gates", "gate", settings.scope, str(budget), achieved, job.seed, cuts)
        return Outcome(plan, trained)


PLUGIN: Method = SoftGates()
