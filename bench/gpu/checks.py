"""Whether the kernels are right: the tests that need a GPU, and compute-sanitizer on every kernel."""

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
SECONDS = {"tests": 300, "tool": 90}
"""How long each may take."""
WORKERS = 8
"""Processes that compile and test side by side."""
TOUCHED = "every kernel ran"


def tests() -> dict[str, Any]:
    """How many of the tests passed, failed, and what was said of those that failed."""
    workers = [f"--numprocesses={WORKERS}"] if importlib.util.find_spec("xdist") else []
    # pytest-benchmark, where it is installed, warns of the workers, and a warning is an error here.
    plain = ["-q", "-p", "no:cacheprovider", "-p", "no:benchmark"]
    code, said = _ran([sys.executable, "-m", "pytest", "-m", "gpu", *plain, *workers, TESTS], SECONDS["tests"])
    found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", said)}
    return {"code": code, **found, "said": said[-4000:] if code else ""}


def sanitized() -> dict[str, dict[str, Any]]:
    """Findings of each of compute-sanitizer's tools, or why there are none."""
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if sanitizer is None:
        return {tool: {"not_run": "compute-sanitizer is not installed"} for tool in TOOLS}
    # Beyond the end of a tensor lies the allocator's own memory unless every tensor is an allocation of its own.
    own = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "TRITON_INTERPRET": "0"}
    command = ["--report-api-errors", "no", sys.executable, "-m", "toolkit.bench.gpu.checks"]
    return {tool: findings(_ran([sanitizer, "--tool", tool, *command], SECONDS["tool"], own)[1]) for tool in TOOLS}


def _ran(command: Sequence[str], seconds: float, more: Mapping[str, str] | None = None) -> tuple[int | None, str]:
    """Exit code (None: it took too long) and output; nothing that it has started is left running."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **(more or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        said, _ = process.communicate()
        return None, f"not done in {seconds:.0f} s\n{said}"
    return process.returncode, said


def findings(said: str) -> dict[str, Any]:
    """What a tool found; that it found nothing counts only if the kernels ran to their end."""
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", said)
    count = int(summary[1]) if summary else 0
    if count:
        return {"findings": count, "said": said[-4000:]}
    if summary and TOUCHED in said:
        return {"findings": 0, "said": ""}
    return {"not_run": said.strip()[-500:]}


def touch(device: str = "cuda") -> Mapping[str, Tensor]:
    """Run every kernel, with and without a bias, and return the gradients."""
    from toolkit.kernels import headwise_operator

    found = {}
    heads = [(40, 24), (24, 40), (16, 8)]
    dims = [qk for qk, _ in heads], [v for _, v in heads]
    for tokens in (50, 197, 401):
        for has_bias in (False, True):
            packed = torch.randn(2, tokens, sum(2 * qk + v for qk, v in heads), device=device, dtype=torch.bfloat16)
            bias = torch.randn(3, tokens, tokens, device=device, dtype=torch.bfloat16) if has_bias else None
            packed.requires_grad_()
            out, _ = headwise_operator.operator(packed, None, bias, *dims, 0.125, True)
            (found[f"{tokens}{'-bias' * has_bias}"],) = torch.autograd.grad(out, packed, torch.ones_like(out))
    if device == "cuda":
        torch.cuda.synchronize()
    return found


if __name__ == "__main__":
    touch()
    print(TOUCHED)
