"""Calibration images, on which criteria, bases, compensations and methods evaluate a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from toolkit.dg.batches import Batch


@dataclass(frozen=True)
class Calibration:
    """Training images of the source domains, without augmentation. They are decoded by each call of `load` or `of`."""

    read: Callable[[Sequence[str]], Sequence[Batch]]
    """Decodes the images of these domains. Results do not depend on their order."""
    domains: tuple[str, ...]
    """Names of the source domains."""
    seed: int

    def load(self) -> Sequence[Batch]:
        """The images of all domains."""
        return self.read(self.domains)

    def of(self, domain: str) -> Sequence[Batch]:
        """The images of one domain."""
        return self.read((domain,))
