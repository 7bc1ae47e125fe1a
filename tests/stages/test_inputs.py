"""What makes a result stale: the settings of the chosen plug-ins and the versions of the libraries they need."""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from toolkit import hashing, pipeline, resolve
from toolkit.recipe import Prune
from toolkit.runfolder import RunFolder
from toolkit.stages import Run, hash_of

Changed = Callable[..., dict[str, list[str]]]


@pytest.fixture
def changed(here: Path, monkeypatch: pytest.MonkeyPatch) -> Changed:
    """`changed({"export.onnx.opset": 20}, upgraded="onnx")`: changed inputs of each stale result of a finished run,
    after setting flags and upgrading the packages whose name begins so."""

    def compare(flags: resolve.Flags, upgraded: str = "") -> dict[str, list[str]]:
        version = metadata.version

        def newer(name: str) -> str:
            return f"{version(name)}.1" if upgraded and name.startswith(upgraded) else version(name)

        run = Run(resolve.resolve(None, None, flags).recipe, RunFolder(here / "runs" / "default"))
        with monkeypatch.context() as patch:
            patch.setattr(metadata, "version", newer)
            outputs = [output for stage in pipeline.STAGES.values() for output in stage.outputs(run)]
        changes = {output.result: run.folder.changed(output.result, output.inputs) for output in outputs}
        return {result: names for result, names in changes.items() if names}

    return compare


def test_upgrades_of_a_runtime_make_its_verdicts_and_measurements_stale(changed: Changed) -> None:
    stale = changed({}, upgraded="onnxruntime")
    assert {"parity", "bench/onnxruntime-local"} <= stale.keys()
    assert {name.partition("-")[0] for names in stale.values() for name in names} == {"onnxruntime"}
    assert changed({}, upgraded="openvino") == changed({}, upgraded="torch-pruning") == {}
    assert changed({}, upgraded="onnxscript").keys() == {"artifacts/onnx-fp32", "artifacts/onnx-fp32-dense"}


def test_settings_of_other_plugins_make_nothing_stale(changed: Changed) -> None:
    others = {"export.torch.compile": False, "export.rtx.builder_level": 1, "export.openvino.opset": 20}
    assert changed(others) == {}
    assert changed({"export.calibration_images": 7}) == {}, "fp32 needs no calibration"
    exports = {"artifacts/onnx-fp32": ["export"], "artifacts/onnx-fp32-dense": ["export"]}
    assert changed({"export.onnx.opset": 20}) == exports
    assert changed({"export.onnx.opset": None}) == {}, "the default"


def test_hashes_of_sections_are_those_of_earlier_versions() -> None:
    """Without settings of plug-ins, hashes are unchanged, so that existing pruned models stay up to date."""
    prune = Prune(method="grouped")
    assert hash_of(prune) == hashing.digest(prune.model_dump(mode="json"))
