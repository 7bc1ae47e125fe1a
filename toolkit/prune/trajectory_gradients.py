"""Estimates of the trajectory distance of all units at once, from gradients of gates along random directions (ours).

At the dense model the distance and its gradient are zero, so it is estimated by its second-order part. With J the
derivative of what is compared with respect to a unit's gate, masking the unit changes it by about -J, and both terms
are squared norms of J. A squared norm is the mean of (r . J)^2 over random r with independent standard normal
components (Hutchinson, 1990), and r . J for all units at once is one backward pass.

- distance: |dF F^T + F dF^T|^2 = 2 |dF F^T|^2 + 2 tr((F^T dF)^2). The first term is a sum over tokens, so (r . J)^2 may
  be summed over images, each with a gate of its own: its mean is the same, its variance far less. The second, in which
  changes of different images add up, is left out: for DeiT-Tiny's MLP units, its median is 1.5 % of the first.
- divergence: 1/2 dz^T (diag(p) - p p^T) dz, with the logits z and p = softmax(z / T), summed over images likewise.

A block's own output does not count for its units (but for the last block's): the gradient of the later blocks' terms
and that of the own term are propagated apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from toolkit.models.groups import Group, Groups, Scores
from toolkit.models.model import Model
from toolkit.models.modes import evaluating
from toolkit.progress import Progress, silent
from toolkit.prune.trajectory import (
    Classifier,
    Comparison,
    Terms,
    Trajectory,
    attach_gate,
    classifier_of,
    index_of,
    recorded,
)

IMAGES_AT_ONCE = 32
"""Images whose activations are kept for the backward passes through a block."""


@dataclass(frozen=True)
class Probes:
    """Random directions."""

    count: int
    """Directions for each of the two terms."""
    seed: int


@dataclass
class _Direction:
    """A random direction, and a gradient on its way from the last block to the first."""

    at_output: Tensor
    """[images, tokens, width]: gradient of the terms after a block, with respect to the block's output."""
    is_distance: bool
    generator: torch.Generator


def estimated_terms(
    model: Model, groups: Groups, images: Tensor, comparison: Comparison, probes: Probes, progress: Progress = silent
) -> Terms:
    """Estimates of `exact_terms`: two forward passes, and about three backward passes for each pair of directions."""
    with evaluating(model.module):
        trajectory = recorded(model.module, images, comparison)
        directions = list(_directions(trajectory, classifier_of(model.module, images), probes))
        sums = _Sums(model, trajectory, Terms({}, {}))
        depth = len(trajectory.outputs)
        for index in reversed(range(depth)):
            progress(depth - 1 - index, depth)
            sums.add_block(index, [group for group in groups if index_of(group, model) == index], directions)
    progress(depth, depth)
    return Terms(*({key: total / probes.count for key, total in sums.of(kind).items()} for kind in (True, False)))


@dataclass(frozen=True)
class _Sums:
    """Sums of the squared gradients of all gates over directions and images, block by block."""

    model: Model
    trajectory: Trajectory
    terms: Terms

    def of(self, is_distance: bool) -> Scores:
        """The sums of one of the two terms."""
        return self.terms.distances if is_distance else self.terms.divergences

    def add_block(self, index: int, groups: Sequence[Group], directions: Sequence[_Direction]) -> None:
        """Add the gates of a block's `groups`, and propagate all directions from the block's output to its input."""
        last = index + 1 == len(self.trajectory.outputs)
        at_inputs: list[list[Tensor]] = [[] for _ in directions]
        own = [
            _distance_gradient(self.trajectory, index, one.generator)
            if one.is_distance
            else torch.zeros_like(one.at_output)
            for one in directions
        ]
        for part in torch.arange(len(self.trajectory.logits)).split(IMAGES_AT_ONCE):
            gates = {group.key: torch.ones(len(part), group.units, requires_grad=True) for group in groups}
            x, output = self._block(index, part, groups, gates)
            for number, one in enumerate(directions):
                later, rest = one.at_output[part], own[number][part]
                if last:
                    later, rest = later + rest, torch.zeros_like(rest)
                gradients = torch.autograd.grad(output, [x, *gates.values()], later, retain_graph=True)
                at_input = gradients[0]
                if bool(rest.any()):
                    at_input = at_input + torch.autograd.grad(output, x, rest, retain_graph=True)[0]
                at_inputs[number].append(at_input)
                self._add(one.is_distance, dict(zip(gates, gradients[1:], strict=True)))
        for one, parts in zip(directions, at_inputs, strict=True):
            one.at_output = torch.cat(parts)

    def _block(self, index: int, part: Tensor, groups: Sequence[Group], gates: Scores) -> tuple[Tensor, Tensor]:
        """Input and output of a block for some of the images, with their gates."""
        x, sizes = self.trajectory.inputs[index][part].requires_grad_(), self.trajectory.sizes[index]
        with ExitStack() as stack:
            for group in groups:
                attach_gate(self.model.module, group, gates[group.key], stack)
            output, _ = self.model.blocks[index][1](x, None if sizes is None else sizes[part])
        return x, output

    def _add(self, is_distance: bool, gradients: Scores) -> None:
        """Add the squares of gradients [images, units], summed over images."""
        totals = self.of(is_distance)
        for key, gradient in gradients.items():
            squares = gradient.double().square().sum(dim=0)
            totals[key] = totals[key] + squares if key in totals else squares


def _directions(trajectory: Trajectory, classify: Classifier, probes: Probes) -> Iterator[_Direction]:
    """All directions, with the gradients of the logits' terms with respect to the last block's output."""
    for number in range(2 * probes.count):
        generator = torch.Generator().manual_seed(probes.seed * 2 * probes.count + number)
        last = trajectory.outputs[-1]
        if number % 2:
            yield _Direction(_divergence_gradient(trajectory, classify, generator), False, generator)
        else:
            yield _Direction(torch.zeros_like(last), True, generator)


def _divergence_gradient(trajectory: Trajectory, classify: Classifier, generator: torch.Generator) -> Tensor:
    """Gradient of r . A dz / sqrt(2 images) with A A^T = diag(p) - p p^T: its square has the divergence as its mean."""
    logits = trajectory.logits
    p = F.softmax(logits / trajectory.comparison.temperature, dim=-1)
    r = p.sqrt() * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    cotangent = (r - p * r.sum(dim=-1, keepdim=True)) / (2 * len(logits)) ** 0.5
    parts: list[Tensor] = []
    for part in torch.arange(len(logits)).split(IMAGES_AT_ONCE):
        tokens = trajectory.outputs[-1][part].requires_grad_()
        parts += torch.autograd.grad(classify(tokens), tokens, cotangent[part])
    return torch.cat(parts)


def _distance_gradient(trajectory: Trajectory, index: int, generator: torch.Generator) -> Tensor:
    """Gradient of sqrt(2) r . dF F^T, of which the mean square is 2 |dF F^T|^2, with respect to a block's output."""
    output, comparison = trajectory.outputs[index], trajectory.comparison
    (features,) = comparison.features(output)  # [K, width]
    count = len(features)
    cotangent = 2**0.5 * torch.randn(count, count, generator=generator, dtype=features.dtype) @ features
    tangential = cotangent - features * (features * cotangent).sum(dim=-1, keepdim=True)
    chosen = comparison.positions(*output.shape[:2])
    flat = output.flatten(0, 1)
    lengths = flat[chosen].norm(dim=-1, keepdim=True).clamp_min(1e-12)
    return torch.zeros_like(flat).index_copy(0, chosen, tangential / lengths).view_as(output)
