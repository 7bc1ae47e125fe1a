"""Autotune the kernels on this machine's GPU and store the fastest configurations in `tuned/GPU.json`.

    python -m toolkit.kernels.tune --tokens 197,577 --widths 64,32 --kinds forward,backward_keys,backward_queries

A candidate qualifies if it compiles, fits the GPU, and matches the heuristic configuration's results. Compilation
dominates the run time and is spread across processes; the candidates are then timed in turn, in CUDA graphs.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Literal, get_args

import torch
import triton
from torch import Tensor
from triton.testing import do_bench_cudagraph

from toolkit.kernels import headwise_launch
from toolkit.kernels.eager import split_qkv
from toolkit.kernels.heads import MAX_HEAD_DIM, total_widths, unsupported
from toolkit.kernels.headwise_settings import (
    WHOLE_ROW_DIM,
    WHOLE_ROW_KEYS_ON_HOPPER,
    KernelConfig,
    Settings,
    Workload,
    constants,
    heuristic_config,
)
from toolkit.kernels.tuned import TunedConfig, capability_of, save, tuning_key

Kind = Literal["forward", "backward_keys", "backward_queries"]
ROUNDS, REPETITION_MS = 5, 20
"""Every candidate is timed in this many rounds of this many milliseconds; the median counts."""
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


def fastest(problem: Problem, pool: ProcessPoolExecutor) -> tuple[TunedConfig, dict[str, int]]:
    """The fastest configuration of a problem, and the number of disqualified candidates by reason."""
    capability = capability_of(torch.device(problem.device))
    configs = list(candidates(problem.workload, capability))
    small = Problem(problem.workload, 1, problem.device, problem.dtype)
    reasons = list(pool.map(small.disqualification, configs))
    qualified = [config for config, reason in zip(configs, reasons, strict=True) if not reason]
    if not qualified:
        raise RuntimeError(f"no configuration works: {reasons[0]}")
    medians = _medians_us(problem, qualified)
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


def _medians_us(problem: Problem, configs: Sequence[KernelConfig]) -> list[float]:
    """Median time of each configuration in microseconds, timed in turn."""
    inputs = [problem.inputs() for _ in range(problem.copies())]

    def run(config: KernelConfig) -> None:
        for tensors in inputs:
            problem.run(config, tensors)

    times: list[list[float]] = [[] for _ in configs]
    for _ in range(ROUNDS):
        for config, samples in zip(configs, times, strict=True):
            milliseconds = do_bench_cudagraph(partial(run, config), rep=REPETITION_MS, return_mode="median")
            samples.append(1e3 * milliseconds / len(inputs))
    return [statistics.median(samples) for samples in times]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad arguments end it with exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.kernels.tune", description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=_integers, default=(197, 577), help="tokens, with class token (197,577)")
    parser.add_argument("--widths", type=_integers, default=(64, 32), help=f"head widths, up to {MAX_HEAD_DIM} (64,32)")
    parser.add_argument("--heads", type=int, default=12, help="heads per layer (12)")
    parser.add_argument("--batch", type=int, default=128, help="batch size (128)")
    parser.add_argument("--kinds", default="forward", help=f"any of {','.join(get_args(Kind))} (forward)")
    parser.add_argument("--bias", action="store_true", help="with a bias per head (BEiT)")
    options = parser.parse_args(arguments)
    kinds = options.kinds.split(",")
    if wrong := [kind for kind in kinds if kind not in get_args(Kind)]:
        parser.error(f"{wrong[0]} is not one of {', '.join(get_args(Kind))}")
    if reason := unsupported([(width, width) for width in options.widths]):
        parser.error(reason)
    if not torch.cuda.is_available():
        parser.error("this machine has no NVIDIA GPU")
    gpu = torch.cuda.get_device_name()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for kind, tokens, width in product(kinds, options.tokens, options.widths):
            heads = ((width, width),) * options.heads
            config, reasons = fastest(Problem(Workload(kind, tokens, heads, options.bias), options.batch), pool)
            path = save(gpu, [config])
            print(
                f"{kind}, {tokens} tokens, head width {width}: {config.kernel} {config.settings}, {config.us:.1f} us, "
                f"heuristic {config.heuristic_us:.1f} us"
            )
            for reason, count in reasons.items():
                print(f"  {count} disqualified: {reason}", file=sys.stderr)
    print(path)


def _integers(text: str) -> tuple[int, ...]:
    """197,577 -> (197, 577)"""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"expected integers such as 197,577, got {text!r}")
    return tuple(int(part) for part in parts)


if __name__ == "__main__":
    main()
