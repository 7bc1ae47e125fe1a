"""Correctness of the kernels on this machine's GPU: the tests that need one, and compute-sanitizer on every kernel.

    python .ci/gpu/checks.py [--out DIR] [--seconds 145]

Each check gets the time that is left. Checks that passed or failed are not repeated while the code is unchanged.
Exit codes as those of `python -m toolkit.bench.acceptance`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from toolkit.bench import environment
from toolkit.bench.acceptance.__main__ import default_folder, exit_code, run, write
from toolkit.bench.acceptance.results import LIBRARIES, CheckReport, Results, read
from toolkit.errors import DeviceUnreachable

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/kernels/test_on_gpu.py"
TOOLS = ("memcheck", "racecheck", "synccheck")
WORKERS = 8
"""Processes that compile and test in parallel."""
SENTINEL = "every kernel ran"
"""Printed once all kernels have finished."""
OUTPUT_CHARACTERS = 4000
SHORTEST_S = 5
"""No check starts with less time."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, help="folder of the results")
    parser.add_argument("--seconds", type=float, default=145, help="time for all checks (default: 145)")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("error: this machine has no usable NVIDIA GPU", file=sys.stderr)
        return DeviceUnreachable.exit_code
    out = options.out or default_folder()
    for results in run("checks", out, partial(_steps, time.monotonic() + options.seconds)):
        write(results, out)
    return exit_code(read(out, environment.capture(LIBRARIES)), "checks")


def _steps(deadline: float, results: Results, out: Path) -> Iterator[Results]:
    """Run the checks that have neither passed nor failed yet; yields the results after each."""
    for name in ("tests", *TOOLS):
        done = {check.name for check in results.checks if check.passed is not None}
        remaining = deadline - time.monotonic()
        if name in done or remaining < SHORTEST_S:
            continue
        print(name, file=sys.stderr)
        report = run_tests(remaining) if name == "tests" else run_sanitizer(name, remaining)
        others = (check for check in results.checks if check.name != name)
        results = replace(results, checks=(*others, report))
        yield results


def run_tests(timeout_s: float) -> CheckReport:
    """Counts of passed and failed tests."""
    workers = [f"--numprocesses={WORKERS}"] if importlib.util.find_spec("xdist") else []
    # pytest-benchmark, if installed, warns about the workers, and warnings are errors here.
    plain = ["-q", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    code, output = _run([sys.executable, "-m", "pytest", "-m", "gpu", *plain, *workers, TESTS], timeout_s)
    if code is None:
        return CheckReport("tests", None, f"not finished after {timeout_s:.0f} s")
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error)", output)}
    passed = code == 0 and counts.get("passed", 0) > 0
    detail = f"{counts.get('passed', 0)} passed, {counts.get('failed', 0) + counts.get('error', 0)} failed"
    return CheckReport("tests", passed, detail, "" if passed else output[-OUTPUT_CHARACTERS:])


def run_sanitizer(tool: str, timeout_s: float) -> CheckReport:
    """Findings of one tool of compute-sanitizer, or why it did not run."""
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        return CheckReport(tool, None, "not run: compute-sanitizer is not installed")
    # The caching allocator would hide accesses beyond the end of a tensor.
    variables = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "TRITON_INTERPRET": "0"}
    program = [sys.executable, "-c", "import runpy, sys; runpy.run_path(sys.argv[1])['every_kernel']()", __file__]
    command = [sanitizer, "--report-api-errors", "no", "--tool", tool, *program]
    return findings(tool, _run(command, timeout_s, variables)[1])


def findings(tool: str, output: str) -> CheckReport:
    """Findings in the output of a sanitizer tool. No findings count only if all kernels have finished."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", output)
    count = int(summary[1]) if summary else 0
    if count:
        return CheckReport(tool, False, f"{count} findings", output[-OUTPUT_CHARACTERS:])
    if summary and SENTINEL in output:
        return CheckReport(tool, True, "0 findings")
    last = output.strip().splitlines()[-1:] or ["no output"]
    return CheckReport(tool, None, f"not run: {last[0][:80]}", output[-OUTPUT_CHARACTERS:])


def _run(
    command: Sequence[str], timeout_s: float, variables: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Exit code (None after a timeout) and output of a command. A timeout kills its child processes too."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path, **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return None, f"{output}\ntimeout after {timeout_s:.0f} s"
    return process.returncode, output


def every_kernel(device: str = "cuda") -> Mapping[str, Tensor]:
    """Run every kernel with and without a bias; returns the gradients [batch, tokens, width] by case."""
    from toolkit.kernels import headwise_operator

    gradients = {}
    heads = [(40, 24), (24, 40), (16, 8)]
    dims = [qk for qk, _ in heads], [v for _, v in heads]
    for tokens in (50, 197, 401):
        for has_bias in (False, True):
            packed = torch.randn(2, tokens, sum(2 * qk + v for qk, v in heads), device=device, dtype=torch.bfloat16)
            bias = torch.randn(3, tokens, tokens, device=device, dtype=torch.bfloat16) if has_bias else None
            packed.requires_grad_()
            out, _ = headwise_operator.operator(packed, None, bias, None, *dims, 0.125, True)
            (gradients[f"{tokens}{'-bias' * has_bias}"],) = torch.autograd.grad(out, packed, torch.ones_like(out))
    if device == "cuda":
        torch.cuda.synchronize()
    print(SENTINEL)
    return gradients


if __name__ == "__main__":
    sys.exit(main())
