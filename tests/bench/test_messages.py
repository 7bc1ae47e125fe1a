from __future__ import annotations

import pytest

from toolkit import records
from toolkit.bench.messages import BenchRequest, Failure, Subject, progress_line, read_progress
from toolkit.errors import BadInput, DeviceUnreachable, MissingDependency, ToolkitError, UnknownName, WeightsError


def test_a_request_survives_the_journey() -> None:
    request = BenchRequest({"slim": Subject("a folder", "onnxruntime")}, (1, 8), 2.5, 30, None, "local")
    assert records.loads(BenchRequest, records.dumps(request)) == request


@pytest.mark.parametrize("kind", [BadInput, WeightsError, MissingDependency, DeviceUnreachable, ToolkitError])
def test_an_error_comes_back_as_what_it_was(kind: type[ToolkitError]) -> None:
    failure = Failure.of(kind("it broke", "mend it"))
    restored = records.loads(Failure, records.dumps(failure)).restored()
    assert type(restored) is kind
    assert (restored.message, restored.hint, restored.exit_code) == ("it broke", "mend it", kind.exit_code)


def test_an_error_built_in_its_own_way_comes_back_as_its_parent() -> None:
    original = UnknownName("runtime", "onx", ["onnxruntime"])
    restored = Failure.of(original).restored()
    assert type(restored) is BadInput
    assert str(restored) == str(original)
    assert restored.exit_code == original.exit_code


def test_an_error_of_another_version_is_still_an_error() -> None:
    assert type(Failure("NotYetInvented", "what", "").restored()) is ToolkitError


def test_progress_is_told_from_noise() -> None:
    assert read_progress(progress_line(1, 2, "batch: 8\n") + "\n") == (1, 2, "batch: 8\n")
    assert read_progress("some library: a warning") is None
