"""Searches of one model: within any budget, in the costs of any table. What they share is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from toolkit.errors import BudgetError
from toolkit.models.model import Model
from toolkit.models.surgery import remove
from toolkit.models.tokens import with_tokens
from toolkit.progress import Progress, silent
from toolkit.prune.calibration import Calibration
from toolkit.prune.cost_table import CostTable, shape_of, total
from toolkit.prune.ladders import ladders
from toolkit.prune.rungs import LadderSettings
from toolkit.prune.search.judge import Judge
from toolkit.prune.search.race import Judgements, Race
from toolkit.prune.search.random_search import RandomSearch
from toolkit.prune.search.schedule import Tokens, strongest
from toolkit.prune.search.sensitivity import sensitivities
from toolkit.prune.search.space import Choice, Kept, Space, Weights, narrowest
from toolkit.prune.search.stitching import Stitcher
from toolkit.prune.verified_search import Candidate
from toolkit.records import Axis


@dataclass(frozen=True)
class Effort:
    """How a search is done."""

    axes: Sequence[Axis]
    round_to: int
    """Widths are multiples of this."""
    tokens: Tokens
    trim_last_block: bool
    trials: int
    """Number of models that are judged."""
    worst: bool
    """Judge by the worst source domain instead of the mean."""
    seed: int


class Searcher:
    """Half of the calibration images fit weights, the other half judge whole models."""

    def __init__(
        self,
        model: Model,
        calibration: Calibration,
        effort: Effort,
        progress: Progress = silent,
        judgements: Path | None = None,
    ) -> None:
        """judgements: file in which they are kept, to go on after a kill."""
        self.model, self.effort, self._progress = model, effort, progress
        fitting, judging = calibration.halves()
        images = {domain: judging.of(domain) for domain in judging.domains}
        self._judge = Judge(model.module, images, effort.worst)
        self.ladders = ladders(model, fitting, effort.axes, LadderSettings(round_to=effort.round_to))
        self._stitcher = Stitcher(model, self.ladders, effort.trim_last_block)
        self._judgements = Judgements(judgements)

    def space(self, table: CostTable) -> Space:
        """The search space with the costs of a table."""
        return Space(self.model, self.ladders, self.effort.tokens, table, self.effort.trim_last_block)

    def best(self, table: CostTable, limit: float) -> Choice:
        """The best choice that costs at most `limit`. Raises BudgetError with the smallest cost that can be reached."""
        space, effort = self.space(table), self.effort
        check_reachable(space, narrowest(self.model, effort.axes, effort.round_to), limit)
        race = Race(self._judge, self._judgements, self._stitcher.module)
        search = RandomSearch(space, limit, race.divergence, effort.trials, effort.seed, self._progress)
        return search.run(self._weights)[0].choice

    def candidate(self, table: CostTable, limit: float) -> Candidate[Choice]:
        """The best choice as a model to be measured, whose weights are not repaired. Raises BudgetError as `best`."""
        best = self.best(table, limit)
        slim = with_tokens(self.model, best.merges, self.effort.trim_last_block)
        if cuts := best.cuts(self.ladders):
            slim = remove(slim, cuts).model
        return Candidate(best, self.space(table).shape(best.merges, dict(best.kept)), slim.identified())

    @cached_property
    def _weights(self) -> Weights:
        def divergence(choice: Choice) -> float:
            return self._judge.on_first_images(self._stitcher.module(choice))

        return sensitivities(self.ladders, divergence, self._progress)


def check_reachable(space: Space, smallest_widths: Kept, limit: float) -> None:
    """Raise BudgetError, with the smallest cost, if no choice of a space costs at most `limit`."""
    merges = (schedule.merges(space.tokens) for schedule in strongest(space.tokens))
    smallest = min(space.cost(each, smallest_widths) for each in merges)
    full = total(space.table, shape_of(space.model))
    if smallest > limit:
        raise BudgetError(
            f"{limit / full:.3g} of the {space.table.unit} cannot be reached: the smallest model that this search "
            f"knows has {smallest / full:.3g}",
            "choose a larger budget, or allow more (prune.axes, prune.round_to, prune.oneshot.merges)",
        )
