"""Engines, built by any version of TensorRT or TensorRT for RTX.

`build` is a function of ONNX bytes and options. It imports no torch, so that devices can build engines too, and runs
the builder in a subprocess. Precisions are those of the graph: networks are strongly typed, as TensorRT 11 requires.
`libraries` lists the differences between versions.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolkit.errors import BadInput, CheckFailed, DeviceUnreachable, plainly
from toolkit.export.libraries import AMPERE, Library
from toolkit.isolated import Isolated, NativeLibrary
from toolkit.progress import Progress, silent


@dataclass(frozen=True)
class EngineOptions:
    """Build options of an engine."""

    batch_sizes: tuple[int, ...]
    """One (fixed), or minimum, typical and maximum."""
    architectures: tuple[str, ...] = ()
    """"sm_89", ...; empty: all from Ampere on."""
    level: int = 3
    """Builder optimization level, 0 to 5."""
    workspace_bytes: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    custom_nodes: bool = False
    """The graph has custom nodes, which the toolkit's plugin implements."""

    @property
    def lowest_architecture(self) -> str:
        """Lowest compute capability among the requested GPUs: code for it runs on all of them."""
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
    """`layers.json`: an engine's layers in execution order."""

    layers: tuple[EngineLayer, ...]
    schema: int = 1


@dataclass(frozen=True)
class Engine:
    """A serialised engine, its layers, and the builder's timing cache."""

    data: bytes
    layers: tuple[EngineLayer, ...]
    timing_cache: bytes


def build(
    onnx: bytes, options: EngineOptions, library: Library, timing_cache: bytes = b"", progress: Progress = silent
) -> Engine:
    """An engine from an ONNX graph with one input [batch, ...].

    Raises CheckFailed, with the library's reason, if the graph cannot be parsed or the engine cannot be built, and
    LibraryDied.
    """
    native = NativeLibrary(
        f"{library.package} {library.version}", "try another --builder-level, --precision or --attention"
    )
    with Isolated(native, "starting", Library, library.package, library.features) as process:
        return process.call("building the engine", _build, onnx, options, timing_cache, progress=progress)


def _build(
    library: Library, onnx: bytes, options: EngineOptions, timing_cache: bytes, progress: Progress = silent
) -> Engine:
    """Build an engine inside the library's process."""
    trt = library.module
    log = _log(trt)
    try:
        builder = trt.Builder(log)
    except TypeError as error:  # the Python bindings' error if the library cannot be initialised
        raise DeviceUnreachable(
            f"{library.package} {library.version} cannot be initialised here: {log.last_error()}",
            "it builds on machines with an NVIDIA GPU; `toolkit export --rtx` builds engines on any machine",
        ) from error
    network = _network(builder, log, onnx, options, library)
    config = _config(builder, network, options, library)
    config.progress_monitor = _monitor(trt, progress)
    use_cache = library.features.timing_cache
    if use_cache and not config.set_timing_cache(config.create_timing_cache(timing_cache), False):
        raise BadInput(
            f"{library.package} {library.version} rejects the timing cache: another version or GPU wrote it",
            "use a separate --timing-cache for each version and GPU",
        )
    data = builder.build_serialized_network(network, config)
    if data is None:
        raise CheckFailed(f"{library.package} {library.version} cannot build the engine: {log.last_error()}")
    timings = bytes(config.get_timing_cache().serialize()) if use_cache else b""
    return Engine(bytes(data), parse_layers(log.lines), timings)


def _network(builder: Any, log: Any, onnx: bytes, options: EngineOptions, library: Library) -> Any:
    """The parsed graph."""
    trt = library.module
    if options.custom_nodes:
        from toolkit.export import quick_plugin

        quick_plugin.register(trt, importlib.import_module(f"{library.package}.plugin"))
    flags = trt.NetworkDefinitionCreationFlag
    network = builder.create_network(1 << int(flags.STRONGLY_TYPED) if library.features.typing_flag else 0)
    parser = trt.OnnxParser(network, log)
    if not parser.parse(onnx):
        errors = "; ".join(plainly(RuntimeError(parser.get_error(index).desc())) for index in range(parser.num_errors))
        raise CheckFailed(f"{library.package} {library.version} cannot parse the graph: {errors}")
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
    _set_architectures(config, options.architectures, library)
    profile = builder.create_optimization_profile()
    images = network.get_input(0)
    image = tuple(images.shape)[1:]
    minimum, typical, maximum = options.batch_sizes * 3 if len(options.batch_sizes) == 1 else options.batch_sizes
    profile.set_shape(images.name, (minimum, *image), (typical, *image), (maximum, *image))
    config.add_optimization_profile(profile)
    return config


def _set_architectures(config: Any, architectures: Sequence[str], library: Library) -> None:
    if not architectures or not library.features.architectures:
        return
    config.num_compute_capabilities = len(architectures)
    for index, architecture in enumerate(architectures):
        capability = getattr(library.module.ComputeCapability, architecture.replace("_", "").upper())
        config.set_compute_capability(capability, index)


def _log(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Collects errors and the list of the engine's layers."""

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
            return plainly(RuntimeError(self.errors[-1])) if self.errors else "no reason given"

    return Log()


def _monitor(trt: Any, progress: Progress) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Reports the top-level phases of a build."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.steps[phase] = steps
                self.update(phase, 0)

        def step_complete(self, phase: str, step: int) -> bool:
            self.update(phase, step + 1)
            return True

        def phase_finish(self, phase: str) -> None:
            self.update(phase, self.steps.get(phase, 0))

        def update(self, phase: str, done: int) -> None:
            if total := self.steps.get(phase):
                progress(min(done, total), total, phase)

    return Monitor()


_LAYER = re.compile(
    r"Name: (?P<name>.*?), LayerType: (?P<kind>.*?), .*?TacticName: (?P<kernel>.*?), .*Metadata: (?P<notes>.*)$"
)


def parse_layers(lines: Sequence[str]) -> tuple[EngineLayer, ...]:
    """Layers of an engine, from the builder's log."""
    matches = [match for line in lines if (match := _LAYER.match(line))]
    return tuple(
        EngineLayer(
            match["name"], match["kind"], match["kernel"], tuple(re.findall(r"\[ONNX Layer: (.*?)\]", match["notes"]))
        )
        for match in matches
    )
