"""The command: `python -m toolkit.bench.gpu [--only checks,kernels,models] [--out DIR] [--minutes 20]`.

Results are written after every step, and a part that is run alone is put beside those that were run before.
Exit codes: 0 everything that was asked for is met, or was not run; 1 something is not met; 4 there is no GPU.
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
    """See the module; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m toolkit.bench.gpu", description="Kernels and models on this GPU.")
    parser.add_argument("--only", default=",".join(PARTS), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--out", type=Path, help="folder for the results (bench/results/GPU-NAME)")
    parser.add_argument("--minutes", type=float, default=20, help="nothing is begun after so many (20)")
    given = parser.parse_args(arguments)
    parts = given.only.split(",")
    if wrong := [part for part in parts if part not in PARTS]:
        parser.error(f"{wrong[0]} is not one of {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        print("error: there is no NVIDIA GPU here", file=sys.stderr)
        return DeviceUnreachable.exit_code
    ends = time.monotonic() + 60 * given.minutes
    out = given.out or RESULTS / torch.cuda.get_device_name().replace(" ", "-")
    out.mkdir(parents=True, exist_ok=True)
    results = _known(out) | {"machine": _machine()}
    for part in parts:
        print(f"{part} ...", file=sys.stderr)
        with clock.watched() as seen:
            for _ in _steps(part, results, lambda: time.monotonic() < ends):
                _write(results, out)
        results.setdefault("watched", {})[part] = seen
        _write(results, out)
    print((out / PAGE).read_text())
    print(out / PAGE, file=sys.stderr)
    return CheckFailed.exit_code if any(each.met is False for each in page.verdicts(results)) else 0


def _steps(part: str, results: dict[str, Any], goes_on: Callable[[], bool]) -> Iterator[None]:
    """Add to the results, step by step: what comes after a step may be stopped. Models that are there are not done
    again, since compiling them takes minutes."""
    if part == "checks" and goes_on():
        results["checks"] = {"tests": checks.tests(), "sanitizer": {}}
        yield
        results["checks"]["sanitizer"] = checks.sanitized()
        yield
    elif part == "kernels":
        results["kernels"] = []
        results["nominal_bandwidth"], results["copy_bandwidth"] = clock.nominal_bandwidth(), clock.copy_bandwidth()
        for case in attention.cases():
            if goes_on():
                results["kernels"].append(attention.measured(case, clock.in_graphs))
                yield
    elif part == "models":
        from toolkit.bench.gpu import models  # late: the other parts do without timm

        every = results.setdefault("models", [])
        known = {(each["model"], each["batch"], each["mode"]) for each in every}
        for found in models.results(clock.in_graphs, clock.in_stream, goes_on, known):
            every.append(found)
            yield


def _write(results: Mapping[str, Any], out: Path) -> None:
    (out / FILE).write_text(json.dumps(results, indent=1) + "\n")
    (out / PAGE).write_text(page.page(results))


def _known(out: Path) -> dict[str, Any]:
    """What was measured before."""
    found: dict[str, Any] = json.loads((out / FILE).read_text()) if (out / FILE).is_file() else {}
    return found


def _machine() -> dict[str, str]:
    def said(*command: str) -> str:
        try:
            return subprocess.run(
                command, capture_output=True, text=True, check=True, cwd=RESULTS.parent
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return "unknown"

    return {
        "gpu": torch.cuda.get_device_name(),
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "torch": torch.__version__,
        "triton": version("triton"),
        "timm": version("timm"),
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
        "commit": said("git", "rev-parse", "--short", "HEAD"),
    }


if __name__ == "__main__":
    sys.exit(main())
