"""Batches of images for training, evaluation and calibration.

Each image is augmented with a separate random stream, seeded by (seed, domain, number of images drawn from that domain
before). The batches of step 700 are therefore the same whether training was interrupted or not, and with any number of
worker processes.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from toolkit import limits
from toolkit.dg.draws import CALIBRATION, Draw, Draws, rng
from toolkit.dg.image import Image
from toolkit.dg.transforms import Transform, evaluation_transform, training_transform
from toolkit.errors import DataError, ToolkitError
from toolkit.recipe import Training
from toolkit.records import ModelInfo

ImagesByDomain: TypeAlias = Mapping[str, Sequence[Image]]
"""Images by domain name."""
Item: TypeAlias = tuple[torch.Tensor, int] | DataError
"""A sample with its label, or an error. Errors are passed as values, because torch re-raises an exception of a worker
process with the worker's traceback as its message."""
WORKER_DIED = "DataLoader worker"
"""Part of torch's error message for a worker process that died."""


class Batch(NamedTuple):
    """Images and labels, of one domain or (for calibration) of several."""

    images: torch.Tensor
    """[batch, 3, image_size, image_size], float32, normalised."""
    labels: torch.Tensor
    """[batch], int64."""


def images_per_domain(settings: Training, domains: int, from_pictures: int = 0) -> int:
    """Images per source domain in one step: the rest of the batch size divided equally, rounded up."""
    return -(-(settings.batch_size - from_pictures) // domains)


@dataclass(frozen=True)
class TrainingBatches:
    """The endless sequence of training batches: for each step, one batch of every source domain, and one of `pictures`
    if there are any.

    Each domain is reshuffled whenever all its images have been drawn; small domains repeat more often than large ones.
    """

    images: ImagesByDomain
    info: ModelInfo
    settings: Training
    seed: int
    workers: int | None = None
    pictures: Sequence[Image] = ()
    """Images of no domain."""
    share: float = 0.0
    """Fraction of each step's images that are `pictures`."""
    views: int = 0
    """Number of augmented views of each image; 0: a new one in each draw."""

    @property
    def draws(self) -> Draws:
        """Which images each step draws."""
        from_pictures = max(1, round(self.share * self.settings.batch_size)) if self.pictures else 0
        per_domain = images_per_domain(self.settings, len(self.images), from_pictures)
        sizes = (*map(len, self.images.values()), *([len(self.pictures)] if self.pictures else []))
        counts = (*[per_domain] * len(self.images), *([from_pictures] if self.pictures else []))
        return Draws(sizes, counts, self.seed, self.views)

    def steps(self, first: int, end: int) -> Iterator[tuple[Batch, ...]]:
        """Batches of the steps [first, end)."""
        draws = self.draws
        groups = (*self.images.values(), *([self.pictures] if self.pictures else []))
        loader = DataLoader(
            _TrainingDataset(groups, training_transform(self.settings, self.info), self.seed),
            batch_sampler=draws.steps(first, end),
            num_workers=_num_workers(chain(*groups), self.workers),
            collate_fn=_collate,
            generator=torch.Generator(),  # by default, the loader draws from the caller's global generator
        )
        for images, labels in _load(loader):
            parts = zip(images.split(draws.counts), labels.split(draws.counts), strict=True)
            yield tuple(Batch(*pair) for pair in parts)


def evaluation_batches(
    images: Sequence[Image], info: ModelInfo, batch_size: int, workers: int | None = None
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """All images in order: ([batch, 3, image_size, image_size], [batch]); the last batch may be smaller.

    Raises DataError if there are no images: evaluating nothing is not a success.
    """
    for batch in _ordered_batches(images, info, batch_size, workers):
        yield batch.images.numpy(), batch.labels.numpy()


def calibration_images(images: ImagesByDomain, samples: int, seed: int) -> dict[str, list[Image]]:
    """`samples` images, drawn in equal numbers from every domain; all images of a domain that has fewer.

    Pass training images: scores must not depend on evaluation images.
    """
    drawn = {}
    for domain, (name, candidates) in enumerate(images.items()):
        count = (samples + len(images) - 1 - domain) // len(images)
        order = rng(seed, domain, CALIBRATION).permutation(len(candidates))[:count]
        drawn[name] = [candidates[index] for index in order]
    return drawn


def calibration_batches(images: ImagesByDomain, info: ModelInfo, batch_size: int) -> CalibrationBatches:
    """All images without augmentation, alternating between domains."""
    mixed = [image for row in zip_longest(*images.values()) for image in row if image is not None]
    return CalibrationBatches(mixed, info, batch_size)


@dataclass(frozen=True)
class CalibrationBatches(Sequence[Batch]):
    """Batches of images in order, without augmentation.

    They are decoded on each access, so that one at a time is in memory.
    """

    images: Sequence[Image]
    info: ModelInfo
    batch_size: int

    def __len__(self) -> int:
        return len(range(0, len(self.images), self.batch_size))

    def __getitem__(self, index: Any) -> Any:
        """The batch of an index, or a list of batches for a slice."""
        if isinstance(index, slice):
            return [self[position] for position in range(len(self))[index]]
        start = range(0, len(self.images), self.batch_size)[index]
        (batch,) = _ordered_batches(self.images[start : start + self.batch_size], self.info, self.batch_size, workers=0)
        return batch

    def __iter__(self) -> Iterator[Batch]:
        if self.images:
            yield from _ordered_batches(self.images, self.info, self.batch_size, workers=0)  # few: no processes


@dataclass(frozen=True)
class _TrainingDataset(Dataset[Item]):
    """Items by `Draw`: an image of a domain, augmented with the random stream of this draw."""

    images: tuple[Sequence[Image], ...]
    transform: Transform
    seed: int

    def __getitem__(self, draw: Draw) -> Item:
        image = self.images[draw.domain][draw.image]
        seed = int(draw.generator(self.seed).integers(2**63))
        try:
            return _augment(image, self.transform, seed), image.label
        except DataError as error:
            return error


@dataclass(frozen=True)
class _EvaluationDataset(Dataset[Item]):
    """Images in order, without augmentation."""

    images: Sequence[Image]
    transform: Transform

    def __getitem__(self, index: int) -> Item:
        image = self.images[index]
        try:
            return self.transform(image.decode()), image.label
        except DataError as error:
            return error

    def __len__(self) -> int:
        return len(self.images)


def _augment(image: Image, transform: Transform, seed: int) -> torch.Tensor:
    """Apply a transform with seeded random numbers; restores the state of the caller's generators."""
    pixels = image.decode()
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            torch.default_generator.manual_seed(seed)
            return transform(pixels)
    finally:
        random.setstate(state)


def _ordered_batches(images: Sequence[Image], info: ModelInfo, batch_size: int, workers: int | None) -> Iterator[Batch]:
    if not images:
        raise DataError("there are no images to evaluate")
    loader = DataLoader(
        _EvaluationDataset(images, evaluation_transform(info)),
        batch_size=batch_size,
        num_workers=_num_workers(images, workers),
        collate_fn=_collate,
        generator=torch.Generator(),
    )
    yield from _load(loader)


def _collate(items: list[Item]) -> Batch | DataError:
    """The batch, or the first error among its items."""
    for item in items:
        if isinstance(item, DataError):
            return item
    images, labels = default_collate(items)
    return Batch(images, labels)


def _load(loader: DataLoader[Item]) -> Iterator[Batch]:
    """A loader's batches. Raises the DataError of an unreadable image, and ToolkitError if a worker process died."""
    try:
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    except RuntimeError as error:  # torch has no exception class for dead workers
        if WORKER_DIED not in str(error):
            raise
        raise ToolkitError(
            "a worker process that loads images died, perhaps for lack of memory or shared memory",
            "load images in the main process (--workers 0), or give the container more: docker run --shm-size 1g",
        ) from error


def _num_workers(images: Iterable[Image], workers: int | None) -> int:
    """Worker processes; default: one fewer than CPU cores for files, which leaves one for training; none for images in
    memory."""
    if workers is not None:
        return workers
    if not any(isinstance(image.source, Path) for image in images):
        return 0
    return limits.cores() - 1
