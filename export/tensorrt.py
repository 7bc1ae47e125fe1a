"""TensorRT as a target: which engine is asked for, and what is written of it. `engine` builds it, also for `rtx`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit import gpu, records
from toolkit.errors import BadInput, StorageError, WrongMachine, plainly
from toolkit.export import ENGINE_SETTINGS, Abilities, HeadWidths, Target, Written
from toolkit.export.engine import EngineLayers, EngineOptions, build
from toolkit.export.libraries import AMPERE, PACKAGES, Library, library
from toolkit.isolated import NativeLibrary
from toolkit.progress import Progress

if TYPE_CHECKING:
    from toolkit import recipe
    from toolkit.export.prepare import Prepared

FILE, LAYERS = "model.engine", "layers.json"


class TensorRT(Target):
    """See the module."""

    runtime = "tensorrt"
    reads = (*ENGINE_SETTINGS, "opset")

    def __init__(self, name: str) -> None:
        self.name = name

    def abilities(self) -> Abilities:
        from toolkit.export import quick_plugin

        can = library(self.name).can
        return Abilities(
            precisions=("fp32", "fp16", "bf16", "int8"),
            opsets=(17, can.opset),
            opset=20,
            attention=("decomposed", "custom") if can.plugins else ("decomposed",),
            symmetric=True,
            int8_within="fp16",
            fused_heads=HeadWidths(8, 16),  # seen with TensorRT for RTX 1.7: widths 16 to 256, equal ones
            custom_heads=quick_plugin.HEADS,
            lacking={
                "standard": "it builds an Attention only where it has a kernel for exactly these widths",
                "custom": "that is a plugin compiled ahead of time, which TensorRT takes from 10.9 on and TensorRT for "
                "RTX does not",
            },
        )

    def guest(self, hint: str) -> NativeLibrary:
        return NativeLibrary.installed(PACKAGES[self.name], (PACKAGES[self.name],), hint)

    def check(self, options: recipe.Export) -> None:
        """BadInput for what this library does not build."""
        wanted = engine_options(options, library(self.name))
        if options.attention == "custom":
            from toolkit.export import quick_plugin

            quick_plugin.check(options.precision, wanted.lowest_architecture)

    def check_runs_here(self, options: recipe.Export) -> None:
        """DeviceUnreachable without a GPU that can be used, WrongMachine for engines for other GPUs."""
        here, wanted = gpu.architecture(), engine_options(options, library(self.name))
        if not wanted.hardware_compatible and wanted.architectures and here not in wanted.architectures:
            raise WrongMachine(
                f"the engine is for {', '.join(wanted.architectures)} (--gpu), and this GPU is {here}",
                f"--gpu {here}, or run it on such a GPU",
            )

    def depends_on(self, options: recipe.Export) -> dict[str, str]:
        """The library's version, and the GPU where it builds for no other; not what the engine is to be free of."""
        found = library(self.name)
        version = {} if options.version_compatible else {found.package: found.version}
        free = found.can.architectures or options.hardware_compatible
        return version if free else {**version, "gpu": gpu.architecture()}

    def write(self, prepared: Prepared, options: recipe.Export, out: Path, report: Progress) -> Written:
        """Build `model.engine`, and `layers.json` with what it is made of. No machine without its GPU can run it."""
        from toolkit.export import check, fusion, quick_plugin

        built_by = library(self.name)
        wanted = engine_options(options, built_by)
        onnx = check.serialized(prepared.proto)
        check.check_graph(prepared.proto, prepared.info, options)
        difference = check.difference_in_onnxruntime(prepared, options)
        if options.attention == "custom":
            onnx = check.serialized(quick_plugin.for_engine(prepared, wanted.lowest_architecture))
        cache = Path(options.timing_cache) if options.timing_cache else None
        engine = build(onnx, wanted, built_by, _learned(cache), report)
        try:
            (out / FILE).write_bytes(engine.data)
            records.save(EngineLayers(engine.layers), out / LAYERS)
        except OSError as error:
            raise StorageError(
                f"cannot write the engine: {plainly(error)}", "make room on the disk and try again"
            ) from error
        if cache:
            _keep(engine.timing_cache, cache)
        return Written(
            FILE,
            (LAYERS,),
            ("onnx", "onnxscript"),
            builder={built_by.package: built_by.version},
            fusion=fusion.in_engine(engine.layers, prepared.layouts, options.precision),
            options={
                "least_batch": wanted.batch_sizes[0],
                "usual_batch": wanted.batch_sizes[len(wanted.batch_sizes) // 2],
                "largest_batch": wanted.batch_sizes[-1],
                "builder_level": wanted.level,
                "version_compatible": wanted.version_compatible,
                "hardware_compatible": wanted.hardware_compatible or not wanted.architectures,
                "graph_difference": difference,
            },
            architecture=AMPERE if wanted.hardware_compatible else ",".join(wanted.architectures) or AMPERE,
        )


def _keep(timing_cache: bytes, file: Path) -> None:
    """Replace the file as a whole."""
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


def _learned(cache: Path | None) -> bytes:
    """What builders before have timed."""
    try:
        return cache.read_bytes() if cache else b""
    except FileNotFoundError:
        return b""
    except OSError as error:
        raise BadInput(
            f"cannot read the timing cache {cache}: {plainly(error)}", "give a file with --timing-cache"
        ) from error


def engine_options(options: recipe.Export, library: Library) -> EngineOptions:
    """The recipe's settings for an engine; BadInput for GPUs that this library does not build for."""
    asked = tuple(options.gpus.split(",")) if options.gpus else ()
    if options.timing_cache and not library.can.timing_cache:
        raise BadInput(f"{library.package} times nothing while it builds", "leave --timing-cache away")
    if options.timing_cache:
        _check_writable(Path(options.timing_cache))
    if options.hardware_compatible and not library.can.ampere_plus:
        raise BadInput(f"{library.package} knows no --hardware-compatible", "name the GPUs: --gpu sm_86,sm_89")
    return EngineOptions(
        batch_sizes=options.batch_size,
        architectures=() if options.hardware_compatible and not asked else _architectures(asked, library),
        level=options.builder_level,
        workspace_bytes=None if options.workspace_mib is None else options.workspace_mib << 20,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        custom_nodes=options.attention == "custom",
    )


def _check_writable(cache: Path) -> None:
    """Said before minutes go into building."""
    if not cache.resolve().parent.is_dir():
        raise BadInput(f"there is no folder for the timing cache {cache}", "make it first")
    if cache.is_dir() or not os.access(cache.resolve().parent, os.W_OK):  # it is replaced as a whole
        raise BadInput(f"the timing cache {cache} cannot be written", "choose another file")


def _architectures(asked: tuple[str, ...], library: Library) -> tuple[str, ...]:
    """What the engine will be for: what is asked for, or the GPU in the machine, where nothing else can be built for.

    None: all GPUs from Ampere on, which TensorRT for RTX builds for by default.
    """
    builds_for = library.can.architectures or (gpu.architecture(),)
    if unknown := [each for each in asked if each not in builds_for]:
        raise BadInput(
            f"{library.package} {library.version} does not build for {', '.join(unknown)} here",
            f"it builds for {', '.join(builds_for)}",
        )
    return asked or (() if library.can.architectures else builds_for)


PLUGIN: Target = TensorRT("tensorrt")
