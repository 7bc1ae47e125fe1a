"""`toolkit doctor`: what this machine can run, and what to install for the rest."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from toolkit import plugins, terminal
from toolkit.errors import LibraryDied, ToolkitError, plainly
from toolkit.setting_names import plugin_packages


@dataclass(frozen=True)
class Finding:
    """Whether a capability is available."""

    capability: str
    available: bool
    detail: str
    """Version or device if it is available, else how to get it."""


def diagnose() -> None:
    """Print all findings."""
    table = terminal.Table("capability", "", "detail")
    for finding in findings():
        table.add_row(finding.capability, "yes" if finding.available else "no", finding.detail)
    terminal.show(table)


def findings() -> Iterator[Finding]:
    """All findings, in the order in which a run needs them."""
    from toolkit.bench.environment import capture

    machine = capture(plugins.requirements())
    memory = machine.memory_bytes / 2**30
    yield Finding("CPU", True, f"{machine.processor}, {machine.cores} cores, {memory:.0f} GiB memory")
    for name in ("torch", "timm", "torch-pruning"):
        version = machine.libraries.get(name)
        yield Finding(name, version is not None, version or f"pip install {name}")
    yield from _runtimes()
    yield from _cpu_dtypes()
    yield from _gpu(machine.gpu)
    for package in plugin_packages():
        for name in plugins.names(package):
            yield from _plugin(package, name)


def _runtimes() -> Iterator[Finding]:
    """Imported in a subprocess, which a build for another CPU would crash."""
    from toolkit.isolated import Isolated, NativeLibrary

    try:
        with Isolated(
            NativeLibrary("onnxruntime"), "being imported", importlib.import_module, "onnxruntime"
        ) as process:
            yield Finding("onnxruntime", True, process.call("listing its providers", _providers))
    except ImportError as error:
        yield Finding(
            "onnxruntime", False, f"pip install onnxruntime-gpu (onnxruntime off Linux x86-64): {plainly(error)}"
        )
    except LibraryDied as error:
        yield Finding("onnxruntime", False, f"{error.message}; {error.hint}")


def _providers(onnxruntime: ModuleType) -> str:
    return f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}"


def _cpu_dtypes() -> Iterator[Finding]:
    from toolkit.models import native

    for name in native.CPU_FLAGS:
        available = not native.emulated(name)
        yield Finding(f"{name} on the CPU", available, "native" if available else "emulated: fp32 is faster")


def _gpu(name: str | None) -> Iterator[Finding]:
    import torch

    available = torch.cuda.is_available()
    device = name or torch.cuda.get_device_name() if available else "torch finds no CUDA device"
    yield Finding("GPU for training", available, device)


def _plugin(package: str, name: str) -> Iterator[Finding]:
    """Whether a plug-in can be used, if that depends on more than the toolkit itself."""
    what = f"{plugins.kind_of(package)} {name}"
    try:
        needs = plugins.needs_of(plugins.find(package, name))
    except ToolkitError as error:
        yield Finding(what, False, "; ".join(filter(None, (error.message, error.hint))))
        return
    missing = [need for need in needs if not plugins.installed(need)]
    if missing:
        yield Finding(what, False, "; ".join(map(plugins.install_hint, missing)))
    elif needs:
        versions = plugins.versions(needs)
        yield Finding(what, True, ", ".join(f"{package} {version}" for package, version in versions.items()))
