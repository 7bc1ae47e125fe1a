"""Candidate configurations of the kernels, and the fastest of those that qualify.

A candidate qualifies if it compiles, fits the GPU, and matches the heuristic configuration's results. Compilation
dominates the run time and is spread across processes. The caller provides the clock
(`python -m toolkit.bench.kernels.tune`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TypeAlias

import torch
import triton
from torch import Tensor

from toolkit.kernels import headwise_launch
from toolkit.kernels.eager import split_qkv
from toolkit.kernels.heads import total_widths
from toolkit.kernels.headwise_settings import (
    WHOLE_ROW_DIM,
    WHOLE_ROW_KEYS_ON_HOPPER,
    KernelConfig,
    Settings,
    Workload,
    constants,
    heuristic_config,
)
from toolkit.kernels.tuned import TunedConfig, capability_of, tuning_key

MedianTimes: TypeAlias = Callable[[Sequence[Sequence[Callable[[], object]]]], Sequence[float]]
"""Median time of one call of each subject in microseconds; a subject is a list of equivalent calls on different inputs,
to rotate over."""
MIN_SPEEDUP = 1.01
"""The heuristic configuration is kept unless another one is faster by more than this."""
SCALE = 0.125
CACHE_MULTIPLE = 3
"""Total size of the rotated inputs, in multiples of the L2 cache, so that reads miss it."""
TOLERANCE = 2e-2
"""Largest difference from the heuristic's result, relative to its maximum: bfloat16 has 8 significant bits."""


def candidates(workload: Workload, capability: int) -> Iterator[KernelConfig]:
    """Configurations to time, the heuristic one first."""
    heuristic = heuristic_config(workload, capability)
    yield heuristic
    for kernel, tunable in _search_space(workload):
        config = KernelConfig(kernel, {**constants(workload, kernel, capability), **tunable})
        if config != heuristic:
            yield config


def _search_space(workload: Workload) -> Iterator[tuple[str, Settings]]:
    if workload.kind != "forward":
        for block_q, block_k, warps, stages in product((32, 64, 128), (32, 64, 128), (4, 8), (1, 2)):
            yield workload.kind, {"BLOCK_Q": block_q, "BLOCK_K": block_k, "num_warps": warps, "num_stages": stages}
        return
    if workload.num_keys <= WHOLE_ROW_KEYS_ON_HOPPER and max(workload.dims) <= WHOLE_ROW_DIM:
        for block_q, warps, stages in product((16, 32, 64, 128), (4, 8), (1, 2)):
            yield "whole_row", {"BLOCK_Q": block_q, "num_warps": warps, "num_stages": stages}
    for block_q, block_k, warps, stages in product((64, 128), (32, 64, 128), (4, 8), (1, 2, 3)):
        yield "online", {"BLOCK_Q": block_q, "BLOCK_K": block_k, "num_warps": warps, "num_stages": stages}


@dataclass(frozen=True)
class Problem:
    """A workload with its batch size, device and dtype, from which inputs are drawn."""

    workload: Workload
    batch: int
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16

    def run(self, config: KernelConfig, inputs: Sequence[Tensor]) -> Tensor:
        """The output of the forward pass or the gradient of the backward pass (its other kernel by heuristic)."""

        def config_for(workload: Workload, device: torch.device) -> KernelConfig:
            return config if workload.kind == self.workload.kind else heuristic_config(workload, capability_of(device))

        packed, bias, grad_out, out, lse = inputs
        heads, used_bias = self.workload.heads, bias if self.workload.has_bias else None
        qkv = split_qkv(packed, None, heads)
        if self.workload.kind == "forward":
            with_lse = self.workload.with_lse
            return headwise_launch.forward(*qkv, heads, SCALE, used_bias, with_lse=with_lse, config_for=config_for)[0]
        grad = torch.empty_like(packed)
        grad_qkv = split_qkv(grad, None, heads)
        headwise_launch.backward(
            *qkv, heads, SCALE, used_bias, None, out, lse, grad_out, *grad_qkv, config_for=config_for
        )
        return grad

    def inputs(self) -> tuple[Tensor, ...]:
        """packed, bias, gradient of the output, output, and log-sum-exp."""
        heads, tokens = self.workload.heads, self.workload.num_keys
        rng = torch.Generator(self.device).manual_seed(0)
        qk_width, v_width = total_widths(heads)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=rng, device=self.device).to(self.dtype)

        packed = random(self.batch, tokens, 2 * qk_width + v_width)
        bias = random(len(heads), tokens, tokens)
        used_bias = bias if self.workload.has_bias else None
        out, lse = headwise_launch.forward(*split_qkv(packed, None, heads), heads, SCALE, used_bias, with_lse=True)
        return packed, bias, random(self.batch, tokens, v_width), out, lse

    def copies(self) -> int:
        """Number of inputs to rotate over so that they exceed the cache."""
        qk_width, v_width = total_widths(self.workload.heads)
        packed_bytes = self.batch * self.workload.num_keys * (2 * qk_width + v_width) * self.dtype.itemsize
        cache_bytes = torch.cuda.get_device_properties(0).L2_cache_size
        return max(1, -(-CACHE_MULTIPLE * cache_bytes // packed_bytes))

    def disqualification(self, config: KernelConfig) -> str:
        """Why a configuration does not qualify; empty if it does. Fills the compilation cache for later processes."""
        try:
            inputs = self.inputs()
            expected = self.run(heuristic_config(self.workload, capability_of(torch.device(self.device))), inputs)
            actual = self.run(config, inputs)
        except Exception as error:  # whatever a compiler or a driver raises
            return f"{type(error).__name__}: {error}".splitlines()[0]
        difference = float((actual - expected).abs().max() / expected.abs().max())
        return "" if difference <= TOLERANCE else f"differs by {difference:.1e} from the heuristic's result"


def fastest(
    problem: Problem, pool: ProcessPoolExecutor, median_times: MedianTimes
) -> tuple[TunedConfig, dict[str, int]]:
    """The fastest configuration of a problem, and the number of disqualified candidates by reason."""
    capability = capability_of(torch.device(problem.device))
    configs = list(candidates(problem.workload, capability))
    small = Problem(problem.workload, 1, problem.device, problem.dtype)
    reasons = list(pool.map(small.disqualification, configs))
    qualified = [config for config, reason in zip(configs, reasons, strict=True) if not reason]
    if not qualified:
        raise RuntimeError(f"no configuration works: {reasons[0]}")
    inputs = [problem.inputs() for _ in range(problem.copies())]
    medians = median_times([[partial(problem.run, config, each) for each in inputs] for config in qualified])
    best = min(range(len(qualified)), key=medians.__getitem__)
    heuristic_works = not reasons[0]
    heuristic_us = medians[0] if heuristic_works else medians[best]
    if heuristic_works and heuristic_us <= medians[best] * MIN_SPEEDUP:
        best = 0
    kernel, settings = qualified[best]
    determined = constants(problem.workload, kernel, capability)
    tunable = {name: value for name, value in settings.items() if name not in determined}
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    measured_with = f"{versions}, batch {problem.batch}, {len(problem.workload.heads)} heads"
    key = tuning_key(problem.workload)
    config = TunedConfig(key, kernel, tunable, medians[best], heuristic_us, measured_with)
    return config, dict(Counter(filter(None, reasons)))
