"""Batches of images for training, evaluation and scoring.

Every random decision about an image is drawn from a stream of its own, seeded by (seed, domain, how many images of that
domain came before). So the batches of step 700 are the same however training got there: in one go, after a kill, with
one process that loads images or with eight.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from toolkit import limits
from toolkit.dg.image import Image
from toolkit.dg.transforms import Transform, evaluation_transform, training_transform
from toolkit.errors import DataError, ToolkitError
from toolkit.recipe import Training
from toolkit.records import ModelInfo

Parts: TypeAlias = Mapping[str, Sequence[Image]]
"""Images by the name of their domain."""
Item: TypeAlias = tuple[torch.Tensor, int] | DataError
"""What a data set gives its loader. An error travels as a value: raised in another process, it would come back as the
text of that process's traceback."""
LOST_PROCESS = "DataLoader worker"
"""How torch's message begins of a process that loads images and has died."""


class Batch(NamedTuple):
    """Images of one domain, or of several for scoring."""

    images: torch.Tensor
    """[batch, 3, image_size, image_size], float32, normalised."""
    labels: torch.Tensor
    """[batch], int64."""


def images_per_domain(settings: Training, domains: int) -> int:
    """Images of each source domain in one step: equal parts of the batch, rounded up."""
    return -(-settings.batch_size // domains)


@dataclass(frozen=True)
class TrainingBatches:
    """The endless sequence of training batches: for each step, one batch of every source domain.

    A domain is shuffled, used up, and shuffled anew; small domains go round more often than large ones.
    """

    parts: Parts
    info: ModelInfo
    settings: Training
    seed: int
    workers: int | None = None

    def steps(self, first: int, end: int) -> Iterator[tuple[Batch, ...]]:
        """Batches of the steps first, ..., end - 1."""
        each = images_per_domain(self.settings, len(self.parts))
        places = [self._places(domain, first * each, end * each) for domain in range(len(self.parts))]
        loader = DataLoader(
            _Draws(tuple(self.parts.values()), training_transform(self.settings, self.info), self.seed),
            batch_sampler=[
                [(domain, *place) for domain, of in enumerate(places) for place in of[start : start + each]]
                for start in range(0, (end - first) * each, each)
            ],
            num_workers=_processes(chain(*self.parts.values()), self.workers),
            collate_fn=_collated,
            generator=torch.Generator(),  # else the loader would draw from the caller's global one
        )
        for images, labels in _loaded(loader):
            yield tuple(Batch(*pair) for pair in zip(images.split(each), labels.split(each), strict=True))

    def _places(self, domain: int, first: int, end: int) -> list[tuple[int, int]]:
        """The draws first, ..., end - 1 of a domain: (number of the draw, index of its image)."""
        size = len(list(self.parts.values())[domain])
        rounds = range(first // size, -(-end // size))
        order = np.concatenate([_stream(self.seed, domain, 0, turn).permutation(size) for turn in rounds])
        skipped = rounds.start * size
        return [(draw, int(order[draw - skipped])) for draw in range(first, end)]


def evaluation_batches(
    images: Sequence[Image], info: ModelInfo, batch_size: int, workers: int | None = None
) -> Iterator[tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]]:
    """All images in their order: ([batch, 3, image_size, image_size], [batch]); the last batch may be smaller.

    Raises DataError where there are no images: nothing evaluated is no success.
    """
    for batch in _in_order(images, info, batch_size, workers):
        yield batch.images.numpy(), batch.labels.numpy()


def calibration_batches(parts: Parts, info: ModelInfo, samples: int, batch_size: int, seed: int) -> list[Batch]:
    """`samples` images without augmentation, drawn in equal numbers from every domain of `parts`, domains mixed.

    A domain that has fewer gives all it has. Give the training parts: scores must not see an image that is evaluated.
    """
    drawn: list[list[Image]] = []
    for index, images in enumerate(parts.values()):
        count = (samples + len(parts) - 1 - index) // len(parts)
        order = _stream(seed, index, 2).permutation(len(images))[:count]
        drawn.append([images[place] for place in order])
    mixed = [image for turn in zip_longest(*drawn) for image in turn if image is not None]
    return list(_in_order(mixed, info, batch_size, workers=0))  # too few to start processes for


@dataclass(frozen=True)
class _Draws(Dataset[Item]):
    """Item (domain, draw, index): an image of a domain, augmented with the random numbers of this draw."""

    parts: tuple[Sequence[Image], ...]
    transform: Transform
    seed: int

    def __getitem__(self, item: tuple[int, int, int]) -> Item:
        domain, draw, index = item
        image = self.parts[domain][index]
        numbers = int(_stream(self.seed, domain, 1, draw).integers(2**63))
        try:
            return _augmented(image, self.transform, numbers), image.label
        except DataError as error:
            return error


@dataclass(frozen=True)
class _Plain(Dataset[Item]):
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


def _augmented(image: Image, transform: Transform, seed: int) -> torch.Tensor:
    """The transform with its random numbers seeded; the generators of the caller are left as they were."""
    picture = image.decode()
    state = random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            random.seed(seed)
            torch.default_generator.manual_seed(seed)
            return transform(picture)
    finally:
        random.setstate(state)


def _in_order(images: Sequence[Image], info: ModelInfo, batch_size: int, workers: int | None) -> Iterator[Batch]:
    if not images:
        raise DataError("there are no images to look at")
    loader = DataLoader(
        _Plain(images, evaluation_transform(info)),
        batch_size=batch_size,
        num_workers=_processes(images, workers),
        collate_fn=_collated,
        generator=torch.Generator(),
    )
    yield from _loaded(loader)


def _collated(items: list[Item]) -> Batch | DataError:
    """A batch, or the first error among its images."""
    for item in items:
        if isinstance(item, DataError):
            return item
    images, labels = default_collate(items)
    return Batch(images, labels)


def _loaded(loader: DataLoader[Item]) -> Iterator[Batch]:
    """A loader's batches. Raises the DataError that an image has met, and ToolkitError where a process was lost."""
    try:
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch
    except RuntimeError as error:  # torch has no kind of its own for it
        if LOST_PROCESS not in str(error):
            raise
        raise ToolkitError(
            "a process that loads images was lost, perhaps for lack of memory or of shared memory",
            "load them in this process (--workers 0), or give the container more: docker run --shm-size 1g",
        ) from error


def _processes(images: Iterable[Image], workers: int | None) -> int:
    """Processes that load images. Files: one fewer than the cores, which leaves one to train; in memory: none."""
    if workers is not None:
        return workers
    if not any(isinstance(image.source, Path) for image in images):
        return 0
    return limits.cores() - 1


def _stream(seed: int, *path: int) -> np.random.Generator:
    """Random numbers of their own for each path."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=path))
