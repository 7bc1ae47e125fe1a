"""Engines, built by TensorRT or by TensorRT for RTX: one way for both, whatever their version.

`build` is a function of ONNX bytes and options, free of torch, so that a device can do it as well; the builder has a
process of its own. Number formats are those of the graph: networks are strongly typed, as TensorRT 11 wants them. What
versions differ in: see `libraries`.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit import records
from toolkit.errors import BadInput, CheckFailed, DeviceUnreachable, plainly
from toolkit.export.libraries import AMPERE, Library
from toolkit.isolated import Isolated, NativeLibrary
from toolkit.progress import Progress, silent


@dataclass(frozen=True)
class EngineOptions:
    """What an engine is built for."""

    batch_sizes: tuple[int, ...]
    """One, or the least, the usual and the largest."""
    architectures: tuple[str, ...] = ()
    """"sm_89", ...; none: all from Ampere on."""
    level: int = 3
    """Builder's optimisation level, 0 to 5."""
    workspace_bytes: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    custom_nodes: bool = False
    """The graph has nodes that are a plugin of ours."""

    @property
    def lowest_architecture(self) -> str:
        """Lowest architecture among the GPUs: code for it runs on all of them."""
        if self.hardware_compatible or not self.architectures:
            return AMPERE
        return min(self.architectures, key=lambda architecture: int(architecture.removeprefix("sm_")))


@dataclass(frozen=True)
class EngineLayer:
    """One kernel of an engine and the ONNX nodes it computes."""

    name: str
    kind: str
    kernel: str
    nodes: tuple[str, ...]


@dataclass(frozen=True)
class EngineLayers:
    """`layers.json`: what an engine is made of, in the order of execution."""

    layers: tuple[EngineLayer, ...]
    schema: int = records.SCHEMA


@dataclass(frozen=True)
class Engine:
    """A serialised engine, its layers, and what the builder learned about speeds, to build the next one faster."""

    data: bytes
    layers: tuple[EngineLayer, ...]
    timing_cache: bytes


def build(
    onnx: bytes, options: EngineOptions, library: Library, timing_cache: bytes = b"", report: Progress = silent
) -> Engine:
    """An engine from an ONNX graph with one input [batch, ...].

    Raises CheckFailed with the library's own words where it cannot parse the graph or finds no way to build it, and
    LibraryDied.
    """
    guest = NativeLibrary(
        f"{library.package} {library.version}", "another --builder-level, --precision or --attention may do"
    )
    with Isolated(guest, "starting", Library, library.package, library.can) as there:
        return there.call("building the engine", _build, onnx, options, timing_cache, progress=report)


def _build(
    library: Library, onnx: bytes, options: EngineOptions, timing_cache: bytes, progress: Progress = silent
) -> Engine:
    """`build`, where the library is."""
    trt = library.module
    log = _log(trt)
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # what its bindings raise where the library cannot start
        raise DeviceUnreachable(
            f"{library.package} {library.version} does not start here: {log.last_error()}",
            "it builds on a machine with an NVIDIA GPU; `toolkit export --rtx` builds engines on any machine",
        ) from error
    network = _network(builder, log, onnx, options, library)
    config = _config(builder, network, options, library)
    config.progress_monitor = _monitor(trt, progress)
    if library.can.timing_cache and not config.set_timing_cache(config.create_timing_cache(timing_cache), False):
        raise BadInput(
            f"{library.package} {library.version} refuses the timing cache: another version or GPU has made it",
            "give each its own --timing-cache",
        )
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise CheckFailed(f"{library.package} {library.version} cannot build the engine: {log.last_error()}")
    learned = bytes(config.get_timing_cache().serialize()) if library.can.timing_cache else b""
    return Engine(bytes(data), layers_in(log.lines), learned)


def _network(builder: Any, log: Any, onnx: bytes, options: EngineOptions, library: Library) -> Any:
    """What the parser makes of the graph."""
    trt = library.module
    if options.custom_nodes:
        from toolkit.export import quick_plugin

        quick_plugin.register(trt, importlib.import_module(f"{library.package}.plugin"))
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED) if library.can.typing_flag else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        faults = "; ".join(plainly(RuntimeError(parser.get_error(index).desc())) for index in range(parser.num_errors))
        raise CheckFailed(f"{library.package} {library.version} cannot read the graph: {faults}")
    return network


def _config(builder: Any, network: Any, options: EngineOptions, library: Library) -> Any:
    trt = library.module
    config = builder.create_builder_config()
    config.builder_optimization_level = options.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    _choose_architectures(config, options.architectures, library)
    profile = builder.create_optimization_profile()
    images = network.get_input(0)
    image = tuple(images.shape)[1:]
    least, usual, most = (options.batch_sizes * 3)[:3] if len(options.batch_sizes) == 1 else options.batch_sizes
    profile.set_shape(images.name, (least, *image), (usual, *image), (most, *image))
    config.add_optimization_profile(profile)
    return config


def _choose_architectures(config: Any, architectures: Sequence[str], library: Library) -> None:
    if not architectures or not library.can.architectures:
        return
    config.num_compute_capabilities = len(architectures)
    for index, architecture in enumerate(architectures):
        capability = getattr(library.module.ComputeCapability, architecture.replace("_", "").upper())
        config.set_compute_capability(capability, index)


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps what the library says: errors, and the layers of the finished engine."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif message.startswith(("Layers:", "Engine Layer Information:")):
                self.lines += message.splitlines()[1:]

        def last_error(self) -> str:
            return plainly(RuntimeError(self.errors[-1])) if self.errors else "it does not say why"

    return Log()


def _monitor(trt: Any, report: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tells of the outermost phases of a build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.steps[phase] = steps
                self.tell(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self.tell(phase, step + 1)
            return True

        def phase_finish(self, phase: str) -> None:
            self.tell(phase, self.steps.get(phase, 0))

        def tell(self, phase: str, done: int) -> None:
            if total := self.steps.get(phase):
                report(min(done, total), total, phase)

    return Monitor()


_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>.*?), .*?TacticName: (?P<kernel>.*?), .*Metadata: (?P<notes>.*)$"
)


def layers_in(lines: Sequence[str]) -> tuple[EngineLayer, ...]:
    """The layers of an engine, as the builder lists them when it is done."""
    found = [match for line in lines if (match := _LAYER.match(line))]
    return tuple(
        EngineLayer(
            match["name"], match["kind"], match["kernel"], tuple(re.findall(r"\[ONNX Layer: (.*?)\]", match["notes"]))
        )
        for match in found
    )
