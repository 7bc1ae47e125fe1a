"""Correctness of the kernels: the tests that need a GPU, and compute-sanitizer on every kernel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/kernels/test_on_gpu.py"
TOOLS = ("memcheck", "racecheck", "synccheck")
TIMEOUT_S = {"tests": 300, "tool": 90}
"""Timeouts of the tests and of one sanitizer tool, in seconds."""
WORKERS = 8
"""Processes that compile and test in parallel."""
SENTINEL = "every kernel ran"
"""Printed once all kernels have finished."""


def run_tests() -> dict[str, Any]:
    """Counts of passed and failed tests, and the end of the output if any failed."""
    workers = [f"--numprocesses={WORKERS}"] if importlib.util.find_spec("xdist") else []
    # pytest-benchmark, if installed, warns about the workers, and warnings are errors here.
    plain = ["-q", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    code, output = _run([sys.executable, "-m", "pytest", "-m", "gpu", *plain, *workers, TESTS], TIMEOUT_S["tests"])
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", output)}
    return {"code": code, **counts, "output": output[-4000:] if code else ""}


def run_sanitizer() -> dict[str, dict[str, Any]]:
    """Findings of each tool of compute-sanitizer, or why it did not run."""
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        return {tool: {"not_run": "compute-sanitizer is not installed"} for tool in TOOLS}
    # The caching allocator would hide accesses beyond the end of a tensor.
    variables = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "TRITON_INTERPRET": "0"}
    command = ["--report-api-errors", "no", sys.executable, "-m", "toolkit.bench.gpu.checks"]
    timeout = TIMEOUT_S["tool"]
    return {tool: findings(_run([sanitizer, "--tool", tool, *command], timeout, variables)[1]) for tool in TOOLS}


def _run(
    command: Sequence[str], timeout_s: float, variables: Mapping[str, str] | None = None
) -> tuple[int | None, str]:
    """Exit code (None after a timeout) and output of a command. A timeout kills its child processes too."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(variables or {})},
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
        return None, f"timeout after {timeout_s:.0f} s\n{output}"
    return process.returncode, output


def findings(output: str) -> dict[str, Any]:
    """Findings in the output of a sanitizer tool. No findings count only if all kernels have finished."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", output)
    count = int(summary[1]) if summary else 0
    if count:
        return {"findings": count, "output": output[-4000:]}
    if summary and SENTINEL in output:
        return {"findings": 0, "output": ""}
    return {"not_run": output.strip()[-500:]}


def run_every_kernel(device: str = "cuda") -> Mapping[str, Tensor]:
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
    return gradients


if __name__ == "__main__":
    run_every_kernel()
    print(SENTINEL)
