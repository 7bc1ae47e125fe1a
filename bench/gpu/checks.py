"""Whether the kernels are right: the tests that need a GPU, and compute-sanitizer on every kernel."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
TESTS = "tests/kernels/test_on_gpu.py"
TOOLS = ("memcheck", "racecheck", "synccheck")
SECONDS = 180
"""A tool may take so long."""
WORKERS = 8
"""Processes that compile and test side by side."""
FOUND_FAULTS = 99


def tests() -> dict[str, Any]:
    """How many of the tests passed, failed, and what was said of those that failed."""
    workers = [f"--numprocesses={WORKERS}"] if importlib.util.find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *workers, TESTS]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    found = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", ended.stdout)}
    return {"code": ended.returncode, **found, "said": ended.stdout[-4000:] if ended.returncode else ""}


def sanitized() -> dict[str, dict[str, Any]]:
    """Findings of each of compute-sanitizer's tools, or why there are none."""
    found: dict[str, dict[str, Any]] = {}
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    for tool in TOOLS:
        if sanitizer is None:
            found[tool] = {"not_run": "compute-sanitizer is not installed"}
            continue
        command = [sanitizer, "--tool", tool, "--error-exitcode", str(FOUND_FAULTS), sys.executable, "-m", __name__]
        # Beyond the end of a tensor lies the allocator's own memory unless every tensor is an allocation of its own.
        environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "TRITON_INTERPRET": "0"}
        try:
            ended = subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            found[tool] = {"not_run": f"not done in {SECONDS} s"}
            continue
        found[tool] = _findings(ended.returncode, ended.stdout + ended.stderr)
    return found


def _findings(code: int, said: str) -> dict[str, Any]:
    summary = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", said)
    if summary is None or (code not in (0, FOUND_FAULTS)):
        return {"not_run": said.strip()[-500:]}
    return {"findings": int(summary[1]), "said": said[-4000:] if int(summary[1]) else ""}


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
