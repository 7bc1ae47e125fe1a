from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from toolkit.dg.draws import rng
from toolkit.dg.random_images import SIZES, mixup, random_convolutions, random_kernel

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def convolved(probability: float, seed: int = 0) -> Tensor:
    return random_convolutions(IMAGES, [rng(seed, index) for index in range(len(IMAGES))], probability)


def test_each_image_is_mixed_with_its_own_convolution() -> None:
    result = convolved(1.0)
    assert result.shape == IMAGES.shape
    for index, image in enumerate(IMAGES):
        generator = rng(0, index)
        generator.uniform()  # whether the image is convolved
        by_hand = conv2d(image[None], torch.from_numpy(random_kernel(generator)), padding=3)
        torch.testing.assert_close(result[index], by_hand[0], atol=1e-5, rtol=1e-5)


def test_convolutions_are_seeded_and_drawn_for_a_share_of_the_images() -> None:
    assert torch.equal(convolved(0.0), IMAGES)
    assert torch.equal(convolved(0.5), convolved(0.5))
    changed = (convolved(0.5) != IMAGES).flatten(1).any(1)
    assert 0 < changed.sum() < len(IMAGES)
    assert not torch.equal(convolved(1.0), convolved(1.0, seed=1))


def test_a_kernel_is_a_mixture_of_the_image_and_a_convolution_of_equal_mean_square() -> None:
    seen, squares = set(), []
    for index in range(400):
        kernel, generator = random_kernel(rng(1, index)), rng(1, index)
        size, share = int(generator.choice(SIZES)), generator.uniform()
        seen.add(size)
        margin = (7 - size) // 2
        rest = kernel.copy()
        rest[range(3), range(3), 3, 3] -= share
        outside = rest.copy()
        outside[:, :, margin : margin + size, margin : margin + size] = 0
        assert not outside.any()
        squares.append((rest**2).sum() / 3 / (1 - share) ** 2)  # per output channel, of white images
    assert seen == set(SIZES)
    assert np.mean(squares) == pytest.approx(1.0, abs=0.1)


def test_mixup_is_a_convex_combination_of_two_images() -> None:
    mixed = mixup(IMAGES, rng(3), 0.8)
    generator = rng(3)
    share, order = generator.beta(0.8, 0.8, len(IMAGES)), generator.permutation(len(IMAGES))
    for index, image in enumerate(mixed):
        by_hand = share[index] * IMAGES[index] + (1 - share[index]) * IMAGES[order[index]]
        torch.testing.assert_close(image, by_hand.float())
    assert torch.equal(mixed, mixup(IMAGES, rng(3), 0.8))
