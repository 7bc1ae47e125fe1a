"""Schedules: how many tokens each block leaves, and random changes of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from toolkit.prune.grid import FEWEST_TOKENS
from toolkit.records import Matching, Merge

FIRST, LAST = 0.2, 0.85
"""Merges are in blocks between these fractions of the depth: tokens of early blocks are not comparable yet, and merges
after late ones save little."""
LEAST_KEPT = 0.5
"""Smallest fraction of the patches that a merge may leave: bipartite matching merges at most half."""
STRONGEST = 8.0
"""Exponent at which every merge of a template leaves the fewest tokens."""


@dataclass(frozen=True)
class Tokens:
    """Numbers of tokens of a model without merges."""

    blocks: tuple[int, ...]
    """Index of each block in the source architecture."""
    patches: int
    prefix: int
    """Class and register tokens."""
    multiple: int = 1
    """Numbers of tokens after a merge are multiples of this."""
    matching: Matching = "bipartite"
    most_merges: int = 4
    """Maximum number of blocks that merge tokens."""
    dense: int = 0
    """Number of tokens of the dense model, if its images are larger."""
    least: float = FEWEST_TOKENS
    """Fewest tokens that are left, as a fraction of the dense model's: at least FEWEST_TOKENS, to which cost tables are
    measured."""

    @property
    def fewest(self) -> int:
        """Fewest tokens that a schedule leaves."""
        number = max(self.prefix + 1, math.ceil(self.least * max(self.total, self.dense)))
        return self.multiple * -(-number // self.multiple)

    @property
    def total(self) -> int:
        return self.patches + self.prefix

    @property
    def sites(self) -> range:
        """Positions of the blocks that may merge tokens."""
        depth = len(self.blocks)
        return range(max(1, round(FIRST * depth)), max(2, min(round(LAST * depth), depth - 1)))


@dataclass(frozen=True)
class Schedule:
    """Fraction of the patches that is left by each merge, by the position of its block."""

    kept: tuple[tuple[int, float], ...] = ()

    def merges(self, tokens: Tokens) -> tuple[Merge, ...]:
        """Merges with whole numbers of tokens; those that would merge nothing are left out."""
        merges, now, exact = [], tokens.total, float(tokens.patches)
        for position, fraction in self.kept:
            exact *= fraction
            wanted = tokens.multiple * round((tokens.prefix + exact) / tokens.multiple)
            fewest = tokens.prefix + ((now - tokens.prefix) // 2 if tokens.matching == "bipartite" else 1)
            fewest = max(tokens.fewest, tokens.multiple * -(-fewest // tokens.multiple))
            if (after := max(wanted, fewest)) < now:
                merges.append(Merge(tokens.blocks[position], after, tokens.matching))
                now = after
        return tuple(merges)

    def stronger(self, exponent: float) -> Schedule:
        """Every fraction to this power: above 1, fewer tokens are left."""
        return Schedule(tuple((position, max(LEAST_KEPT, fraction**exponent)) for position, fraction in self.kept))


def tokens_after(merges: Sequence[Merge], tokens: Tokens) -> list[int]:
    """Number of tokens after each block."""
    left = {merge.block: merge.tokens for merge in merges}
    counts, now = [], tokens.total
    for block in tokens.blocks:
        now = left.get(block, now)
        counts.append(now)
    return counts


def templates(tokens: Tokens) -> Iterator[Schedule]:
    """Schedules to start from: evenly spaced merges that begin at different blocks; none if there are no merges."""
    first, last, most = tokens.sites[0], tokens.sites[-1], tokens.most_merges
    for count, start, gap in itertools.product(range(min(2, most), most + 1), range(first, first + 3), (1, 2)):
        positions = tuple(start + gap * number for number in range(count))
        if positions and positions[-1] <= last and not (count == 1 and gap > 1):
            yield Schedule(tuple((position, 0.7) for position in positions))


def strongest(tokens: Tokens) -> list[Schedule]:
    """Schedules that save the most: no merges, and all templates with as few tokens as possible."""
    return [Schedule(), *(template.stronger(STRONGEST) for template in templates(tokens))]


def mutated(schedule: Schedule, tokens: Tokens, spread: float, generator: np.random.Generator) -> Schedule:
    """A random neighbour with at least one merge; spread: size of the change, from 0 to 1."""
    kept = dict(schedule.kept)
    free = [position for position in tokens.sites if position not in kept]
    possible = {"scale": True, "shift": len(kept) > 1, "move": bool(free), "drop": len(kept) > 1}
    possible["add"] = bool(free) and len(kept) < tokens.most_merges
    move = generator.choice([name for name, allowed in possible.items() if allowed])
    if move == "scale":
        return schedule.stronger(float(np.exp(0.3 * spread * generator.standard_normal())))
    if move == "move":
        position = int(generator.choice(sorted(kept)))
        near = sorted(free, key=lambda other: (abs(other - position), other))[:2]
        kept[near[int(generator.integers(len(near)))]] = kept.pop(position)
        return _schedule(kept)
    strengths = {position: -np.log(fraction) for position, fraction in kept.items()}  # their sum is kept
    total = sum(strengths.values())
    if move == "shift":
        strengths = {
            position: value * np.exp(spread * generator.standard_normal()) for position, value in strengths.items()
        }
    elif move == "add":
        strengths[int(generator.choice(free))] = total / len(strengths)
    else:
        strengths.pop(int(generator.choice(sorted(kept))))
    scale = total / sum(strengths.values())
    return _schedule({position: float(np.exp(-scale * value)) for position, value in strengths.items()})


def _schedule(kept: Mapping[int, float]) -> Schedule:
    return Schedule(tuple(sorted((position, max(LEAST_KEPT, fraction)) for position, fraction in kept.items())))
