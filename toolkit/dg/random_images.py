"""Random changes of a whole batch of images: convolutions and mixtures.

Tensor operations on the batch's device. Random numbers come from NumPy generators on the CPU, so that they are the same
on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import conv2d

Kernel = npt.NDArray[np.float32]
"""[3, 3, LARGEST, LARGEST]: output and input channels, rows, columns."""
SIZES = (1, 3, 5, 7)
LARGEST = max(SIZES)


def random_convolutions(images: Tensor, generators: Sequence[np.random.Generator], probability: float) -> Tensor:
    """Each image [3, S, S] of the batch, with this probability, mixed with a random convolution of itself.

    RandConv with mixing (Xu et al., "Robust and generalizable visual representation learning via random convolutions",
    ICLR 2021), drawn per image instead of per batch: it keeps shapes and changes texture and colour. `generators` holds
    one for each image.
    """
    kernels = {
        index: random_kernel(generator)
        for index, generator in enumerate(generators)
        if generator.uniform() < probability
    }
    if not kernels:
        return images
    chosen = torch.tensor([*kernels], device=images.device)
    weight = torch.from_numpy(np.concatenate([*kernels.values()])).to(images)  # [chosen * 3, 3, LARGEST, LARGEST]
    flat = images[chosen].flatten(0, 1)[None]  # [1, chosen * 3, S, S]: a group of channels per image
    convolved = conv2d(flat, weight, padding=LARGEST // 2, groups=len(kernels))
    return images.index_copy(0, chosen, convolved.view(len(kernels), *images.shape[1:]))


def random_kernel(generator: np.random.Generator) -> Kernel:
    """The mixture a * identity + (1 - a) * W as one kernel: a from U(0, 1), W of size k from N(0, 1 / (3 k^2)).

    k is one of `SIZES`; smaller kernels have zeros around. The variance keeps the expected mean square of an image.
    """
    size = int(generator.choice(SIZES))
    share = generator.uniform()
    margin = (LARGEST - size) // 2
    kernel = np.zeros((3, 3, LARGEST, LARGEST), dtype=np.float32)
    inner = kernel[:, :, margin : margin + size, margin : margin + size]
    inner[:] = (1 - share) * generator.normal(0, (3 * size**2) ** -0.5, inner.shape)
    for channel in range(3):
        kernel[channel, channel, LARGEST // 2, LARGEST // 2] += share
    return kernel


def mixup(images: Tensor, generator: np.random.Generator, alpha: float) -> Tensor:
    """Each image mixed with another one of the batch: r * image + (1 - r) * other, r from Beta(alpha, alpha).

    Zhang et al., "mixup" (ICLR 2018), without labels; r is drawn per image.
    """
    share = torch.from_numpy(generator.beta(alpha, alpha, len(images))).to(images).view(-1, 1, 1, 1)
    order = torch.from_numpy(generator.permutation(len(images))).to(images.device)
    return share * images + (1 - share) * images[order]
