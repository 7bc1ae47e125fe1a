"""Second moments of activations over calibration images, per source domain.

Products are accumulated in float64 by forward hooks, batch by batch: memory depends on widths, not on the number of
images. A constant 1 is appended to the activations, so that their means are known as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from toolkit.dg.batches import Batch
from toolkit.errors import DataError
from toolkit.models.modes import evaluating
from toolkit.prune.calibration import Calibration

MIN_IMAGES = 2
"""Minimum number of calibration images, for activations to have a spread between images."""
BLOCK = 256
"""Rows of a matrix of second moments that are computed at a time."""
PASS_BYTES = 1 << 30
"""Maximum size of the matrices that are collected in one pass over the images; more take several passes."""


Sums: TypeAlias = Callable[[Sequence[Tensor]], Tensor]
"""A module's positional arguments to [units + 1, units + 1] float64, the sum of [x, 1]^T [x, 1] over all tokens."""


@dataclass(frozen=True)
class Probe:
    """Activations to observe: a function of a module's input."""

    module: str
    """Name of the module."""
    units: int
    sums: Sums


@dataclass(frozen=True)
class Moments:
    """Second moments of activations x [tokens, units] with a constant 1 appended, of one domain or a mixture."""

    second: Tensor
    """[units + 1, units + 1] float64: E[[x, 1]^T [x, 1]]; multiplied by a positive number in a mixture."""
    tokens: int

    @property
    def mean(self) -> Tensor:
        """[units]: E[x]"""
        return self.second[-1, :-1] / self.second[-1, -1]

    @property
    def covariance(self) -> Tensor:
        """[units, units]: E[(x - E[x])^T (x - E[x])]. Least squares with it have a free, undamped constant."""
        return self.second[:-1, :-1] - torch.outer(self.second[-1, :-1], self.mean)

    @property
    def uncentred(self) -> Tensor:
        """[units, units]: E[x^T x]"""
        return self.second[:-1, :-1]

    def about(self, centred: bool) -> Tensor:
        """[units, units]: the covariance, or the uncentred second moments."""
        return self.covariance if centred else self.uncentred


@dataclass(frozen=True)
class DomainMoments:
    """Second moments of the same activations in each source domain."""

    by_domain: Mapping[str, Moments]

    def mixed(self, weights: Mapping[str, float] | None = None) -> Moments:
        """The mixture of the domains, each scaled to the same E[|x|^2], their mean.

        weights: a weight for each domain, of sum 1; default: equal weights. Domains count the same, however many images
        they have and however large their activations are.
        """
        domains = self.by_domain.values()
        if len(domains) == 1:
            return next(iter(domains))
        traces = [float(moments.uncentred.trace()) for moments in domains]
        mean = sum(traces) / len(traces)
        total = torch.zeros_like(next(iter(domains)).second)
        for (name, moments), trace in zip(self.by_domain.items(), traces, strict=True):
            share = 1 / len(traces) if weights is None else weights[name]
            total += moments.second * (share * mean / trace if trace > 0 else share)
        return Moments(total, sum(moments.tokens for moments in domains))


def input_of(name: str, module: nn.Module) -> Probe:
    """Input of the linear layer of this name."""
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Linear)
    return Probe(name, layer.in_features, lambda received: sums_of(received[0]))


def sums_of(x: Tensor) -> Tensor:
    """[units + 1, units + 1] float64: sum of [x, 1]^T [x, 1] over the tokens of x [batch, tokens, units]."""
    return gram(with_ones(x).flatten(0, -2).double())


def with_ones(x: Tensor) -> Tensor:
    """[..., units + 1]: x [..., units] and a constant 1."""
    return torch.cat([x, torch.ones_like(x[..., :1])], dim=-1)


def gram(rows: Tensor) -> Tensor:
    """[units, units]: rows^T rows of [rows, units], of which half is computed, in blocks: the product is symmetric."""
    units = rows.shape[1]
    total = rows.new_empty(units, units)
    for start in range(0, units, BLOCK):
        end = min(start + BLOCK, units)
        total[start:end, :end] = rows[:, start:end].T @ rows[:, :end]
        total[:start, start:end] = total[start:end, :start].T
    return total


def collect(
    module: nn.Module, probes: Mapping[str, Probe], calibration: Calibration
) -> Iterator[tuple[str, DomainMoments]]:
    """Second moments of each probe, one by one, in the order of `probes`.

    Raises DataError if there are too few calibration images, or if activations are not finite.
    """
    for names in _passes(probes, max(1, len(calibration.domains))):
        chosen = {name: probes[name] for name in names}
        images, found = 0, {}
        for domain in calibration.domains:
            count, found[domain] = _of_domain(module, chosen, calibration.of(domain), domain)
            images += count
        check_images(images)
        for name in names:
            yield name, DomainMoments({domain: moments.pop(name) for domain, moments in found.items()})


def check_finite(values: Tensor, name: str) -> None:
    """DataError if these sums of the activations at `name` are not finite."""
    if not bool(torch.isfinite(values).all()):
        raise DataError(
            f"activations at {name} are not finite on the calibration images",
            "the model's weights or the images contain NaN or infinity, or values overflow",
        )


def check_images(images: int) -> None:
    """DataError if there are too few calibration images for second moments."""
    if images == 0:
        raise DataError("there are no calibration images to measure activations on", "raise --samples, or give images")
    if images < MIN_IMAGES:
        raise DataError(
            f"there is only {images} calibration image, and covariances need at least {MIN_IMAGES}",
            "raise --samples; tens of images per domain are enough for most models",
        )


def _passes(probes: Mapping[str, Probe], domains: int) -> Iterator[list[str]]:
    """Names of the probes of each pass over the images, whose matrices take at most PASS_BYTES, or are a single one."""
    names: list[str] = []
    size = 0
    for name, probe in probes.items():
        needed = 8 * (probe.units + 1) ** 2 * domains
        if names and size + needed > PASS_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += needed
    if names:
        yield names


def _of_domain(
    module: nn.Module, probes: Mapping[str, Probe], batches: Iterable[Batch], domain: str
) -> tuple[int, dict[str, Moments]]:
    """Number of images of a domain, and moments of the activations on them."""
    sums: dict[str, Tensor] = {}

    def record(name: str, received: Sequence[Tensor]) -> None:
        added = probes[name].sums(received)
        sums[name] = sums[name].add_(added) if name in sums else added

    hooks = [
        module.get_submodule(probe.module).register_forward_pre_hook(lambda _, got, name=name: record(name, got))
        for name, probe in probes.items()
    ]
    images = 0
    try:
        with evaluating(module), torch.inference_mode():
            for batch in batches:
                module(batch.images)
                images += len(batch.images)
    finally:
        for hook in hooks:
            hook.remove()
    if not images:
        raise DataError(f"there are no calibration images of {domain!r}", "raise --samples, or leave the domain out")
    return images, {name: _moments(name, sums[name].clone()) for name in probes}


def _moments(name: str, total: Tensor) -> Moments:
    check_finite(total, name)
    tokens = int(total[-1, -1])
    return Moments((total / tokens).cpu(), tokens)
