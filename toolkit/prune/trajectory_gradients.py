"""Estimates of the trajectory distance of all units at once, from gradients of gates along random directions (ours).

At the dense model the distance and its gradient are zero, so it is estimated by its second-order part. With J the
derivative of what is compared with respect to a unit's gate, masking the unit changes it by about -J, and both terms
are squared norms of J. A squared norm is the mean of (r . J)^2 over random r with independent standard normal
components (Hutchinson, 1990), and r . J for all units at once is one backward pass.

- distance: |dF F^T + F dF^T|^2 = 2 |dF F^T|^2 + 2 tr((F^T dF)^2). The first term is a sum over tokens, so that (r . J)^2
  may be summed over images, each with a gate of its own: its mean is the same, its variance far less. The second, which
  adds up coherent changes of all images, measured 1.5 % of the first for DeiT-Tiny and is left out.
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
    blocks_by_index,
    index_of,
    recorded,
    replaying,
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
class _Backward:
    """Gradients of one random direction, on their way from the last block to the first."""

    later: Tensor
    """[images, tokens, width]: gradient of the terms after a block with respect to its output."""
    is_distance: bool
    generator: torch.Generator


def estimated_terms(
    model: Model, groups: Groups, images: Tensor, comparison: Comparison, probes: Probes, progress: Progress = silent
) -> Terms:
    """Estimates of `exact_terms`: two forward passes, and about three backward passes for each direction."""
    blocks = blocks_by_index(model)
    with evaluating(model.module), replaying(model.module, images) as classify:
        with torch.no_grad():
            trajectory = recorded(model.module, images, comparison, classify)
        directions = list(_directions(trajectory, classify, probes))
        terms = Terms({}, {})
        for index in reversed(range(len(blocks))):
            progress(len(blocks) - 1 - index, len(blocks))
            own = [group for group in groups if index_of(group, model) == index]
            _through_block(model, trajectory, own, index, directions, terms)
    progress(len(blocks), len(blocks))
    for of in (terms.distances, terms.divergences):
        for key in of:
            of[key] /= probes.count
    return terms


def _directions(trajectory: Trajectory, classify: Classifier, probes: Probes) -> Iterator[_Backward]:
    """All directions, with the gradients of the logits' terms with respect to the last block's output."""
    for number in range(2 * probes.count):
        generator = torch.Generator().manual_seed(probes.seed * 2 * probes.count + number)
        last = trajectory.outputs[-1]
        if number % 2:
            yield _Backward(_divergence_gradient(trajectory, classify, generator), False, generator)
        else:
            yield _Backward(torch.zeros_like(last), True, generator)


def _divergence_gradient(trajectory: Trajectory, classify: Classifier, generator: torch.Generator) -> Tensor:
    """Gradient of r . A dz / sqrt(2 images) with A A^T = diag(p) - p p^T: its square has the divergence as its mean."""
    logits = trajectory.logits
    p = F.softmax(logits / trajectory.comparison.temperature, dim=-1)
    r = p.sqrt() * torch.randn(p.shape, generator=generator)
    cotangent = (r - p * r.sum(dim=-1, keepdim=True)) / (2 * len(logits)) ** 0.5
    parts = []
    for tokens, part in zip(
        trajectory.outputs[-1].split(IMAGES_AT_ONCE), cotangent.split(IMAGES_AT_ONCE), strict=True
    ):
        tokens = tokens.detach().requires_grad_()
        parts += torch.autograd.grad(classify(tokens), tokens, part)
    return torch.cat(parts)


def _distance_gradient(trajectory: Trajectory, index: int, generator: torch.Generator) -> Tensor:
    """Gradient of sqrt(2) r . dF F^T, of which the mean square is 2 |dF F^T|^2, with respect to a block's output."""
    output, comparison = trajectory.outputs[index], trajectory.comparison
    (features,) = comparison.features(output)  # [K, width]
    count = len(features)
    cotangent = 2**0.5 * torch.randn(count, count, generator=generator) @ features
    tangential = cotangent - features * (features * cotangent).sum(dim=-1, keepdim=True)
    chosen = comparison.positions(*output.shape[:2])
    flat = output.flatten(0, 1)
    lengths = flat[chosen].norm(dim=-1, keepdim=True)
    return torch.zeros_like(flat).index_copy(0, chosen, tangential / lengths).view_as(output)


def _through_block(
    model: Model,
    trajectory: Trajectory,
    groups: Sequence[Group],
    index: int,
    directions: Sequence[_Backward],
    terms: Terms,
) -> None:
    """Add the squared gradients of the gates in a block to `terms`, and propagate all directions to its input."""
    last = index + 1 == len(trajectory.outputs)
    own: list[Tensor | None] = [
        _distance_gradient(trajectory, index, one.generator) if one.is_distance else None for one in directions
    ]
    if last:
        for one, gradient in zip(directions, own, strict=True):
            one.later = one.later if gradient is None else one.later + gradient
        own = [None] * len(directions)
    propagated: list[list[Tensor]] = [[] for _ in directions]
    for part in torch.arange(len(trajectory.logits)).split(IMAGES_AT_ONCE):
        gates = {group.key: torch.ones(len(part), group.units, requires_grad=True) for group in groups}
        x = trajectory.inputs[index][part].requires_grad_()
        sizes = trajectory.sizes[index]
        with ExitStack() as stack:
            for group in groups:
                attach_gate(model.module, group, gates[group.key], stack)
            output, _ = blocks_by_index(model)[index](x, None if sizes is None else sizes[part])
        for number, one in enumerate(directions):
            gradients = torch.autograd.grad(output, [x, *gates.values()], one.later[part], retain_graph=True)
            at_input = gradients[0]
            if (gradient := own[number]) is not None:
                at_input = at_input + torch.autograd.grad(output, x, gradient[part], retain_graph=True)[0]
            propagated[number].append(at_input)
            _add_squares(terms.distances if one.is_distance else terms.divergences, gates, gradients[1:])
    for one, parts in zip(directions, propagated, strict=True):
        one.later = torch.cat(parts)


def _add_squares(total: Scores, gates: Scores, gradients: Sequence[Tensor]) -> None:
    """Add the squared gradients [images, units], summed over images."""
    for key, gradient in zip(gates, gradients, strict=True):
        squares = gradient.double().square().sum(dim=0)
        total[key] = total[key] + squares if key in total else squares
