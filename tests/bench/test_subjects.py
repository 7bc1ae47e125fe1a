"""The request to measure a model folder and an exported file."""

from __future__ import annotations

from pathlib import Path

from toolkit import plugins
from toolkit.bench.messages import Subject
from toolkit.bench.subjects import Opened, request_of, running_libraries, runtime_of, target_of
from toolkit.recipe import Bench


def test_a_request_names_runtimes_and_the_libraries_that_run_them(folders: Path) -> None:
    paths = {"model": folders / "slim", "file": folders / "slim-onnx"}
    assert [target_of(folder) for folder in paths.values()] == [None, "onnx"]
    subjects = {name: Opened(folder, runtime_of(folder)) for name, folder in paths.items()}
    assert running_libraries(subjects) == ["torch", "onnxruntime"]
    request = request_of(subjects, Bench(batch_size=(1, 2), samples=5, threads=1))
    assert request.subjects == {
        "model": Subject(str(folders / "slim"), "torch"),
        "file": Subject(str(folders / "slim-onnx"), "onnxruntime"),
    }
    assert (request.batch_sizes, request.samples, request.threads, request.clock) == ((1, 2), 5, 1, "host")
    assert set(request.libraries) == {*plugins.requirements(), "torch", "onnxruntime"}
