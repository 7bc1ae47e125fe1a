"""Searches of one model at one image size: within any budget, in the costs of any table. What they share is computed
once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from toolkit.errors import BudgetError
from toolkit.models.model import Model
from toolkit.models.resize import resized
from toolkit.models.surgery import remove
from toolkit.models.tokens import with_tokens
from toolkit.progress import Progress, silent
from toolkit.prune.calibration import Calibration
from toolkit.prune.cost_table import CostTable, ModelShape
from toolkit.prune.ladders import ladders
from toolkit.prune.rungs import LadderSettings
from toolkit.prune.search.finals import Lesson, lesson_of, train
from toolkit.prune.search.judge import Judge
from toolkit.prune.search.race import Judgements, Race
from toolkit.prune.search.random_search import RandomSearch, Trial
from toolkit.prune.search.schedule import Tokens, strongest
from toolkit.prune.search.sensitivity import sensitivities
from toolkit.prune.search.space import Choice, Kept, Space, Weights, narrowest
from toolkit.prune.search.stitching import Stitcher
from toolkit.records import Axis


@dataclass(frozen=True)
class Effort:
    """How a search is done."""

    image_size: int
    """Image size of the models that are searched, at most the dense model's."""
    axes: Sequence[Axis]
    round_to: int
    """Widths are multiples of this."""
    tokens: Tokens
    trim_last_block: bool
    trials: int
    """Number of models that are judged."""
    finalists: int
    """Number of best choices that are trained before one is chosen; 1: none."""
    final_steps: int
    """Training steps of each finalist."""
    seed: int


class Searcher:
    """Half of the calibration images fit weights, the other half judge whole models."""

    def __init__(
        self,
        dense: Model,
        calibration: Calibration,
        effort: Effort,
        progress: Progress = silent,
        judgements: Path | None = None,
    ) -> None:
        """judgements: file in which they are kept, to go on after a kill."""
        self.effort, self._progress, size = effort, progress, effort.image_size
        self.model = dense if size == dense.info.image_size else resized(dense, size).identified()
        fitting, judging = calibration.halves()
        images = {domain: judging.of(domain) for domain in judging.domains}
        self._judge = Judge(dense.module, images, calibration.aggregate == "worst", size)
        self.ladders = ladders(self.model, fitting.at(size), effort.axes, LadderSettings(round_to=effort.round_to))
        self._stitcher = Stitcher(self.model, self.ladders, effort.trim_last_block)
        self._judgements = Judgements(judgements)
        self._dense, self._fitting = dense, fitting

    def space(self, table: CostTable) -> Space:
        """The search space with the costs of a table."""
        return Space(self.model, self.ladders, self.effort.tokens, table, self.effort.trim_last_block)

    def best(self, table: CostTable, limit: float) -> Trial | None:
        """The best trial that costs at most `limit`; None if no choice is so cheap."""
        space, effort = self.space(table), self.effort
        if self.cheapest(table) > limit:
            return None
        race = Race(self._judge, self._judgements, self._stitcher.module)
        search = RandomSearch(space, limit, race.divergence, effort.trials, effort.seed, self._progress)
        return self._winner(search.run(self._weights))

    def cheapest(self, table: CostTable) -> float:
        """The smallest cost that can be reached."""
        return cheapest(self.space(table), narrowest(self.model, self.effort.axes, self.effort.round_to))

    def unrepaired(self, choice: Choice) -> Model:
        """The model of a choice, to be measured: its weights are not repaired."""
        slim = with_tokens(self.model, choice.merges, self.effort.trim_last_block)
        if cuts := choice.cuts(self.ladders):
            slim = remove(slim, cuts).model
        return slim.identified()

    def _winner(self, trials: Sequence[Trial]) -> Trial:
        """The best trial: with finalists, by the divergence after their training."""
        if self.effort.finalists == 1:
            return trials[0]
        finalists = trials[: self.effort.finalists]
        trained = [replace(trial, divergence=self._after_training(trial.choice)) for trial in finalists]
        return min(trained, key=lambda trial: trial.divergence)

    def _after_training(self, choice: Choice) -> float:
        module, effort = self._stitcher.module(choice), self.effort
        train(module, self._lesson, effort.final_steps, effort.seed, self._progress)
        return self._judge.divergence(self._judge.judge(module))

    @cached_property
    def _lesson(self) -> Lesson:
        images, small = (
            [batch.images for batch in source.load()]
            for source in (self._fitting, self._fitting.at(self.effort.image_size))
        )
        return lesson_of(self._dense.module, images, small)

    @cached_property
    def _weights(self) -> Weights:
        def divergence(choice: Choice) -> float:
            return self._judge.on_first_images(self._stitcher.module(choice))

        return sensitivities(self.ladders, divergence, self._progress)


def cheapest(space: Space, smallest_widths: Kept) -> float:
    """The smallest cost of the choices that a search knows."""
    merges = (schedule.merges(space.tokens) for schedule in strongest(space.tokens))
    return min(space.cost(each, smallest_widths) for each in merges)


class Found(NamedTuple):
    """The best trial of a search."""

    searcher: Searcher
    trial: Trial

    def shape(self, table: CostTable) -> ModelShape:
        """Sizes of the model."""
        choice = self.trial.choice
        return self.searcher.space(table).shape(choice.merges, dict(choice.kept))

    def unrepaired(self) -> Model:
        """The model without repaired weights, to be measured."""
        return self.searcher.unrepaired(self.trial.choice)


def best_of(searchers: Sequence[Searcher], table: CostTable, limit: float, dense: float) -> Found:
    """The best trial of all searchers that costs at most `limit`; the dense model costs `dense`.

    Raises BudgetError with the smallest cost that can be reached.
    """
    found = [Found(searcher, trial) for searcher in searchers if (trial := searcher.best(table, limit)) is not None]
    if not found:
        check_reachable(table.unit, limit, dense, [searcher.cheapest(table) for searcher in searchers])
    return min(found, key=lambda each: each.trial.divergence)


def check_reachable(unit: str, limit: float, dense: float, cheapest: Sequence[float]) -> None:
    """Raise BudgetError, with the smallest cost, if none of the cheapest models costs at most `limit`."""
    if (smallest := min(cheapest)) > limit:
        raise BudgetError(
            f"{limit / dense:.3g} of the {unit} cannot be reached: the smallest model that this search knows has "
            f"{math.ceil(1000 * smallest / dense) / 1000:g}",
            "choose a larger budget, or allow more (prune.axes, prune.round_to, prune.oneshot.merges or fewest_tokens)",
        )
