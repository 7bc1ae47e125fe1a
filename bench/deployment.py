"""Where and how latencies of a budget are measured: device, runtime, batch size, and the settings of the export."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import cast

from toolkit import hashing, plugins, recipe
from toolkit.bench.devices import Device
from toolkit.bench.devices import device as load_device
from toolkit.bench.runtimes import described, runtime
from toolkit.errors import DeviceUnreachable, LibraryDied, MissingDependency, RecipeError, WrongMachine
from toolkit.export import Target, target
from toolkit.export.settings import resolve_settings
from toolkit.export.unused import effective
from toolkit.section import Section


@dataclass(frozen=True)
class Deployment:
    """An export of the recipe, and a measurement of its files."""

    export: recipe.Export
    """With one target."""
    bench: recipe.Bench
    """With one batch size."""

    @property
    def target(self) -> str:
        """Name of the target."""
        return self.export.targets[0]

    @property
    def runtime(self) -> str:
        """Name of the runtime."""
        assert self.bench.runtime is not None  # set by `deployment_of`
        return self.bench.runtime

    @property
    def batch_size(self) -> int:
        return self.bench.batch_size[0]

    @property
    def device(self) -> Device:
        """Raises MissingDependency if it needs a package that is not installed."""
        return load_device(self.bench.device, self.bench.own(self.bench.device))

    @property
    def libraries(self) -> tuple[str, ...]:
        """Modules whose versions affect latencies."""
        return (*described(self.runtime).needs, *_target(self.export, self.target).runs_with)

    def fingerprint(self) -> dict[str, str]:
        """Hashes and versions of everything that a latency depends on besides the model."""
        own = [self.export.own(self.target), *(self.bench.own(name) for name in (self.runtime, self.bench.clock))]
        settings = [_dumped(effective(self.export)), *(_dumped(each) for each in own if each is not None)]
        measured = {name: getattr(self.bench, name) for name in ("device", "runtime", "clock", "batch_size", "threads")}
        environment = self.device.environment(self.libraries)
        machine = asdict(replace(environment, clocks_mhz=(), toolkit="", libraries={}))
        written = plugins.versions(("torch", *_target(self.export, self.target).needs))
        return {
            "export": hashing.digest(settings),
            "bench": hashing.digest(measured),
            "machine": hashing.digest(machine),
            **written,
            **environment.libraries,
        }

    def check(self) -> None:
        """Raise the error that would end a measurement, as far as it is known before anything is made: BadInput,
        WrongMachine, DeviceUnreachable, MissingDependency."""
        chosen = _target(self.export, self.target)
        resolve_settings(self.target, chosen.capabilities(), self.export)
        chosen.check(self.export)
        if self.export.image_size:
            raise RecipeError(
                "a latency budget is for images of the model's size, and export.image_size is set",
                "set model.image_size instead",
            )
        sizes, size = self.export.batch_size, self.batch_size
        if not min(sizes) <= size <= (max(sizes) if len(sizes) > 1 else sizes[0]):
            raise RecipeError(
                f"prune.at_batch is {size}, but files are exported for batch sizes {', '.join(map(str, sizes))}",
                "change --at-batch or export.batch_size",
            )
        if not self.device.is_this_machine:
            return
        try:
            runtime(self.runtime)
            chosen.check_runs_here(self.export)
        except (DeviceUnreachable, LibraryDied, MissingDependency, WrongMachine) as error:
            raise type(error)(
                f"a latency budget cannot be measured with {self.runtime} on this machine: {error.message}",
                f"another --runtime or --device; {error.hint}",
            ) from error


def deployment_of(prune: recipe.Prune, export: recipe.Export, bench: recipe.Bench) -> Deployment:
    """The deployment that a latency budget is for. Raises UnknownName, and RecipeError if the runtime opens no
    exported files.

    Its runtime is that of `prune`, else that of `bench`, else the first target's; the target is the first one of the
    recipe that the runtime opens, else the one of its name, else any; what `bench` sets besides holds as well.
    """
    name = prune.runtime or bench.runtime or target(export.targets[0]).runtime
    described(name)  # raises UnknownName
    runtimes = {other: plugin.runtime for other, plugin in plugins.importable("toolkit.export")}
    known = sorted((other for other in runtimes if runtimes[other] == name), key=lambda other: other != name)
    targets = [other for other in export.targets if other in known] or known
    if not targets:
        raise RecipeError(
            f"runtime {name!r} opens no exported files, and latencies of a budget are those of exported files",
            f"--runtime {' or '.join(sorted(set(runtimes.values())))}",
        )
    own = prune.own(prune.device)
    settings = {"device": prune.device, "runtime": name, "batch_size": (prune.at_batch,)}
    return Deployment(
        export.model_copy(update={"targets": (targets[0],)}),
        bench.model_copy(update=settings if own is None else {**settings, prune.device: own}),
    )


def _target(export: recipe.Export, name: str) -> Target:
    return target(name, export.own(name))


def _dumped(settings: Section) -> dict[str, object]:
    """The settings that a section itself has, without those of plug-ins."""
    return cast("dict[str, object]", settings.model_dump(mode="json", include=set(type(settings).model_fields)))
