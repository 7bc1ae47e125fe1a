"""Pruning without training or labels: fewer tokens, and narrower layers with repaired weights.

Our own combination of published parts. The last block computes only the tokens that the classifier reads, which is
exact. Query/key and value units are removed in the basis `svd`; MLP units by optimal brain surgeon, with weights
repaired by least squares (as in ZipLM, 2023); similar tokens are merged in a few blocks (as in ToMe, 2023); images may
be smaller. How much of each, block by block, is searched within the budget (`toolkit.prune.search`). At the end,
`sequential` repairs the whole residual stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from toolkit import recipe
from toolkit.errors import BadInput
from toolkit.models.model import Model
from toolkit.models.resize import check_sizes, resized
from toolkit.models.tokens import block_indices, can_merge, tokens_of
from toolkit.prune.budget import Budget, budget_of
from toolkit.prune.cost_table import CostTable, CountedTable, shape_of, total
from toolkit.prune.grid import FEWEST_TOKENS, grid_of
from toolkit.prune.methods import Job, Method, Outcome
from toolkit.prune.search.schedule import Tokens
from toolkit.prune.search.searcher import Effort, Found, Searcher, best_of, cheapest, check_reachable
from toolkit.prune.search.space import AXES, Space, narrowest
from toolkit.prune.verified_search import Candidate, search_by_latency
from toolkit.records import LatencyRecord, Matching, PrunePlan
from toolkit.section import Section
from toolkit.setting_types import Listed, Positive

DEFAULTS: Mapping[str, object] = {"axes": AXES, "basis": "svd", "compensation": "sequential"}
"""Those of `recipe.Prune` as well, since a method that is chosen by default brings none."""


class Settings(Section):
    trials: Positive = 120
    """Number of models that the search judges, at each image size."""
    merges: Annotated[int, Field(ge=0)] = 4
    """Maximum number of blocks that merge tokens."""
    fewest_tokens: Annotated[float, Field(ge=FEWEST_TOKENS, le=1)] = 0.4
    """Fewest tokens that merges leave, as a fraction of the dense model's. With fewer, a model is closer to the dense
    one before fine-tuning, but, as measured, not more accurate after it."""
    matching: Matching = "bipartite"
    """Which tokens are merged: the most similar ones of every second token (bipartite), or all but an even grid of
    tokens (grid)."""
    tokens_multiple: Positive = 1
    """Numbers of tokens after a merge are multiples of this; 8 suits tensor cores."""
    trim_last_block: bool = True
    """Let the last block compute only the tokens that the classifier reads, which changes no prediction."""
    final_steps: Positive = 40
    """Training steps of each finalist."""
    image_sizes: Annotated[tuple[Positive, ...], Listed] = ()
    """Smaller image sizes to search as well, in pixels."""


@dataclass(frozen=True)
class Oneshot(Method):
    """Searches over image sizes, merges and widths."""

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
        budget, sizes = budget_of(settings), self._image_sizes(model)
        if budget.quantity == "latency":  # known once the cost table is measured
            return
        table = _counted(model, budget, self.settings.matching)
        lower = [resized(model, size) for size in sizes]
        spaces = [Space(each, {}, self._tokens(each, model, budget), table, self._trims(model)) for each in lower]
        widths = narrowest(model, settings.axes, settings.round_to)
        dense = total(table, shape_of(model))
        check_reachable(table.unit, budget.limit(dense), dense, [cheapest(space, widths) for space in spaces])

    def prune(self, model: Model, job: Job) -> Outcome:
        self.check(job.settings)
        budget, searchers = job.budget, [self._searcher(model, size, job) for size in self._image_sizes(model)]
        dense = shape_of(model)

        def search(table: CostTable, limit: float) -> Candidate[Found]:
            found = best_of(searchers, table, limit, total(table, dense))
            return Candidate(found, found.shape(table), found.unrepaired())

        if budget.quantity == "latency":
            assert job.latency is not None
            tokens = searchers[0].effort.tokens
            matching = tokens.matching if tokens.most_merges else None
            grid = grid_of(model, job.settings.axes, matching, self.settings.image_sizes)
            candidate, record = search_by_latency(model, budget, job.latency, grid, search)
            return _outcome(candidate.choice, job, record.measured_ms / record.dense_ms, record)
        table = _counted(model, budget, self.settings.matching)
        found = best_of(searchers, table, budget.limit(total(table, dense)), total(table, dense))
        return _outcome(found, job, total(table, found.shape(table)) / total(table, dense), None)

    def _image_sizes(self, model: Model) -> tuple[int, ...]:
        """The dense model's image size and the others."""
        own, others = model.info.image_size, self.settings.image_sizes
        check_sizes(model, others, dynamic=False)
        if too_large := [size for size in others if size >= own]:
            raise BadInput(
                f"prune.oneshot.image_sizes are below the dense model's size of {own} pixels, not {too_large[0]}",
                "set model.image_size to the largest size",
            )
        return (own, *others)

    def _searcher(self, model: Model, size: int, job: Job) -> Searcher:
        own, settings = self.settings, job.settings
        effort = Effort(
            image_size=size,
            axes=settings.axes,
            round_to=settings.round_to,
            tokens=self._tokens(resized(model, size), model, job.budget),
            trim_last_block=self._trims(model),
            trials=own.trials,
            finalists=settings.finalists,
            final_steps=own.final_steps,
            seed=job.seed,
        )
        judgements = job.scratch() / f"laps-{size}.jsonl" if job.scratch else None
        return Searcher(model, job.calibration, effort, job.progress, judgements)

    def _tokens(self, model: Model, dense: Model, budget: Budget) -> Tokens:
        own, prefix = self.settings, model.parts.prefix_tokens
        return Tokens(
            blocks=block_indices(model.info),
            patches=tokens_of(model) - prefix,
            prefix=prefix,
            multiple=own.tokens_multiple,
            matching=own.matching,
            most_merges=own.merges if can_merge(model) and budget.quantity != "params" else 0,
            dense=tokens_of(dense),
            least=own.fewest_tokens,
        )

    def _trims(self, model: Model) -> bool:
        return self.settings.trim_last_block and model.parts.classifier_tokens is not None


def _counted(model: Model, budget: Budget, matching: Matching) -> CountedTable:
    return CountedTable(model, "MACs" if budget.quantity == "macs" else "parameters", matching)


def _outcome(found: Found, job: Job, achieved: float, latency: LatencyRecord | None) -> Outcome:
    model, choice = found.searcher.model, found.trial.choice
    plan = PrunePlan(
        model_sha256=model.info.weights_sha256,
        method="oneshot",
        criterion="divergence",
        scope="search",
        budget=str(job.budget),
        achieved=achieved,
        seed=job.seed,
        cuts=choice.cuts(found.searcher.ladders),
        merges=choice.merges,
        trim_last_block=found.searcher.effort.trim_last_block,
        latency=latency,
    )
    return Outcome(plan, model)


PLUGIN: Method = Oneshot()
