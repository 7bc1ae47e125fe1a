"""PyTorch compiled by `torch.compile` on an NVIDIA GPU, in bfloat16, for model folders."""

from __future__ import annotations

from functools import partial

import torch

from toolkit.bench.runtimes import Runtime
from toolkit.bench.runtimes.torch_cuda import TorchGpu

PLUGIN: Runtime = TorchGpu("torch-compiled", partial(torch.compile, dynamic=False))
