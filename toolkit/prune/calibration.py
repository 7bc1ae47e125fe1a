"""Calibration images, on which criteria, bases, compensations and methods evaluate a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from toolkit.dg.batches import Batch
from toolkit.dg.transforms import resampled
from toolkit.records import Aggregate


@dataclass(frozen=True)
class Calibration:
    """Training images of the source domains, without augmentation. They are decoded by each call of `load` or `of`."""

    read: Callable[[Sequence[str]], Sequence[Batch]]
    """Decodes the images of these domains. Results do not depend on their order."""
    domains: tuple[str, ...]
    """Names of the source domains."""
    seed: int
    aggregate: Aggregate = "mean"
    """Which error over the domains methods and compensations minimise."""

    def load(self) -> Sequence[Batch]:
        """The images of all domains."""
        return self.read(self.domains)

    def of(self, domain: str) -> Sequence[Batch]:
        """The images of one domain."""
        return self.read((domain,))

    def at(self, image_size: int) -> Calibration:
        """The images resampled to `image_size` x `image_size` pixels, for a model with another image size."""

        def read(domains: Sequence[str]) -> list[Batch]:
            batches = self.read(domains)
            return [Batch(resampled(batch.images, image_size), batch.labels) for batch in batches]

        return replace(self, read=read)

    def halves(self) -> tuple[Calibration, Calibration]:
        """Every second image of each domain, and the others."""

        def half(first: int) -> Calibration:
            def read(domains: Sequence[str]) -> list[Batch]:
                every = [batch for domain in domains for batch in self.of(domain)]
                chosen = (Batch(batch.images[first::2], batch.labels[first::2]) for batch in every)
                return [batch for batch in chosen if len(batch.labels)]

            return replace(self, read=read)

        return half(0), half(1)
