"""What this machine can do, and what to install for the rest (`toolkit doctor`)."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from toolkit import terminal
from toolkit.errors import LibraryDied, plainly


@dataclass(frozen=True)
class Finding:
    """One ability of the machine."""

    what: str
    able: bool
    detail: str
    """What was found, or what to do to get it."""


def diagnose() -> None:
    """Print all findings."""
    table = terminal.Table("what", "", "detail")
    for finding in findings():
        table.add_row(finding.what, "yes" if finding.able else "no", finding.detail)
    terminal.show(table)


def findings() -> Iterator[Finding]:
    """What was looked at, in the order of a run."""
    from toolkit.bench.environment import capture

    found = capture()
    memory = found.memory_bytes / 2**30
    yield Finding("processor", True, f"{found.processor}, {found.cores} cores, {memory:.0f} GiB memory")
    for name in ("torch", "timm", "torch-pruning", "onnx"):
        version = found.libraries.get(name)
        yield Finding(name, version is not None, version or f"pip install {name}")
    yield from _runtimes()
    yield from _number_formats()
    yield from _gpu(found.gpu)
    yield _importable("OpenVINO", "openvino", "pip install 'vit-toolkit[openvino]'")
    yield _importable("TensorRT for RTX", "tensorrt_rtx", "pip install 'vit-toolkit[rtx]'")
    yield _importable("TensorRT", "tensorrt", "pip install 'vit-toolkit[tensorrt]' on a machine with a GPU")


def _runtimes() -> Iterator[Finding]:
    """In a process of its own: a build for another CPU ends the one that imports it."""
    from toolkit.isolated import Guest, Isolated

    try:
        with Isolated(Guest("onnxruntime"), "being imported", importlib.import_module, "onnxruntime") as there:
            yield Finding("onnxruntime", True, there.call("saying what it can do", _providers))
    except ImportError as error:
        yield Finding(
            "onnxruntime", False, f"pip install onnxruntime-gpu (onnxruntime off Linux x86-64): {plainly(error)}"
        )
    except LibraryDied as error:
        yield Finding("onnxruntime", False, f"{error.message}; {error.hint}")


def _providers(onnxruntime: ModuleType) -> str:
    return f"{onnxruntime.__version__}: {', '.join(onnxruntime.get_available_providers())}"


def _number_formats() -> Iterator[Finding]:
    from toolkit.models import native

    for name in native.FLAGS:
        able = not native.emulated(name)
        yield Finding(f"{name} on the CPU", able, "by its own instructions" if able else "emulated: fp32 is faster")


def _gpu(name: str | None) -> Iterator[Finding]:
    import torch

    able = torch.cuda.is_available()
    yield Finding(
        "GPU for training", able, name or torch.cuda.get_device_name() if able else "torch finds no CUDA device"
    )


def _importable(what: str, module: str, install: str) -> Finding:
    found = importlib.util.find_spec(module) is not None
    return Finding(what, found, "installed" if found else install)
