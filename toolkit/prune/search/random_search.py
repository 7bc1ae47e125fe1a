"""Random search over merges and error weights: the best of many choices, each with the best widths for its weights.

As in SPDY (Frantar and Alistarh, 2022), which ZipLM (2023) uses: dynamic programming needs a weight for the error of
each layer, and which weights are right is only seen in the whole model. Here, merges of tokens are drawn as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from toolkit.models.groups import Key
from toolkit.progress import Progress, silent
from toolkit.prune.search.schedule import Schedule, mutated, templates
from toolkit.prune.search.space import Choice, Space, Weights

Divergence = Callable[[Choice], float]
PARENTS = 4
"""Number of best trials that are varied."""
SHARES = (1.0, 0.75, 0.5)
"""How much of the savings the first schedules make by merging; widths make the rest."""
REDRAWN = 0.1
"""Fraction of the error weights that a variation changes."""


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
    most_merges: int
    """Largest number of blocks that merge tokens; 0: tokens are not merged."""
    seed: int
    progress: Progress = silent

    def run(self, weights: Weights) -> list[Trial]:
        """All trials, best first; `weights` are the first error weights. Empty if no choice is cheap enough."""
        generator = np.random.default_rng(self.seed)
        trials: dict[Choice, Trial] = {}
        for schedule in self._first():
            self._try(schedule, weights, trials)
        if self.space.allocate((), weights, self.limit) is not None:
            self._try(Schedule(), weights, trials)
        first = len(trials)
        attempts = 0
        while trials and len(trials) < self.trials and attempts < 20 * self.trials:
            attempts += 1
            best = sorted(trials.values(), key=lambda trial: trial.divergence)[:PARENTS]
            parent = best[int(generator.integers(len(best)))]
            spread = 1.0 - 0.8 * (len(trials) - first) / max(1, self.trials - first)
            self._vary(parent, spread, generator, trials)
        return sorted(trials.values(), key=lambda trial: trial.divergence)

    def _first(self) -> Iterator[Schedule]:
        """Schedules to start from, that leave so many tokens that widths make the rest of the savings."""
        if not self.most_merges:
            return
        full = self.space.cost((), {})
        for share in SHARES:
            target = full - share * (full - self.limit)
            for template in templates(self.space.tokens, self.most_merges):
                if (schedule := self._scaled(template, target)) is not None:
                    yield schedule

    def _scaled(self, template: Schedule, target: float) -> Schedule | None:
        """The weakest such schedule that costs at most `target` at full width; None if there is none."""
        low, high = 0.0, 8.0
        if self.space.cost(template.stronger(high).merges(self.space.tokens), {}) > target:
            return None
        for _ in range(12):
            middle = (low + high) / 2
            cost = self.space.cost(template.stronger(middle).merges(self.space.tokens), {})
            low, high = (middle, high) if cost > target else (low, middle)
        return template.stronger(high)

    def _vary(self, parent: Trial, spread: float, generator: np.random.Generator, trials: dict[Choice, Trial]) -> None:
        schedule, weights = parent.schedule, parent.weights
        if self.most_merges and schedule.kept and generator.random() < 0.6:
            schedule = mutated(schedule, self.space.tokens, self.most_merges, spread, generator)
        else:
            weights = _redrawn(weights, spread, generator)
        self._try(schedule, weights, trials)

    def _try(self, schedule: Schedule, weights: Weights, trials: dict[Choice, Trial]) -> None:
        choice = self.space.allocate(schedule.merges(self.space.tokens), weights, self.limit)
        if choice is None or choice in trials:
            return
        trials[choice] = Trial(self.divergence(choice), choice, schedule, weights)
        best = min(trial.divergence for trial in trials.values())
        self.progress(len(trials), self.trials, f"divergence {best:.4f}")


def _redrawn(weights: Weights, spread: float, generator: np.random.Generator) -> Weights:
    """The weights with some of them multiplied by a random factor, of at least one group."""
    keys: list[Key] = sorted(weights)
    count = max(1, round(REDRAWN * len(keys)))
    chosen = {keys[index] for index in generator.choice(len(keys), size=count, replace=False)}
    if generator.random() < 0.3:  # all groups of one axis
        axis = keys[int(generator.integers(len(keys)))][1]
        factor = float(np.exp(spread * generator.standard_normal()))
        return {key: weights[key] * (factor if key[1] == axis else 1.0) for key in keys}
    return {
        key: weights[key] * float(np.exp(1.5 * spread * generator.standard_normal())) if key in chosen else weights[key]
        for key in keys
    }
