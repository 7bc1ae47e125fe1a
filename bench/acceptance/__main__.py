"""Command line: `python -m toolkit.bench.acceptance kernels|models [--out DIR] [--seconds 100]`.

Results are written after every step. Steps with results of the same code and libraries are skipped, so that a part that
was interrupted, or had too little time, resumes where it ended.
Exit codes: 0 no claim of the part failed (some may not have been measured); 1 one failed; 4 there is no GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from toolkit.bench import environment
from toolkit.bench.acceptance import models, page
from toolkit.bench.acceptance.claims import judge, load_claims
from toolkit.bench.acceptance.results import LIBRARIES, Bandwidth, Part, Results, code_hash, continued, read
from toolkit.bench.clocks import clock
from toolkit.bench.kernels import attention
from toolkit.bench.kernels.cases import cases
from toolkit.errors import CheckFailed, DeviceUnreachable

ROOT = Path("bench/results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one part; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.acceptance", description=__doc__.split("\n")[0])
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, help=f"folder of the results (default: {ROOT}/GPU-NAME)")
    parser.add_argument("--seconds", type=float, default=100, help="no step starts after this time (default: 100)")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: this machine has no usable NVIDIA GPU", file=sys.stderr)
        return DeviceUnreachable.exit_code
    out = options.out or default_folder()
    deadline = time.monotonic() + options.seconds
    for results in run(options.part, out, PARTS[options.part]):
        write(results, out)
        if time.monotonic() > deadline:
            print("the time is up; the next call resumes here", file=sys.stderr)
            break
    print(out / page.FILE, file=sys.stderr)
    return exit_code(read(out, environment.capture(LIBRARIES)), options.part)


def default_folder() -> Path:
    """Folder of this GPU's results."""
    return ROOT / torch.cuda.get_device_name().replace(" ", "-")


def run(part: Part, out: Path, steps: Steps) -> Iterator[Results]:
    """Yield the results so far, then the results after every step."""
    machine = environment.capture(LIBRARIES)
    out.mkdir(parents=True, exist_ok=True)
    results = continued(read(out, machine), part, code_hash(machine))
    yield results
    yield from steps(results, out)


def write(results: Results, out: Path) -> None:
    """Write the results, and the page."""
    results.save(out)
    (out / page.FILE).write_text(page.render(results, load_claims()), encoding="utf-8")


def exit_code(results: Results, part: Part) -> int:
    """1 if a claim of this part is not met, else 0."""
    claims = [claim for claim in load_claims() if claim.part == part]
    failed = any(judgement.met is False for _, judgement in judge(results, claims))
    return CheckFailed.exit_code if failed else 0


def _kernels(results: Results, out: Path) -> Iterator[Results]:
    graphs = clock("cuda-graph")
    if results.bandwidth is None:
        bandwidth = Bandwidth(attention.nominal_bandwidth(), attention.copy_bandwidth(graphs))
        yield (results := replace(results, bandwidth=bandwidth))
    done = {report.case for report in results.kernels}
    for case in cases():
        if case not in done:
            print(case.name, file=sys.stderr)
            report = attention.measure(case, graphs)
            yield (results := replace(results, kernels=(*results.kernels, report)))


def _models(results: Results, out: Path) -> Iterator[Results]:
    measured = tuple(report for report in results.models if report.bench)  # a failure may be temporary (memory)
    results = replace(results, models=measured)
    done = {(report.model, report.mode, report.batch_size) for report in measured}
    for step in models.steps():
        if step not in done:
            print(*step, file=sys.stderr)
            folder = out / "models" / results.code["models"][:12] / step.model
            models.make_models(step.model, folder)
            torch.compiler.reset()  # torch.compile stops recompiling a function after eight variants
            report = models.measure(step, folder, models.MODES[step.mode])
            yield (results := replace(results, models=(*results.models, report)))


Steps = Callable[[Results, Path], Iterator[Results]]
PARTS: dict[str, Steps] = {"kernels": _kernels, "models": _models}

if __name__ == "__main__":
    sys.exit(main())
