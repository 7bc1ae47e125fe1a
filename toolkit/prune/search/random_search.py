"""Random search over merges and error weights: the best of many choices, each with the best widths for its weights.

As in SPDY (Frantar and Alistarh, 2022), which ZipLM (2023) uses: dynamic programming needs a weight for the error of
each layer, and which weights are right is only seen in the whole model. Here, merges of tokens are drawn as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from toolkit.models.groups import Key
from toolkit.progress import Progress, silent
from toolkit.prune.search.schedule import STRONGEST, Schedule, mutated, templates
from toolkit.prune.search.space import Choice, Space, Weights

Divergence = Callable[[Choice], float]
PARENTS = 4
"""Number of best trials that are varied."""
SHARES = (0.8, 0.6)
"""How much of the savings the best first schedules also make by merging, while widths make the rest."""
REDRAWN = 0.1
"""Fraction of the error weights that a variation changes."""
ONE_AXIS = 0.3
"""Probability that a variation of the weights changes those of one axis together instead."""
OTHER_MERGES = 0.6
"""Probability that a variation changes the merges instead of the weights."""


@dataclass(frozen=True)
class Trial:
    """A judged choice."""

    divergence: float
    choice: Choice
    schedule: Schedule
    weights: Weights


@dataclass(frozen=True)
class RandomSearch:
    """Search within a budget."""

    space: Space
    limit: float
    """Largest cost."""
    divergence: Divergence
    trials: int
    """Maximum number of choices that are judged."""
    seed: int
    progress: Progress = silent

    def run(self, weights: Weights) -> list[Trial]:
        """All trials, best first; `weights` are the first error weights. Empty if no choice is cheap enough."""
        generator = np.random.default_rng(self.seed)
        trials: dict[Choice, Trial] = {}
        self._begin(weights, trials)
        first = len(trials)
        for attempt in range(20 * self.trials):
            if not trials:
                break
            best = sorted(trials.values(), key=lambda trial: trial.divergence)[:PARENTS]
            spread = 1.0 - 0.8 * (len(trials) - first) / max(1, self.trials - first)
            self._vary(best[attempt % len(best)], spread, generator, trials)
        return sorted(trials.values(), key=lambda trial: trial.divergence)

    def _begin(self, weights: Weights, trials: dict[Choice, Trial]) -> None:
        """Try widths alone, all templates for all of the savings, and the best of these for less."""
        self._try(Schedule(), weights, trials)
        full = self.space.cost((), {})
        for template in templates(self.space.tokens):
            self._try(self._scaled(template, self.limit), weights, trials)
        best = sorted(trials.values(), key=lambda trial: trial.divergence)[:PARENTS]
        for share, trial in itertools.product(SHARES, best):
            if trial.schedule.kept:
                self._try(self._scaled(trial.schedule, full - share * (full - self.limit)), weights, trials)

    def _scaled(self, template: Schedule, target: float) -> Schedule:
        """The template at the strength that costs `target` at full width, or the strongest."""
        low, high = 0.0, STRONGEST
        for _ in range(12):
            middle = (low + high) / 2
            cost = self.space.cost(template.stronger(middle).merges(self.space.tokens), {})
            low, high = (middle, high) if cost > target else (low, middle)
        return template.stronger(high)

    def _vary(self, parent: Trial, spread: float, generator: np.random.Generator, trials: dict[Choice, Trial]) -> None:
        """Try a neighbour of a trial: other merges, or other error weights."""
        schedule, weights = parent.schedule, parent.weights
        if schedule.kept and generator.random() < OTHER_MERGES:
            schedule = mutated(schedule, self.space.tokens, spread, generator)
        else:
            weights = _redrawn(weights, spread, generator)
        self._try(schedule, weights, trials)

    def _try(self, schedule: Schedule, weights: Weights, trials: dict[Choice, Trial]) -> None:
        """Judge the best widths for this schedule and these weights, unless they are known or there were enough."""
        if len(trials) >= self.trials:
            return
        choice = self.space.allocate(schedule.merges(self.space.tokens), weights, self.limit)
        if choice is None or choice in trials:
            return
        trials[choice] = Trial(self.divergence(choice), choice, schedule, weights)
        best = min(trial.divergence for trial in trials.values())
        self.progress(len(trials), self.trials, f"divergence {best:.4f}")


def _redrawn(weights: Weights, spread: float, generator: np.random.Generator) -> Weights:
    """The weights with those of some groups multiplied by random factors, or those of one axis by the same one."""
    keys: list[Key] = sorted(weights)
    factors = dict.fromkeys(keys, 1.0)
    if generator.random() < ONE_AXIS:
        axis = keys[int(generator.integers(len(keys)))][1]
        factor = float(np.exp(spread * generator.standard_normal()))
        factors |= {key: factor for key in keys if key[1] == axis}
    else:
        count = max(1, round(REDRAWN * len(keys)))
        for index in generator.choice(len(keys), size=count, replace=False):
            factors[keys[index]] = float(np.exp(1.5 * spread * generator.standard_normal()))
    return {key: weights[key] * factors[key] for key in keys}
