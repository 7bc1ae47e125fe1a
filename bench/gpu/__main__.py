"""Command line: `python -m toolkit.bench.gpu [--only checks,kernels,models] [--out DIR] [--minutes 20]`.

Results are written after every step; a part that runs alone is merged with earlier results of the other parts.
Exit codes: 0 no requirement failed (some may not have run); 1 a requirement failed; 4 there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from toolkit.bench.gpu import attention, checks, clock, page
from toolkit.errors import CheckFailed, DeviceUnreachable

RESULTS = Path(__file__).resolve().parents[1] / "results"
PARTS = ("checks", "kernels", "models")
FILE, PAGE = "results.json", "README.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the requested parts; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.gpu", description="Kernels and models on this GPU.")
    parser.add_argument("--only", default=",".join(PARTS), help=f"comma-separated subset of {','.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="folder of the results (default: bench/results/GPU-NAME)")
    parser.add_argument("--minutes", type=float, default=20, help="no step starts after this time (default: 20)")
    options = parser.parse_args(arguments)
    parts = options.only.split(",")
    if unknown := [part for part in parts if part not in PARTS]:
        parser.error(f"{unknown[0]} is not one of {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        print("error: this machine has no usable NVIDIA GPU", file=sys.stderr)
        return DeviceUnreachable.exit_code
    deadline = time.monotonic() + 60 * options.minutes
    out = options.out or RESULTS / torch.cuda.get_device_name().replace(" ", "-")
    out.mkdir(parents=True, exist_ok=True)
    results = _earlier_results(out) | {"machine": _machine()}
    for part in parts:
        print(f"{part} ...", file=sys.stderr)
        with clock.gpu_monitor() as samples:
            for _ in _steps(part, results, lambda: time.monotonic() < deadline):
                _write(results, out)
        results.setdefault("watched", {})[part] = samples
        _write(results, out)
    print((out / PAGE).read_text())
    print(out / PAGE, file=sys.stderr)
    failed = any(requirement.passed is False for requirement in page.requirements(results))
    return CheckFailed.exit_code if failed else 0


def _steps(part: str, results: dict[str, Any], has_time: Callable[[], bool]) -> Iterator[None]:
    """Add to the results, yielding after every step. Models with earlier results are skipped: they take minutes to
    compile."""
    if part == "checks" and has_time():
        results["checks"] = {"tests": checks.run_tests(), "sanitizer": {}}
        yield
        results["checks"]["sanitizer"] = checks.run_sanitizer()
        yield
    elif part == "kernels":
        results["kernels"] = []
        results["nominal_bandwidth"], results["copy_bandwidth"] = clock.nominal_bandwidth(), clock.copy_bandwidth()
        for case in attention.cases():
            if has_time():
                results["kernels"].append(attention.measure(case, clock.in_graphs))
                yield
    elif part == "models":
        from toolkit.bench.gpu import models  # imported late: the other parts do not need timm

        measurements = results.setdefault("models", [])
        finished = {(result["model"], result["batch"], result["mode"]) for result in measurements}
        for result in models.results(clock.in_graphs, clock.in_stream, has_time, finished):
            measurements.append(result)
            yield


def _write(results: Mapping[str, Any], out: Path) -> None:
    (out / FILE).write_text(json.dumps(results, indent=1) + "\n")
    (out / PAGE).write_text(page.markdown(results))


def _earlier_results(out: Path) -> dict[str, Any]:
    """Results of earlier runs; empty if there are none."""
    results: dict[str, Any] = json.loads((out / FILE).read_text()) if (out / FILE).is_file() else {}
    return results


def _machine() -> dict[str, str]:
    def output_of(*command: str) -> str:
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=True, cwd=RESULTS.parent
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "unknown"

    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "triton": version("triton"),
        "timm": version("timm"),
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "commit": output_of("git", "rev-parse", "--short", "HEAD"),
    }


if __name__ == "__main__":
    sys.exit(main())
