"""TensorRT as a target: engine options and files. `engine` builds the engines; `rtx` shares this code."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from toolkit import plugins, records
from toolkit.errors import BadInput, StorageError, WrongMachine, plainly
from toolkit.export import Target, Written
from toolkit.export.capabilities import Capabilities, HeadWidths
from toolkit.export.engine import EngineLayers, EngineOptions, build
from toolkit.export.graph_settings import GRAPH_LIBRARIES, GraphSettings
from toolkit.export.libraries import AMPERE, PACKAGES, Library, library
from toolkit.isolated import NativeLibrary
from toolkit.machine import cuda
from toolkit.progress import Progress
from toolkit.records import BatchRange, EngineTraits
from toolkit.section import FlagName
from toolkit.setting_types import Architectures, Positive

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.prepare import Prepared

FILE, LAYERS = "model.engine", "layers.json"


class EngineSettings(GraphSettings):
    gpus: Annotated[Architectures | None, FlagName("gpu")] = None
    """GPU architectures an engine is for, such as sm_87 or sm_86,sm_89. By default this machine's GPU; TensorRT for RTX
    builds for all from Ampere on."""
    builder_level: Annotated[int, Field(ge=0, le=5)] = 3
    """Builder optimization level of an engine."""
    workspace_mib: Positive | None = None
    """Workspace memory limit of an engine in MiB; default: no limit."""
    version_compatible: bool = False
    """Build an engine that later versions of the library can load."""
    hardware_compatible: bool = False
    """Build an engine for all GPUs from Ampere on."""
    timing_cache: str | None = None
    """Timing cache file of the engine builder; created if missing."""


@dataclass(frozen=True)
class TensorRT(Target):
    """Engines of TensorRT ("tensorrt") or TensorRT for RTX ("rtx")."""

    name: str
    flag: str
    help: str
    settings: EngineSettings = EngineSettings()

    runtime = "tensorrt"

    @property
    def needs(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*GRAPH_LIBRARIES, PACKAGES[self.name])

    @property
    def runs_with(self) -> tuple[str, ...]:  # type: ignore[override]
        return (PACKAGES[self.name],)

    def capabilities(self) -> Capabilities:
        from toolkit.export import quick_plugin

        features = library(self.name).features
        return Capabilities(
            precisions=("fp32", "fp16", "bf16", "int8"),
            opsets=(17, features.opset),
            opset=self.settings.opset or 20,
            attention=("decomposed", "custom") if features.plugins else ("decomposed",),
            symmetric=True,
            int8_base="fp16",
            fused_heads=HeadWidths(8, 16),  # observed in TensorRT for RTX 1.7: equal widths from 16 to 256
            custom_heads=quick_plugin.HEADS,
            unsupported={
                "standard": "it fails on Attention nodes unless it has a kernel for exactly these head widths",
                "custom": "it needs plugins compiled ahead of time, which TensorRT supports from 10.9 on and TensorRT "
                "for RTX does not",
            },
        )

    def native_library(self, hint: str) -> NativeLibrary:
        return NativeLibrary.installed(PACKAGES[self.name], (PACKAGES[self.name],), hint)

    def check(self, options: recipe.Export) -> None:
        """BadInput for options that this library does not support."""
        engine = engine_options(options, self.settings, library(self.name))
        if options.attention == "custom":
            from toolkit.export import quick_plugin

            quick_plugin.check(options.precision, engine.lowest_architecture)

    def check_runs_here(self, options: recipe.Export) -> None:
        """DeviceUnreachable without a usable GPU, WrongMachine for engines for other GPUs."""
        here, engine = cuda.architecture(), engine_options(options, self.settings, library(self.name))
        if not engine.hardware_compatible and engine.architectures and here not in engine.architectures:
            raise WrongMachine(
                f"the engine is for {', '.join(engine.architectures)} (--gpu), and this GPU is {here}",
                f"--gpu {here}, or run it on one of those GPUs",
            )

    def depends_on(self) -> dict[str, str]:
        """Versions of the graph's libraries and, unless compatibility settings make them irrelevant, the engine
        library's version, and the GPU unless the library cross-compiles."""
        builder = library(self.name)
        version = {} if self.settings.version_compatible else {builder.package: builder.version}
        any_gpu = builder.features.architectures or self.settings.hardware_compatible
        return plugins.versions(GRAPH_LIBRARIES) | version | ({} if any_gpu else {"gpu": cuda.architecture()})

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, progress: Progress) -> Written:
        """Build `model.engine`, and write its layers to `layers.json`. The engine runs only on its GPU."""
        from toolkit.export import check, fusion, quick_plugin

        builder = library(self.name)
        build_options = engine_options(options, self.settings, builder)
        onnx = check.serialized(prepared.proto)
        check.check_graph(prepared.proto, prepared.info, options)
        difference = check.difference_in_onnxruntime(prepared, options)
        if options.attention == "custom":
            onnx = check.serialized(quick_plugin.for_engine(prepared, build_options.lowest_architecture))
        cache = Path(self.settings.timing_cache) if self.settings.timing_cache else None
        engine = build(onnx, build_options, builder, _read_cache(cache), progress)
        try:
            (out / FILE).write_bytes(engine.data)
            records.save(EngineLayers(engine.layers), out / LAYERS)
        except OSError as error:
            raise StorageError(f"cannot write the engine: {plainly(error)}", "free disk space and try again") from error
        if cache:
            _write_cache(engine.timing_cache, cache)
        return Written(
            FILE,
            (LAYERS,),
            built_with={builder.package: builder.version},
            fusion=fusion.in_engine(engine.layers, prepared.layouts, options.precision),
            batch=BatchRange.of(build_options.batch_sizes),
            engine=EngineTraits(
                build_options.level,
                build_options.version_compatible,
                build_options.hardware_compatible or not build_options.architectures,
            ),
            graph_difference=difference,
            architecture=_architecture(build_options),
        )


def _architecture(options: EngineOptions) -> str:
    """GPU architectures of an engine, with commas."""
    return AMPERE if options.hardware_compatible else ",".join(options.architectures) or AMPERE


def _write_cache(timing_cache: bytes, file: Path) -> None:
    """Replace the timing cache file atomically."""
    final = file.resolve()
    draft = final.with_name(f".{final.name}.new")
    try:
        draft.write_bytes(timing_cache)
        draft.replace(final)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write the timing cache {file}: {plainly(error)}", "choose another --timing-cache"
        ) from error


def _read_cache(cache: Path | None) -> bytes:
    """Contents of the timing cache, or b""."""
    try:
        return cache.read_bytes() if cache else b""
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadInput(
            f"cannot read the timing cache {cache}: {plainly(error)}", "choose another --timing-cache"
        ) from error


def engine_options(options: recipe.Export, own: EngineSettings, library: Library) -> EngineOptions:
    """Build options from the recipe; BadInput for GPUs and options that this library does not support."""
    requested = tuple(own.gpus.split(",")) if own.gpus else ()
    if own.timing_cache and not library.features.timing_cache:
        raise BadInput(f"{library.package} has no timing cache", "drop --timing-cache")
    if own.timing_cache:
        _check_writable(Path(own.timing_cache))
    if own.hardware_compatible and not library.features.ampere_plus:
        raise BadInput(f"{library.package} does not support --hardware-compatible", "name the GPUs: --gpu sm_86,sm_89")
    return EngineOptions(
        batch_sizes=options.batch_size,
        architectures=() if own.hardware_compatible and not requested else _architectures(requested, library),
        level=own.builder_level,
        workspace_bytes=None if own.workspace_mib is None else own.workspace_mib << 20,
        version_compatible=own.version_compatible,
        hardware_compatible=own.hardware_compatible,
        custom_nodes=options.attention == "custom",
    )


def _check_writable(cache: Path) -> None:
    """Raise BadInput before minutes of building."""
    if not cache.resolve().parent.is_dir():
        raise BadInput(f"the folder of the timing cache {cache} does not exist", "create it first")
    if cache.is_dir() or not os.access(cache.resolve().parent, os.W_OK):  # the file is replaced, not modified
        raise BadInput(f"the timing cache {cache} cannot be written", "choose another --timing-cache")


def _architectures(requested: tuple[str, ...], library: Library) -> tuple[str, ...]:
    """GPU architectures to build for: the requested ones, or the installed GPU if the library does not cross-compile.

    Empty: all from Ampere on, the default of TensorRT for RTX.
    """
    supported = library.features.architectures or (cuda.architecture(),)
    if unsupported := [architecture for architecture in requested if architecture not in supported]:
        raise BadInput(
            f"{library.package} {library.version} cannot build for {', '.join(unsupported)} here",
            f"supported: {', '.join(supported)} (--gpu)",
        )
    return requested or (() if library.features.architectures else supported)


PLUGIN: Target = TensorRT("tensorrt", flag="trt", help="Build a TensorRT engine, on the machine whose GPU will run it.")
