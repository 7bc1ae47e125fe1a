from __future__ import annotations

import pytest

from toolkit import records
from toolkit.bench.messages import BenchRequest, Failure, Subject, progress_line, read_progress
from toolkit.errors import BadInput, DeviceUnreachable, MissingDependency, ToolkitError, UnknownName, WeightsError


def test_a_request_survives_serialisation() -> None:
    request = BenchRequest({"slim": Subject("a folder", "onnxruntime")}, (1, 8), 2.5, 30, None, "local")
    assert records.loads(BenchRequest, records.dumps(request)) == request


@pytest.mark.parametrize("kind", [BadInput, WeightsError, MissingDependency, DeviceUnreachable, ToolkitError])
def test_an_error_keeps_class_message_and_hint(kind: type[ToolkitError]) -> None:
    failure = Failure.from_error(kind("it broke", "repair it"))
    restored = records.loads(Failure, records.dumps(failure)).to_error()
    assert type(restored) is kind
    assert (restored.message, restored.hint, restored.exit_code) == ("it broke", "repair it", kind.exit_code)


def test_an_error_with_a_custom_constructor_is_restored_as_its_base_class() -> None:
    original = UnknownName("runtime", "onx", ["onnxruntime"])
    restored = Failure.from_error(original).to_error()
    assert type(restored) is BadInput
    assert str(restored) == str(original)
    assert restored.exit_code == original.exit_code


def test_an_unknown_error_class_is_restored_as_toolkit_error() -> None:
    assert type(Failure("NotYetInvented", "what", "").to_error()) is ToolkitError


def test_progress_lines_are_told_from_other_output() -> None:
    assert read_progress(progress_line(1, 2, "batch: 8\n") + "\n") == (1, 2, "batch: 8\n")
    assert read_progress("some library: a warning") is None
