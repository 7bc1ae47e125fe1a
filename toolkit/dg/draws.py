"""Which images each training step draws, and the random streams of their augmentation.

Both are functions of the seed and of the step, so that the batches of step 700 are the same whether training was
interrupted or not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

ORDER, STREAM, CALIBRATION, VIEW = range(4)
"""What a random stream of a domain is for: the second number of its path."""


class Draw(NamedTuple):
    """An image that a step draws."""

    domain: int
    draw: int
    """Number of images drawn from this domain before."""
    image: int
    """Index of the image in its domain."""
    view: int | None
    """Number of the view of this image; None: a new one in each draw."""

    def generator(self, seed: int, *purpose: int) -> np.random.Generator:
        """Random generator of this draw or view, an independent one for each purpose."""
        if self.view is None:
            return rng(seed, self.domain, STREAM, self.draw, *purpose)
        return rng(seed, self.domain, VIEW, self.image, self.view, *purpose)


@dataclass(frozen=True)
class Draws:
    """The endless sequence of draws: each step draws `counts[domain]` images of every domain.

    A domain is reshuffled whenever all its images have been drawn; small domains repeat more often than large ones.
    """

    sizes: tuple[int, ...]
    """Number of images of each domain."""
    counts: tuple[int, ...]
    """Number of images of each domain in a step."""
    seed: int
    views: int = 0
    """Number of views of each image, one after the other; 0: each draw is a new view."""

    def steps(self, first: int, end: int) -> list[list[Draw]]:
        """The draws of the steps [first, end), domain by domain within a step."""
        domains = range(len(self.sizes))
        queues = [self._queue(domain, first * self.counts[domain], end * self.counts[domain]) for domain in domains]
        return [
            [
                draw
                for queue, count in zip(queues, self.counts, strict=True)
                for draw in queue[step * count : step * count + count]
            ]
            for step in range(end - first)
        ]

    def _queue(self, domain: int, first: int, end: int) -> list[Draw]:
        """The draws [first, end) of a domain."""
        size = self.sizes[domain]
        epochs = range(first // size, -(-end // size))
        order = [rng(self.seed, domain, ORDER, epoch).permutation(size) for epoch in epochs]
        return [
            Draw(
                domain,
                draw,
                int(order[draw // size - epochs.start][draw % size]),
                draw // size % self.views if self.views else None,
            )
            for draw in range(first, end)
        ]


def rng(seed: int, *path: int) -> np.random.Generator:
    """An independent random generator for each path."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=path))
