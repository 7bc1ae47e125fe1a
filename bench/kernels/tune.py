"""Autotune the kernels on this machine's GPU and store the fastest configurations in `kernels/tuned/GPU.json`.

    python -m toolkit.bench.kernels.tune --tokens 197,577 --widths 64,32 --kinds forward,backward_keys,backward_queries

The candidates are timed in turn, in CUDA graphs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from statistics import median
from typing import get_args

import torch

from toolkit.bench.clocks import Call, clock
from toolkit.kernels.heads import MAX_HEAD_DIM, unsupported
from toolkit.kernels.headwise_settings import Kind, Workload
from toolkit.kernels.tune import Problem, fastest
from toolkit.kernels.tuned import save

ROUNDS, SAMPLES = 5, 4
"""Candidates are timed in this many rounds, with this many samples in each; the median counts."""
HOPELESS = 1.25
"""A candidate that is slower than the fastest by this factor is not timed again."""


def median_times(subjects: Sequence[Sequence[Call]]) -> list[float]:
    """Median time of one call of each subject in microseconds, timed in turn. Only one CUDA graph is in memory."""
    samples: list[list[float]] = [[] for _ in subjects]
    left = list(range(len(subjects)))
    for _ in range(ROUNDS):
        for index in left:
            timer = clock("cuda-graph").timer(subjects[index])
            samples[index] += [timer() / 1e3 for _ in range(SAMPLES)]
        medians = {index: median(samples[index]) for index in left}
        left = [index for index in left if medians[index] <= HOPELESS * min(medians.values())]
    return [median(times) for times in samples]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; bad arguments end it with exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.kernels.tune", description=__doc__.split("\n")[0])
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
            problem = Problem(Workload(kind, tokens, heads, options.bias), options.batch)
            config, reasons = fastest(problem, pool, median_times)
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
