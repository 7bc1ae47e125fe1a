"""OPTIN, pruning in one shot without training (Khaki and Plataniotis, "The need for speed: pruning transformers with one
recipe", ICLR 2024). It reads no labels.

From the paper: the score of a head or MLP unit is the trajectory distance of the model with this unit masked, on one
batch: manifold distillation summed over all later blocks, plus a term on the logits (768 tokens, temperature 4, lambda
10); heads and MLP units are ranked globally, and every number of heads is tried (`split_search`).

Ours, where the paper and its code differ from each other or leave it open:

- Scores are not multiplied by a ramp over the units' indices, as the published code does for language models.
- The logits' term is scaled once for all units, so that the sums of both terms over all units have the ratio lambda; the
  published code scales each unit's by a power of ten.
- The last block has no later blocks: its own output counts, in full; the published code halves its scores, and those of
  heads.
- `scores: fast` estimates all scores at once by gradients (`trajectory_gradients`); `exact` masks one unit after the
  other, as published.
- Units are removed, not masked; every layer keeps a head and `round_to` MLP units.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from toolkit import recipe
from toolkit.errors import BadInput, DataError
from toolkit.models.groups import Scores
from toolkit.models.model import Model
from toolkit.prune.budget import budget_of
from toolkit.prune.calibration import Calibration
from toolkit.prune.methods import Job, Method, Outcome
from toolkit.prune.scopes import Constraints
from toolkit.prune.split_search import best_split, check_smallest
from toolkit.prune.trajectory import Comparison, exact_terms
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


@dataclass(frozen=True)
class Optin(Method):
    """Scores heads and MLP units by the trajectory distance, and searches for the split of the budget."""

    settings: Settings = Settings()

    def check(self, settings: recipe.Prune) -> None:
        """Raise BadInput for axes, budgets and steps that this method does not support."""
        if unsupported := [axis for axis in settings.axes if axis not in AXES]:
            raise BadInput(f"optin prunes heads and MLP units, not {', '.join(unsupported)}", "--axes head,mlp")
        if budget_of(settings).quantity == "ratio":
            raise BadInput("optin needs a budget of MACs or parameters, not a ratio", "--budget macs=0.5")
        if settings.steps != 1:
            raise BadInput(f"optin prunes in one step, not {settings.steps}", "--steps 1")

    def prune(self, model: Model, job: Job) -> Outcome:
        self.check(job.settings)
        budget = job.budget
        constraints = Constraints(model.groups.along(job.settings.axes), model.cost_model, job.settings.round_to)
        check_smallest(budget, constraints)
        split = best_split(self._scores(model, job, constraints), budget, constraints)
        plan = PrunePlan(
            model_sha256=model.info.weights_sha256,
            method="optin",
            criterion=f"trajectory-{self.settings.scores}",
            scope="global",
            budget=str(budget),
            achieved=split.remaining,
            seed=job.seed,
            cuts=split.cuts,
        )
        return Outcome(plan, model)

    def _scores(self, model: Model, job: Job, constraints: Constraints) -> Scores:
        own, images = self.settings, drawn(job.calibration, self.settings.images)
        comparison = Comparison(own.tokens, own.temperature, job.seed)
        if own.scores == "exact":
            terms = exact_terms(model, constraints.groups, images, comparison, job.progress)
        else:
            probes = Probes(own.probes, job.seed)
            terms = estimated_terms(model, constraints.groups, images, comparison, probes, job.progress)
        return terms.balanced(own.balance)


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
