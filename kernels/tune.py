"""Measure which settings are the fastest on the GPU of this machine, and keep them: `tuned/GPU.json`.

    python -m toolkit.kernels.tune --tokens 197,577 --widths 64,32 --kinds forward,backward_keys,backward_queries

A candidate counts if it compiles, fits the GPU, and gives the numbers that the rule's settings give. Compiling takes
most of the time and is shared out among processes; then all are timed in turns, in CUDA graphs.
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
from toolkit.kernels.headwise_attention import WIDEST, parts_of, unfit
from toolkit.kernels.headwise_settings import (
    WHOLE_ROW_TOKENS_ON_HOPPER,
    WHOLE_ROW_WIDTH,
    Plan,
    Settings,
    Work,
    by_rule,
    constants,
)
from toolkit.kernels.tuned import Tuned, capability_of, save, size_of

Kind = Literal["forward", "backward_keys", "backward_queries"]
ROUNDS, MS = 5, 20
"""Each candidate is timed so often, for so long; the median counts."""
WORTH_IT = 1.01
"""The rule's settings stay unless others are faster by more than this."""
SCALE = 0.125
CACHES = 3
"""Inputs are of so many times the size of the cache."""
TOLERANCE = 2e-2
"""Largest difference from the rule's result in units of its largest value: bfloat16 keeps 8 bits."""


def candidates(work: Work, capability: int) -> Iterator[Plan]:
    """Everything that may be the fastest; the rule's settings first."""
    rule = by_rule(work, capability)
    yield rule
    for kernel, free in _free(work):
        found = Plan(kernel, {**constants(work, kernel, capability), **free})
        if found != rule:
            yield found


def _free(work: Work) -> Iterator[tuple[str, Settings]]:
    if work.kind != "forward":
        for tile, keys, warps, stages in product((32, 64, 128), (32, 64, 128), (4, 8), (1, 2)):
            yield work.kind, {"TILE": tile, "KEYS": keys, "num_warps": warps, "num_stages": stages}
        return
    if work.tokens <= WHOLE_ROW_TOKENS_ON_HOPPER and max(work.tiles) <= WHOLE_ROW_WIDTH:
        for tile, warps, stages in product((16, 32, 64, 128), (4, 8), (1, 2)):
            yield "whole_row", {"TILE": tile, "num_warps": warps, "num_stages": stages}
    for tile, keys, warps, stages in product((64, 128), (32, 64, 128), (4, 8), (1, 2, 3)):
        yield "online", {"TILE": tile, "KEYS": keys, "num_warps": warps, "num_stages": stages}


@dataclass(frozen=True)
class Problem:
    """A work on real tensors."""

    work: Work
    batch: int
    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16

    def run(self, plan: Plan, data: Sequence[Tensor]) -> Tensor:
        """What the forward pass writes, or the backward pass, whose other kernel runs by rule."""

        def plans(asked: Work, device: torch.device) -> Plan:
            return plan if asked.kind == self.work.kind else by_rule(asked, capability_of(device))

        packed, bias, grad_out, out, lse = data
        heads, given = self.work.heads, bias if self.work.has_bias else None
        parts = parts_of(packed, None, heads)
        if self.work.kind == "forward":
            with_lse = self.work.with_lse
            return headwise_launch.forward(*parts, heads, SCALE, given, with_lse=with_lse, plans=plans)[0]
        grad = torch.empty_like(packed)
        grads = parts_of(grad, None, heads)
        headwise_launch.backward(*parts, heads, SCALE, given, out, lse, grad_out, *grads, plans=plans)
        return grad

    def data(self) -> tuple[Tensor, ...]:
        """packed, bias, the output's gradient, the output, and its rows' sums."""
        heads, tokens = self.work.heads, self.work.tokens
        generator = torch.Generator(self.device).manual_seed(0)
        v_width = sum(v for _, v in heads)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=self.device).to(self.dtype)

        packed = random(self.batch, tokens, sum(2 * qk for qk, _ in heads) + v_width)
        bias = random(len(heads), tokens, tokens)
        given = bias if self.work.has_bias else None
        out, lse = headwise_launch.forward(*parts_of(packed, None, heads), heads, SCALE, given, with_lse=True)
        return packed, bias, random(self.batch, tokens, v_width), out, lse

    def copies(self) -> int:
        """So many inputs are gone through in turn: together they do not fit into the cache."""
        one = self.batch * self.work.tokens * sum(2 * qk + v for qk, v in self.work.heads) * self.dtype.itemsize
        return max(1, -(-CACHES * torch.cuda.get_device_properties(0).L2_cache_size // one))

    def fault(self, plan: Plan) -> str:
        """Why these settings are no use; empty if they are. Compiles them, for the processes that come after too."""
        try:
            data = self.data()
            expected = self.run(by_rule(self.work, capability_of(torch.device(self.device))), data)
            found = self.run(plan, data)
        except Exception as error:  # whatever a compiler or a driver may raise
            return f"{type(error).__name__}: {error}".splitlines()[0]
        difference = float((found - expected).abs().max() / expected.abs().max())
        return "" if difference <= TOLERANCE else f"{difference:.1e} away from the rule's result"


def fastest(problem: Problem, pool: ProcessPoolExecutor) -> tuple[Tuned, dict[str, int]]:
    """The best settings for a problem, and how many others were no use, by reason."""
    every = list(candidates(problem.work, capability_of(torch.device(problem.device))))
    small = Problem(problem.work, 1, problem.device, problem.dtype)
    faults = list(pool.map(small.fault, every))
    usable = [plan for plan, fault in zip(every, faults, strict=True) if not fault]
    if not usable:
        raise RuntimeError(f"nothing runs: {faults[0]}")
    data = [problem.data() for _ in range(problem.copies())]

    def run(plan: Plan) -> None:
        for each in data:
            problem.run(plan, each)

    times: list[list[float]] = [[] for _ in usable]
    for _ in range(ROUNDS):
        for plan, own in zip(usable, times, strict=True):
            milliseconds = do_bench_cudagraph(partial(run, plan), rep=MS, return_mode="median")
            own.append(1e3 * milliseconds / len(data))
    medians = [statistics.median(own) for own in times]
    best = min(range(len(usable)), key=medians.__getitem__)
    rule = medians[0] if not faults[0] else medians[best]
    if rule <= medians[best] * WORTH_IT and not faults[0]:
        best = 0
    kernel, settings = usable[best]
    fixed = constants(problem.work, kernel, capability_of(torch.device(problem.device)))
    free = {name: value for name, value in settings.items() if name not in fixed}
    versions = f"torch {torch.__version__}, triton {triton.__version__}"
    made_with = f"{versions}, batch {problem.batch}, {len(problem.work.heads)} heads"
    found = Tuned(size_of(problem.work), kernel, free, medians[best], rule, made_with)
    return found, dict(Counter(filter(None, faults)))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the module."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.kernels.tune", description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=_numbers, default=(197, 577), help="with the class token (197,577)")
    parser.add_argument("--widths", type=_numbers, default=(64, 32), help=f"of heads, at most {WIDEST} (64,32)")
    parser.add_argument("--heads", type=int, default=12, help="of a layer (12)")
    parser.add_argument("--batch", type=int, default=128, help="images at a time (128)")
    parser.add_argument("--kinds", default="forward", help=f"some of {','.join(get_args(Kind))} (forward)")
    parser.add_argument("--bias", action="store_true", help="with a bias for each head (BEiT)")
    given = parser.parse_args(arguments)
    kinds = given.kinds.split(",")
    if wrong := [kind for kind in kinds if kind not in get_args(Kind)]:
        parser.error(f"{wrong[0]} is not one of {', '.join(get_args(Kind))}")
    if why := unfit([(width, width) for width in given.widths]):
        parser.error(why)
    if not torch.cuda.is_available():
        parser.error("there is no NVIDIA GPU here")
    gpu = torch.cuda.get_device_name()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        for kind, tokens, width in product(kinds, given.tokens, given.widths):
            heads = ((width, width),) * given.heads
            found, faults = fastest(Problem(Work(kind, tokens, heads, given.bias), given.batch), pool)
            file = save(gpu, [found])
            print(
                f"{kind}, {tokens} tokens, heads of {width}: {found.kernel} {found.settings}, {found.us:.1f} us, "
                f"by rule {found.by_rule_us:.1f} us"
            )
            for fault, count in faults.items():
                print(f"  {count} not: {fault}", file=sys.stderr)
    print(file)


def _numbers(text: str) -> tuple[int, ...]:
    """197,577 -> (197, 577)"""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text} is not like 197,577")
    return tuple(int(part) for part in parts)


if __name__ == "__main__":
    main()
