"""Results of all parts: one record, written after every step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

import toolkit
from toolkit import hashing, records
from toolkit.bench.kernels.attention import KernelReport
from toolkit.records import BenchReport, Environment

FILE = "results.json"
LIBRARIES = ("torch", "triton", "timm")
"""Packages whose versions decide results."""
Part: TypeAlias = Literal["checks", "kernels", "models"]
SOURCES = (
    "kernels", "models", "prune",
    "bench/agent.py", "bench/measure.py", "bench/clocks", "bench/kernels", "bench/runtimes",
)  # fmt: skip
"""Files and folders of the code that decides results."""


@dataclass(frozen=True)
class CheckReport:
    """A check of correctness: the tests on a GPU, or a tool of compute-sanitizer."""

    name: str
    passed: bool | None
    """None: not run."""
    detail: str
    output: str = ""
    """End of its output, unless it passed."""


@dataclass(frozen=True)
class ModelReport:
    """A dense model and a pruned one, in one mode at one batch size."""

    model: str
    mode: str
    batch_size: int
    macs: dict[str, int]
    """MACs by subject: dense and slim."""
    bench: BenchReport | None
    """Latency measurements; None: they failed."""
    failure: str = ""


@dataclass(frozen=True)
class Bandwidth:
    """Memory bandwidth in bytes per second."""

    nominal: float
    """Theoretical peak."""
    copy: float
    """Reads plus writes of a copy."""


@dataclass(frozen=True)
class Results:
    """`results.json`."""

    environment: Environment
    code: dict[str, str] = field(default_factory=dict)
    """Hash of the code, libraries and GPU that produced the results, by part."""
    bandwidth: Bandwidth | None = None
    checks: tuple[CheckReport, ...] = ()
    kernels: tuple[KernelReport, ...] = ()
    models: tuple[ModelReport, ...] = ()
    schema: int = 1

    def save(self, out: Path) -> None:
        """Replace `results.json` in this folder."""
        draft = out / f".{FILE}"
        records.save(self, draft)
        draft.replace(out / FILE)


def read(out: Path, environment: Environment) -> Results:
    """Earlier results in this folder, or empty ones."""
    file = out / FILE
    return replace(records.load(Results, file), environment=environment) if file.is_file() else Results(environment)


def continued(results: Results, part: Part, code: str) -> Results:
    """The results, without those of this part if they come from other code."""
    if results.code.get(part) == code:
        return results
    dropped = {
        "checks": replace(results, checks=()),
        "kernels": replace(results, kernels=(), bandwidth=None),
        "models": replace(results, models=()),
    }
    return replace(dropped[part], code={**results.code, part: code})


def code_hash(machine: Environment) -> str:
    """Hash of the sources that decide results, of the versions of the libraries, and of the GPU and its driver."""
    root = Path(toolkit.__file__).parent
    places = [root / source for source in SOURCES]
    found = (file for place in places for file in ([place] if place.is_file() else place.rglob("*.*")))
    files = sorted(file for file in found if file.suffix in (".py", ".json"))  # .json: kernels/tuned
    hashes = {str(file.relative_to(root)): hashing.sha256(file) for file in files}
    return hashing.digest([hashes, machine.libraries, machine.gpu, machine.driver])
