"""Folders to measure or compare: the runtime that opens each, the libraries that run it, and the request to measure."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from toolkit import plugins, recipe, records
from toolkit.bench.messages import BenchRequest, Subject
from toolkit.bench.runtimes import described
from toolkit.export import target
from toolkit.records import Artifact


class Opened(NamedTuple):
    """A model folder or the folder of an exported file, and the runtime to open it with."""

    folder: Path
    runtime: str


def target_of(folder: Path) -> str | None:
    """The target of the exported file in a folder; None for a model folder."""
    file = folder / "artifact.json"
    return records.load(Artifact, file).target if file.exists() else None


def runtime_of(folder: Path) -> str:
    """The runtime of an exported file; PyTorch for a model folder."""
    name = target_of(folder)
    return "torch" if name is None else target(name).runtime


def running_libraries(subjects: Mapping[str, Opened]) -> list[str]:
    """Modules that run these folders; their versions affect predictions and latencies."""
    runtimes = [described(runtime).needs for _, runtime in subjects.values()]
    targets = [target(name).runs_with for folder, _ in subjects.values() if (name := target_of(folder))]
    return list(dict.fromkeys(itertools.chain(*runtimes, *targets)))


def own_settings(settings: recipe.Bench, plugin: str) -> str:
    """Own settings of a runtime or clock as JSON; empty: its defaults."""
    own = settings.own(plugin)
    return "" if own is None else own.model_dump_json()


def request_of(subjects: Mapping[str, Opened], settings: recipe.Bench) -> BenchRequest:
    """The request to measure these folders; it records the versions of the libraries that run them."""
    return BenchRequest(
        subjects={
            name: Subject(str(folder.resolve()), runtime, own_settings(settings, runtime))
            for name, (folder, runtime) in subjects.items()
        },
        batch_sizes=settings.batch_size,
        seconds=settings.seconds,
        samples=settings.samples,
        threads=settings.threads,
        device=settings.device,
        clock=settings.clock,
        clock_settings=own_settings(settings, settings.clock),
        libraries=tuple(dict.fromkeys((*plugins.requirements(), *running_libraries(subjects)))),
    )
