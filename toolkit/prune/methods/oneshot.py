"""Pruning without training or labels: fewer tokens, and narrower layers with repaired weights.

Our own combination of published parts. The last block computes only the tokens that the classifier reads, which is
exact. Query/key and value units are removed in the basis `svd`; MLP units by optimal brain surgeon, with weights
repaired by least squares (as in ZipLM, 2023); similar tokens are merged in a few blocks (as in ToMe, 2023). How much of
each, block by block, is searched within the budget (`toolkit.prune.search`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from toolkit import recipe
from toolkit.errors import BadInput
from toolkit.models.model import Model
from toolkit.models.tokens import block_indices, can_merge, tokens_of
from toolkit.prune.budget import Budget, budget_of
from toolkit.prune.cost_table import CountedTable, shape_of, total
from toolkit.prune.grid import grid_of
from toolkit.prune.least_squares import Aggregate
from toolkit.prune.methods import Job, Method, Outcome
from toolkit.prune.search.schedule import Tokens
from toolkit.prune.search.searcher import Effort, Searcher, check_reachable
from toolkit.prune.search.space import AXES, Choice, Space, narrowest
from toolkit.prune.verified_search import search_by_latency
from toolkit.records import LatencyRecord, Matching, PrunePlan
from toolkit.section import Section
from toolkit.setting_types import Positive

DEFAULTS: Mapping[str, object] = {"axes": AXES, "basis": "svd", "compensation": "obs"}


class Settings(Section):
    trials: Positive = 120
    """Number of models that the search judges."""
    merges: Annotated[int, Field(ge=0)] = 4
    """Maximum number of blocks that merge tokens."""
    matching: Matching = "bipartite"
    """Which tokens are merged: the most similar ones of every second token (bipartite), or all but an even grid of
    tokens (grid)."""
    tokens_multiple: Positive = 1
    """Numbers of tokens after a merge are multiples of this; 8 suits tensor cores."""
    trim_last_block: bool = True
    """Let the last block compute only the tokens that the classifier reads, which changes no prediction."""
    aggregate: Aggregate = "mean"
    """Divergence from the dense model over the source domains: their mean, or the worst."""


@dataclass(frozen=True)
class Oneshot(Method):
    """Searches over merges and widths."""

    quantities = ("macs", "params", "latency")
    settings: Settings = Settings()
    defaults: Mapping[str, object] = field(default_factory=lambda: DEFAULTS)

    def check(self, settings: recipe.Prune) -> None:
        """Raise BadInput for axes and steps that this method does not support."""
        if unsupported := [axis for axis in settings.axes if axis not in AXES]:
            raise BadInput(
                f"oneshot prunes {', '.join(AXES)}, not {', '.join(unsupported)}", f"--axes {','.join(AXES)}"
            )
        if settings.steps != 1:
            raise BadInput(f"oneshot prunes in one step, not {settings.steps}", "--steps 1")

    def check_budget(self, model: Model, settings: recipe.Prune) -> None:
        budget = budget_of(settings)
        if budget.quantity == "latency":  # known once the cost table is measured
            return
        tokens, table = self._tokens(model, budget), _counted(model, budget, self.settings.matching)
        space = Space(model, {}, tokens, table, self._trims(model))
        dense = total(table, shape_of(model))
        check_reachable(space, narrowest(model, settings.axes, settings.round_to), budget.limit(dense))

    def prune(self, model: Model, job: Job) -> Outcome:
        self.check(job.settings)
        effort, budget = self._effort(model, job), job.budget
        judgements = job.scratch / "judgements.jsonl" if job.scratch else None
        searcher = Searcher(model, job.calibration, effort, job.progress, judgements)
        if budget.quantity == "latency":
            assert job.latency is not None
            grid = grid_of(model, effort.axes, effort.tokens.matching if effort.tokens.most_merges else None)
            found, record = search_by_latency(model, budget, job.latency, grid, searcher.candidate)
            achieved = record.measured_ms / record.dense_ms
            return Outcome(_plan(found.choice, searcher, job, achieved, record), model)
        table = _counted(model, budget, self.settings.matching)
        dense = total(table, shape_of(model))
        choice = searcher.best(table, budget.limit(dense))
        achieved = searcher.space(table).cost(choice.merges, dict(choice.kept)) / dense
        return Outcome(_plan(choice, searcher, job, achieved, None), model)

    def _effort(self, model: Model, job: Job) -> Effort:
        own, settings = self.settings, job.settings
        return Effort(
            axes=settings.axes,
            round_to=settings.round_to,
            tokens=self._tokens(model, job.budget),
            trim_last_block=self._trims(model),
            trials=own.trials,
            worst=own.aggregate == "worst",
            seed=job.seed,
        )

    def _tokens(self, model: Model, budget: Budget) -> Tokens:
        own, prefix = self.settings, model.parts.prefix_tokens
        return Tokens(
            blocks=block_indices(model.info),
            patches=tokens_of(model) - prefix,
            prefix=prefix,
            multiple=own.tokens_multiple,
            matching=own.matching,
            most_merges=own.merges if can_merge(model) and budget.quantity != "params" else 0,
        )

    def _trims(self, model: Model) -> bool:
        return self.settings.trim_last_block and model.parts.classifier_tokens is not None


def _counted(model: Model, budget: Budget, matching: Matching) -> CountedTable:
    return CountedTable(model, "MACs" if budget.quantity == "macs" else "parameters", matching)


def _plan(choice: Choice, searcher: Searcher, job: Job, achieved: float, latency: LatencyRecord | None) -> PrunePlan:
    return PrunePlan(
        model_sha256=searcher.model.info.weights_sha256,
        method="oneshot",
        criterion="divergence",
        scope="search",
        budget=str(job.budget),
        achieved=achieved,
        seed=job.seed,
        cuts=choice.cuts(searcher.ladders),
        merges=choice.merges,
        trim_last_block=searcher.effort.trim_last_block,
        latency=latency,
    )


PLUGIN: Method = Oneshot()
