"""Pruning without training or labels: fewer tokens, and narrower layers with repaired weights.

Our own combination of published parts. The last block computes only the tokens that the classifier reads, which is
exact. Query/key and value units are removed in the basis `svd`; MLP units by optimal brain surgeon, with weights
repaired by least squares (as in ZipLM, 2023); similar tokens are merged in a few blocks (as in ToMe, 2023). How much of
each, block by block, is searched within the budget: see `toolkit.prune.search`.

Half of the calibration images fit the weights, the other half judge whole models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from toolkit.errors import BudgetError
from toolkit.models.model import Model
from toolkit.models.tokens import block_indices, can_merge, tokens_of
from toolkit.prune.cost_table import CountedTable, shape_of, total
from toolkit.prune.ladders import ladders
from toolkit.prune.least_squares import Aggregate
from toolkit.prune.methods import Job, Method, Outcome
from toolkit.prune.rungs import LadderSettings
from toolkit.prune.search.judge import Judge
from toolkit.prune.search.random_search import RandomSearch, Trial
from toolkit.prune.search.schedule import Tokens
from toolkit.prune.search.sensitivity import sensitivities
from toolkit.prune.search.space import AXES, Choice, Space
from toolkit.prune.search.stitching import Stitcher
from toolkit.records import Axis, Matching, PrunePlan
from toolkit.section import Section
from toolkit.setting_types import Positive


class Settings(Section):
    trials: Positive = 150
    """Number of models that the search judges."""
    merges: Annotated[int, Field(ge=0)] = 4
    """Maximum number of blocks that merge tokens."""
    matching: Matching = "bipartite"
    """Which tokens are merged: the most similar ones of every second token (bipartite), or all but an even grid of
    tokens (grid)."""
    tokens_multiple: Positive = 1
    """Numbers of tokens after a merge are multiples of this: 8 suits tensor cores."""
    trim_last_block: bool = True
    """Let the last block compute only the tokens that the classifier reads, which changes no prediction."""
    aggregate: Aggregate = "mean"
    """Divergence from the dense model over the source domains: their mean, or the worst."""


@dataclass(frozen=True)
class Oneshot(Method):
    """Search over merges and widths."""

    quantities = ("macs", "params", "latency")
    settings: Settings = Settings()

    def prune(self, model: Model, job: Job) -> Outcome:
        fitting, judging = job.calibration.halves()
        found = ladders(model, fitting, _axes(job), LadderSettings(round_to=job.settings.round_to))
        table = CountedTable(model, "MACs" if job.budget.quantity == "macs" else "parameters")
        trim = self.settings.trim_last_block and model.parts.classifier_tokens is not None
        space = Space(model, found, self._tokens(model), table, trim)
        stitcher = Stitcher(space)
        images = {domain: judging.of(domain) for domain in judging.domains}
        judge = Judge(model.module, images, worst=self.settings.aggregate == "worst")

        def divergence(choice: Choice) -> float:
            return judge.divergence(stitcher.module(choice))

        weights = sensitivities(space, divergence, job.progress)
        dense = total(table, shape_of(model))
        merges = self.settings.merges if can_merge(model) and job.budget.quantity != "params" else 0
        search = RandomSearch(
            space, job.budget.limit(dense), divergence, self.settings.trials, merges, job.seed, job.progress
        )
        trials = search.run(weights)
        if not trials:
            raise BudgetError("unreachable")
        return Outcome(self._plan(space, trials[0], job, dense), model)

    def _tokens(self, model: Model) -> Tokens:
        prefix = model.parts.prefix_tokens
        return Tokens(
            blocks=block_indices(model.info),
            patches=tokens_of(model) - prefix,
            prefix=prefix,
            multiple=self.settings.tokens_multiple,
            matching=self.settings.matching,
        )

    def _plan(self, space: Space, best: Trial, job: Job, dense: float) -> PrunePlan:
        choice = best.choice
        return PrunePlan(
            model_sha256=space.model.info.weights_sha256,
            method="oneshot",
            criterion="divergence",
            scope="search",
            budget=str(job.budget),
            achieved=space.cost(choice.merges, dict(choice.kept)) / dense,
            seed=job.seed,
            cuts=space.cuts(choice),
            merges=choice.merges,
            trim_last_block=space.trim,
        )


def _axes(job: Job) -> list[Axis]:
    return list(AXES)


PLUGIN: Method = Oneshot()
