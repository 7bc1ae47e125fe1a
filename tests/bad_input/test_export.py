"""Exports that cannot be made are refused before anything is written, with a reason and a hint."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from toolkit import records
from toolkit.bench.identity import identify
from toolkit.errors import BadInput, DeviceUnreachable
from toolkit.records import Artifact, ParityReport, TrainingHistory

Command = Callable[..., Any]
Unchanged = Callable[..., AbstractContextManager[None]]
SmallDisk = Callable[[int], AbstractContextManager[None]]

CASES = [
    (["--onnx", "--opset", "16"], 2, "--opset: export.onnx.opset = 16", ""),
    (["--onnx", "--opset", "24"], 2, "--opset: export.onnx.opset = 24", ""),
    (["--onnx", "--opset", "20", "--attention", "standard"], 2, "opset 20 has no Attention node", "--opset 23"),
    (["--rtx", "--opset", "23", "--attention", "standard"], 2, "rtx does not support standard attention", "decomposed"),
    (["--rtx", "--attention", "custom"], 2, "rtx does not support custom attention", "supported: decomposed"),
    (["--openvino", "--attention", "custom"], 2, "openvino does not support custom attention", "decomposed"),
    (["--openvino", "--precision", "fp16"], 2, "openvino does not support fp16", "supported: fp32, bf16, int8"),
    (["--torch", "--precision", "int8"], 2, "torch does not support int8", "supported: fp32, fp16, bf16"),
    (["--onnx", "--precision", "fp8"], 2, "export.precision = 'fp8'", ""),
    (["--rtx", "--gpu", "sm_87"], 2, "cannot build for sm_87 here", "sm_89"),
    (["--rtx", "--target", "sm_89"], 2, "it is now called --gpu", ""),
    (
        ["--set", "export.target=sm_89"],
        2,
        "export.target is now called export.rtx.gpus or export.tensorrt.gpus",
        "",
    ),
    (["--rtx", "--gpu", "orin"], 2, "export.rtx.gpus = 'orin'", ""),
    (
        ["--onnx", "--precision", "int8", "--quantize-attention", "--attention", "standard"],
        2,
        "--quantize-attention needs separate matrix products, and standard attention is a single node",
        "--attention decomposed",
    ),
    (["--onnx", "--batch-size", "8,1,64"], 2, "it should be one number, or three in ascending order", ""),
    (["--onnx", "--image-size", "15"], 2, "an image size of 15 is not divisible by the patch size 8: use 8 or 16", ""),
    (
        ["--onnx", "--image-size", "16,36,48"],
        2,
        "an image size of 36 is not divisible by the patch size 8: use 32 or 40",
        "",
    ),
    (["--onnx", "--image-size", "32,16,8"], 2, "it should be one number, or three in ascending order", ""),
    (["--openvino", "--image-size", "8,16,32"], 2, "openvino supports fixed image sizes only", "--onnx"),
    (["--onnx", "--image-size", "8,16,32", "--opset", "17"], 2, "opset 17 cannot resample position", "--opset 18"),
    (
        ["--onnx", "--image-size", "8,16,32", "--attention", "custom"],
        2,
        "a custom node is built for a fixed number of tokens",
        "--attention standard",
    ),
    (["--onnx", "--rewrites", "norm"], 2, "export.rewrites.0 = 'norm'", ""),
    (
        ["--onnx", "--precision", "int8", "--calibration-domains", "sketch"],
        2,
        "sketch is the held-out domain and cannot be used for calibration",
        "calibrate on ink, photo",
    ),
    (
        ["--onnx", "--precision", "int8", "--calibration-domains", "inc"],
        2,
        "there is no domain 'inc' to calibrate on",
        "existing domains: ink, photo",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case[0]))
def test_exports_that_cannot_be_made_are_refused(here: Path, command: Command, unchanged: Unchanged, case: Any) -> None:
    words, code, message, hint = case
    with unchanged(here, ".work"):
        ended = command("export", *words)
    assert ended.code == code
    assert message in ended.err
    assert hint in ended.err
    assert "Traceback" not in ended.err


def test_a_missing_tensorrt_is_an_error(
    here: Path, command: Command, unchanged: Unchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`toolkit export --trt` with nothing else."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with unchanged(here):
        ended = command("export", "--trt")
    assert ended.code == 5
    assert "target 'tensorrt' needs the package 'tensorrt', which is not installed" in ended.err
    assert "pip install 'vit-toolkit[tensorrt]'" in ended.err


def test_another_batch_size_than_the_files_fixed_one_is_refused(here: Path, command: Command) -> None:
    assert command("export", "--batch-size", "4").code == 0
    ended = command("bench", "--batch-size", "8")
    assert ended.code == 2
    assert "exported with a fixed batch size of 4, got 8" in ended.err
    assert "--batch-size 4" in ended.err


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise DeviceUnreachable(
            "this machine has no NVIDIA driver", "TensorRT engines need a machine with an NVIDIA GPU"
        )

    monkeypatch.setattr("toolkit.machine.cuda.architecture", refuse)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the process in which an engine is opened


@pytest.mark.usefixtures("no_gpu")
def test_an_engine_is_refused_where_there_is_no_gpu(here: Path, command: Command) -> None:
    ended = command("export", "--rtx", "--gpu", "sm_89")
    assert ended.code == 0, ended.err
    assert "not run on this machine" in ended.err
    for words, what in (
        (["parity"], "no exported model can be compared on this machine: rtx: "),
        (["bench"], "rtx artifacts cannot be measured on this machine: "),
        (["run"], "no exported model can be compared on this machine: rtx: "),
        (["export", "--verify"], "--verify cannot run the rtx file on this machine: "),
    ):
        ended = command(*words, "--set", "train.epochs=5", "--set", "export.targets=rtx")
        assert (ended.code, ended.made) == (4, []), ended.err
        assert f"error: {what}this machine has no NVIDIA driver" in ended.err
        assert "TensorRT engines need a machine with an NVIDIA GPU" in ended.err


@pytest.mark.usefixtures("no_gpu")
def test_a_new_run_that_cannot_succeed_leaves_nothing(here: Path, command: Command) -> None:
    ended = command("run", "--run", "new/one", "--recipe", "toolkit.yaml", "--set", "export.targets=rtx")
    assert ended.code == 4, ended.err
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["export", "--onnx", "--verify"], "--verify cannot run the onnx file on this machine"),
        (["parity"], "no exported model can be compared on this machine: onnx"),
        (["bench"], "onnx artifacts cannot be measured on this machine"),
        (["run"], "no exported model can be compared on this machine: onnx"),
    ],
    ids=str,
)
def test_bf16_is_refused_for_onnxruntime(
    here: Path, command: Command, unchanged: Unchanged, words: list[str], what: str
) -> None:
    with unchanged(here):
        ended = command(*words, "--set", "train.epochs=5", "--set", "export.precision=bf16")
    assert ended.code == 2, ended.err
    assert f"error: {what}: onnxruntime has no bf16 CPU kernels" in ended.err
    assert "--openvino" in ended.err


def test_bf16_is_refused_on_a_cpu_without_bf16(
    here: Path, command: Command, unchanged: Unchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.export.openvino.runs_in", lambda computed_in, precision: computed_in == "fp8")
    with unchanged(here):
        ended = command("parity", "--set", "export.targets=openvino", "--set", "export.precision=bf16")
    assert ended.code == 2, ended.err
    assert (
        "compared on this machine: openvino: this CPU has no bf16 support: OpenVINO would compute in float32"
        in ended.err
    )


@pytest.mark.usefixtures("no_gpu")
def test_a_file_that_cannot_run_here_does_not_affect_other_verdicts(here: Path, command: Command) -> None:
    ended = command("parity", "--set", "export.targets=onnx,rtx")
    assert ended.code == 4
    warning = "parity: warning: rtx cannot be compared on this machine: this machine has no NVIDIA driver"
    assert warning in ended.err[: ended.err.index("export: making")]
    assert re.search(r"rtx-fp32: not compared: (this machine has no NVIDIA driver|there is no NVIDIA GPU)", ended.err)
    report = records.load(ParityReport, here / "runs/default/parity/parity.json")
    assert report.unopened.keys() == {"rtx-fp32"}
    assert report.verdict == "undecided"
    assert all(pair.candidate != "rtx-fp32" for domain in report.domains for pair in domain.comparisons)


@pytest.mark.slow  # tests/bench/test_identity.py tests the record
def test_a_batch_outside_of_an_engines_profile(here: Path, command: Command) -> None:
    assert command("export", "--rtx", "--batch-size", "1,4,8").code == 0
    engine = identify(here / "runs/default/artifacts/rtx-fp32")
    engine.check_batch(8)
    with pytest.raises(BadInput, match="supports batch sizes 1 to 8, not 9"):
        engine.check_batch(9)


@pytest.mark.parametrize(("target", "bytes_free"), [("--openvino", 20_000), ("--rtx", 20_000), ("--torch", 20_000)])
def test_full_disk(
    here: Path, command: Command, unchanged: Unchanged, small_disk: SmallDisk, target: str, bytes_free: int
) -> None:
    living = ("log.jsonl", "environment.json", ".work", "recipe.yaml", "flags.yaml")
    with unchanged(here, *living), small_disk(bytes_free):
        ended = command("export", target, "--no-compile")  # a compiler and its linker write too: see tests/export
    assert ended.code == 2, ended.err
    assert "free disk space" in ended.err
    assert "Traceback" not in ended.err
    assert ".new" not in ended.err, "the temporary folder"
    assert "/." not in ended.err


def test_verify_compares_predictions(here: Path, command: Command) -> None:
    ended = command("export", "--precision", "int8", "--calibration-images", "8", "--verify")
    assert ended.code == 0, ended.err
    lowered = records.load(Artifact, here / "runs/default/artifacts/onnx-int8/artifact.json").lowered
    history = records.load(TrainingHistory, here / "runs/default/finetuned/history.json")
    selected = next(evaluation for evaluation in history.evaluations if evaluation.step == history.selected_step)
    assert lowered is not None
    assert lowered.reference == selected.accuracy, "the model's own accuracy on equal images"
    output = command("inspect", "runs/default/artifacts/onnx-int8").err
    assert not [accuracy for accuracy in selected.accuracy.values() if f"{accuracy:.1%}" not in output], output


def test_verify_refuses_a_file_with_other_predictions(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.bench.parity import Side
    from toolkit.stages import export

    def wrong(run: Any, opened: Any, *others: Any) -> Any:
        side = predictions(run, opened, *others)
        if opened.runtime != "onnxruntime":
            return side
        by_domain = side.predictions.items()
        return Side(
            side.sha256, {name: (labels, tuple((x + 1) % 3 for x in labels)) for name, (labels, _) in by_domain}
        )

    predictions = export.predictions
    monkeypatch.setattr(export, "predictions", wrong)
    ended = command("export", "--opset", "20", "--verify", "--set", "parity.margin=0.01")
    assert ended.code == 1
    assert "the predictions of onnx differ from the" in ended.err
    assert "another --precision, or a larger parity.margin" in ended.err


@pytest.mark.usefixtures("no_gpu")
def test_verify_fails_if_the_file_cannot_be_opened(here: Path, command: Command) -> None:
    ended = command("export", "--rtx", "--verify")
    assert ended.code == 4
    assert not (here / "runs/default/artifacts/rtx-fp32").exists()


def test_a_flag_without_effect_on_the_target_is_reported(here: Path, command: Command) -> None:
    ended = command("export", "--onnx", "--gpu", "sm_86", "--dry-run")
    assert ended.code == 0
    assert (
        "export: warning: export.rtx.gpus and export.tensorrt.gpus=sm_86 has no effect: not used for onnx\n"
        in ended.err
    )
    assert "warning" not in command("export", "--onnx", "--dry-run").err
