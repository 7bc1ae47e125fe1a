"""What keeps `make test` short: selected cases of products, coverage of first cases, shared ONNX traces."""

from __future__ import annotations

import hashlib
import itertools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

STRENGTHS = {"each_choice": 1, "pairwise": 2}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes() -> None:
    """Let only pytest-cov start coverage in test processes: its `no_cover` would not pause what starts in every
    subprocess by itself. For the subprocesses of tests it sets the variable again.
    """
    os.environ.pop("COVERAGE_PROCESS_CONFIG", None)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Stop the coverage that pytest-cov 7 starts in a test process as if it were the only one; it starts a second one
    for test processes."""
    plugin = session.config.pluginmanager.getplugin("_cov")
    if hasattr(session.config, "workerinput") and plugin is not None and plugin.cov_controller is not None:
        plugin.cov_controller.cov.stop()


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    products: dict[tuple[str, int], list[pytest.Function]] = {}
    for item in items:
        for name, strength in STRENGTHS.items():
            if isinstance(item, pytest.Function) and item.get_closest_marker(name):
                products.setdefault((_name(item), strength), []).append(item)
    for (_, strength), cases in products.items():
        for case in _redundant(cases, strength):
            case.add_marker("slow")
    traced = set()
    for item in items:
        if _name(item) in traced:  # further cases rarely run other lines, and tracing doubles the time of an export
            item.add_marker("no_cover")
        elif not item.get_closest_marker("slow"):
            traced.add(_name(item))


def _name(item: pytest.Item) -> str:
    """Name of the test without its parameters."""
    return item.nodeid.partition("[")[0]


def _redundant(cases: list[pytest.Function], strength: int) -> list[pytest.Function]:
    """Cases that add no combination of `strength` values to the selected ones; greedy selection, rare values first."""
    values = {case: _values(case) for case in cases}
    left = {case: set(itertools.combinations(values[case], strength)) for case in cases}
    used = Counter[str]()
    while any(left.values()):
        best = max(left, key=lambda case: (len(left[case]), -sum(used[value] for value in values[case])))
        seen = left.pop(best)
        left = {case: combinations - seen for case, combinations in left.items()}
        used.update(values[best])
    return list(left)


def _values(case: pytest.Function) -> list[str]:
    """The value of each `parametrize` marker; arguments that are parametrised together are one value."""
    names = [mark.args[0] for mark in case.iter_markers("parametrize")]
    groups = [group.replace(" ", "").split(",") if isinstance(group, str) else group for group in names]
    return [repr([(name, case.callspec.params[name]) for name in group]) for group in groups]


@pytest.fixture(autouse=True)
def _untraced_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Subprocesses of tests that do not count for coverage are not traced either."""
    if request.node.get_closest_marker("no_cover"):
        for name in [name for name in os.environ if name.startswith("COV")]:
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def untraced() -> dict[str, str]:
    """Environment variables for subprocesses without coverage, which would double their time."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COV")}


@pytest.fixture(scope="session", autouse=True)
def _traced_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trace equal modules to ONNX once for all tests and processes, with one table of operators: a trace takes most of
    the time of a small model's export."""
    onnx = pytest.importorskip("onnx")
    import torch
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    from toolkit.export import trace

    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "traced"
    folder.mkdir(exist_ok=True)
    exporter, real = torch.onnx.export, trace.export_onnx

    def export_onnx(
        module: nn.Module, examples: tuple[Any, ...], opset: int, names: object, dynamic: tuple[Any, ...]
    ) -> ModelProto:
        only_batch = all(dims is None or [*dims] == [0] for dims in dynamic)
        if not only_batch or torch.onnx.export is not exporter:
            return real(module, examples, opset, names, dynamic)  # type: ignore[arg-type]
        shapes = [None if example is None else (example.dtype, example.shape) for example in examples]
        file = folder / f"{_hash(module, (shapes, opset, names, [dims is None for dims in dynamic]))}.onnx"
        if not file.exists():
            proto = _without_coverage(real, module, examples, opset, names, dynamic)
            draft = file.with_suffix(f".{os.getpid()}")
            draft.write_bytes(proto.SerializeToString())
            draft.replace(file)
        loaded: ModelProto = onnx.load_model_from_string(file.read_bytes())
        return loaded

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(ONNXRegistry.from_torchlib)))
        patch.setattr(trace, "export_onnx", export_onnx)
        yield


@pytest.fixture(scope="session", autouse=True)
def _interpreter_without_coverage() -> Iterator[None]:
    """Interpret Triton's kernels without coverage."""
    try:
        from triton.runtime import interpreter
    except ModuleNotFoundError:  # there is no Triton for this system
        yield
        return
    run = interpreter.GridExecutor.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            interpreter.GridExecutor, "__call__", lambda *args, **named: _without_coverage(run, *args, **named)
        )
        yield


def _without_coverage(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """Call a function without coverage, which would double the time of torch's and Triton's own code."""
    tracer = sys.gettrace()
    sys.settrace(None)
    try:
        return call(*args, **named)
    finally:
        sys.settrace(tracer)
        _nothing()  # coverage's tracer is installed again by the next call


def _nothing() -> None:
    pass


def _hash(module: nn.Module, settings: object) -> str:
    """Hash of all that a trace depends on: settings, and classes, attributes and tensors of all submodules."""
    import torch

    digest = hashlib.sha256(repr(settings).encode())
    for name, part in module.named_modules():
        own = {key: _text(value) for key, value in vars(part).items() if not key.startswith("_")}
        hooks = [_text(hook) for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values())]
        digest.update(repr((name, type(part), own, hooks)).encode())
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        digest.update(repr((name, tensor.dtype, tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _text(value: Any) -> str:
    """The representation of a value, without the addresses of functions."""
    if isinstance(value, partial):
        return f"{_text(value.func)} {value.args} {value.keywords}"
    named = hasattr(value, "__qualname__") and getattr(value, "__closure__", None) is None
    return f"{value.__module__}.{value.__qualname__}" if named else repr(value)
