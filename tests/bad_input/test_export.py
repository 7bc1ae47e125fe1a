"""Exports that cannot be: said before anything is made, with the reason and what to do."""

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
    (["--onnx", "--opset", "16"], 2, "export.opset = 16", ""),
    (["--onnx", "--opset", "24"], 2, "export.opset = 24", ""),
    (["--onnx", "--opset", "20", "--attention", "standard"], 2, "opset 20 has no Attention node", "--opset 23"),
    (["--rtx", "--opset", "23", "--attention", "standard"], 2, "rtx does not run standard attention", "decomposed"),
    (["--rtx", "--attention", "custom"], 2, "rtx does not run custom attention", "it runs decomposed"),
    (["--openvino", "--attention", "custom"], 2, "openvino does not run custom attention", "decomposed"),
    (["--openvino", "--precision", "fp16"], 2, "openvino has no fp16", "it has fp32, bf16, int8"),
    (["--torch", "--precision", "int8"], 2, "torch has no int8", "it has fp32, fp16, bf16"),
    (["--onnx", "--precision", "fp8"], 2, "export.precision = 'fp8'", ""),
    (["--rtx", "--gpu", "sm_87"], 2, "does not build for sm_87 here", "sm_89"),
    (["--rtx", "--target", "sm_89"], 2, "it is now called --gpu", ""),
    (["--set", "export.target=sm_89"], 2, "--set export.target: export.target is now called export.gpus", ""),
    (["--rtx", "--gpu", "orin"], 2, "export.gpus = 'orin'", ""),
    (
        ["--onnx", "--precision", "int8", "--quantize-attention", "--attention", "standard"],
        2,
        "--quantize-attention needs the two products, which standard attention hides in one node",
        "--attention decomposed",
    ),
    (["--onnx", "--batch-size", "8,1,64"], 2, "it should be one number, or three in ascending order: minimum", ""),
    (["--onnx", "--image-size", "15"], 2, "an image size of 15 is not divisible by the patch size 8: use 8 or 16", ""),
    (
        ["--onnx", "--image-size", "16,36,48"],
        2,
        "an image size of 36 is not divisible by the patch size 8: use 32 or 40",
        "",
    ),
    (["--onnx", "--image-size", "32,16,8"], 2, "it should be one number, or three in ascending order: minimum", ""),
    (["--openvino", "--image-size", "8,16,32"], 2, "openvino takes images of one size only", "--onnx"),
    (["--onnx", "--image-size", "8,16,32", "--opset", "17"], 2, "opset 17 cannot resample positions", "--opset 18"),
    (
        ["--onnx", "--image-size", "8,16,32", "--attention", "custom"],
        2,
        "a custom node's function is for one number of tokens",
        "--attention standard",
    ),
    (["--onnx", "--rewrites", "norm"], 2, "export.rewrites.0 = 'norm'", ""),
    (
        ["--onnx", "--precision", "int8", "--calibration-domains", "sketch"],
        2,
        "sketch is the held-out domain: a file calibrated on it would have seen it",
        "calibrate on ink, photo",
    ),
    (
        ["--onnx", "--precision", "int8", "--calibration-domains", "inc"],
        2,
        "there is no domain 'inc' to calibrate on",
        "there are ink, photo",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join(case[0]))
def test_what_cannot_be_exported(here: Path, command: Command, unchanged: Unchanged, case: Any) -> None:
    words, code, message, hint = case
    with unchanged(here, ".work"):
        ended = command("export", *words)
    assert ended.code == code
    assert message in ended.err
    assert hint in ended.err
    assert "Traceback" not in ended.err


def test_tensorrt_that_is_not_installed(
    here: Path, command: Command, unchanged: Unchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`toolkit export --trt` with nothing else."""
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with unchanged(here):
        ended = command("export", "--trt")
    assert ended.code == 5
    assert "the target 'tensorrt' needs tensorrt, which cannot be imported" in ended.err
    assert "pip install 'vit-toolkit[tensorrt]'" in ended.err
    assert "toolkit export --rtx" in ended.err


def test_a_batch_that_a_fixed_file_does_not_take(here: Path, command: Command) -> None:
    assert command("export", "--batch-size", "4").code == 0
    ended = command("bench", "--batch-size", "8")
    assert ended.code == 2
    assert "the file takes 4 images a call, not 8" in ended.err
    assert "--batch-size 4" in ended.err


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise DeviceUnreachable(
            "this machine has no NVIDIA driver", "TensorRT engines need a machine with an NVIDIA GPU"
        )

    monkeypatch.setattr("toolkit.gpu.architecture", refuse)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for the process in which an engine is opened


@pytest.mark.usefixtures("no_gpu")
def test_an_engine_is_refused_where_there_is_no_gpu(here: Path, command: Command) -> None:
    ended = command("export", "--rtx", "--gpu", "sm_89")
    assert ended.code == 0, ended.err
    assert "not run on this machine" in ended.err
    for words, what in (
        (["parity"], "nothing that is exported can be compared here: rtx: "),
        (["bench"], "what rtx writes cannot be measured here: "),
        (["run"], "nothing that is exported can be compared here: rtx: "),
        (["export", "--verify"], "--verify cannot run what rtx writes: "),
    ):
        ended = command(*words, "--set", "train.epochs=5", "--set", "export.gpuss=rtx")
        assert (ended.code, ended.made) == (4, []), ended.err
        assert f"error: {what}this machine has no NVIDIA driver" in ended.err
        assert "TensorRT engines need a machine with an NVIDIA GPU" in ended.err


@pytest.mark.usefixtures("no_gpu")
def test_a_new_run_that_cannot_end_well_leaves_nothing(here: Path, command: Command) -> None:
    ended = command("run", "--run", "new/one", "--recipe", "toolkit.yaml", "--set", "export.gpuss=rtx")
    assert ended.code == 4, ended.err
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["export", "--onnx", "--verify"], "--verify cannot run what onnx writes"),
        (["parity"], "nothing that is exported can be compared here: onnx"),
        (["bench"], "what onnx writes cannot be measured here"),
        (["run"], "nothing that is exported can be compared here: onnx"),
    ],
    ids=str,
)
def test_bf16_that_onnxruntime_does_not_run(
    here: Path, command: Command, unchanged: Unchanged, words: list[str], what: str
) -> None:
    with unchanged(here):
        ended = command(*words, "--set", "train.epochs=5", "--set", "export.precision=bf16")
    assert ended.code == 2, ended.err
    assert f"error: {what}: onnxruntime has no kernels for bf16 on processors" in ended.err
    assert "--openvino" in ended.err


def test_bf16_that_the_processor_does_not_have(
    here: Path, command: Command, unchanged: Unchanged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolkit.export.openvino.runs_in", lambda computed_in, precision: computed_in == "fp8")
    with unchanged(here):
        ended = command("parity", "--set", "export.gpuss=openvino", "--set", "export.precision=bf16")
    assert ended.code == 2, ended.err
    assert "compared here: openvino: this processor does not have bf16: OpenVINO would compute in float32" in ended.err


@pytest.mark.usefixtures("no_gpu")
def test_a_file_that_does_not_run_here_leaves_the_others_their_verdict(here: Path, command: Command) -> None:
    ended = command("parity", "--set", "export.gpuss=onnx,rtx")
    assert ended.code == 4
    warning = "parity: warning: rtx cannot be compared here: this machine has no NVIDIA driver"
    assert warning in ended.err[: ended.err.index("export: making")]
    assert re.search(r"rtx-fp32: not compared: (this machine has no NVIDIA driver|there is no NVIDIA GPU)", ended.err)
    report = records.load(ParityReport, here / "runs/default/parity/parity.json")
    assert report.unopened.keys() == {"rtx-fp32"}
    assert report.verdict == "undecided"
    assert all(made.candidate != "rtx-fp32" for domain in report.domains for made in domain.comparisons)


@pytest.mark.slow  # the record is asked in tests/bench/test_identity.py
def test_a_batch_outside_of_an_engines_profile(here: Path, command: Command) -> None:
    assert command("export", "--rtx", "--batch-size", "1,4,8").code == 0
    engine = identify(here / "runs/default/artifacts/rtx-fp32")
    engine.check_batch(8)
    with pytest.raises(BadInput, match="takes 1 to 8 images a call, not 9"):
        engine.check_batch(9)


@pytest.mark.parametrize(("target", "bytes_free"), [("--openvino", 20_000), ("--rtx", 20_000), ("--torch", 20_000)])
def test_full_disk(
    here: Path, command: Command, unchanged: Unchanged, small_disk: SmallDisk, target: str, bytes_free: int
) -> None:
    living = ("log.jsonl", "environment.json", ".work", "recipe.yaml", "flags.yaml")
    with unchanged(here, *living), small_disk(bytes_free):
        ended = command("export", target, "--no-compile")  # a compiler and its linker write too: see tests/export
    assert ended.code == 2, ended.err
    assert "make room" in ended.err
    assert "Traceback" not in ended.err
    assert ".new" not in ended.err, "the folder that is gone again"
    assert "/." not in ended.err


def test_verify_compares_answers_before_the_result_counts(here: Path, command: Command) -> None:
    ended = command("export", "--precision", "int8", "--calibration-images", "8", "--verify")
    assert ended.code == 0, ended.err
    made = records.load(Artifact, here / "runs/default/artifacts/onnx-int8/artifact.json").lowered
    history = records.load(TrainingHistory, here / "runs/default/finetuned/history.json")
    kept = next(each for each in history.evaluations if each.step == history.selected_step)
    assert made is not None
    assert made.reference == kept.accuracy, "the model's own, on the same images"
    shown = command("inspect", "runs/default/artifacts/onnx-int8").err
    assert not [share for share in kept.accuracy.values() if f"{share:.1%}" not in shown], shown


def test_verify_refuses_a_file_that_answers_otherwise(
    here: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.stages import export

    def wrong(run: Any, folder: Path, library: str, *others: Any) -> Any:
        seen = predictions(run, folder, library, *others)
        if library != "onnxruntime":
            return seen
        return {domain: (labels, tuple((label + 1) % 3 for label in labels)) for domain, (labels, _) in seen.items()}

    predictions = export.predictions
    monkeypatch.setattr(export, "predictions", wrong)
    ended = command("export", "--opset", "20", "--verify", "--set", "parity.margin=0.01")
    assert ended.code == 1
    assert "onnx does not answer as the" in ended.err
    assert "another --precision, or a wider parity.margin" in ended.err


@pytest.mark.usefixtures("no_gpu")
def test_verify_where_the_file_cannot_be_opened_is_no_pass(here: Path, command: Command) -> None:
    ended = command("export", "--rtx", "--verify")
    assert ended.code == 4
    assert not (here / "runs/default/artifacts/rtx-fp32").exists()


def test_a_flag_without_effect_on_the_target_is_said(here: Path, command: Command) -> None:
    ended = command("export", "--onnx", "--gpu", "sm_86", "--dry-run")
    assert ended.code == 0
    assert "export: warning: export.gpus=sm_86 changes nothing: it is not for onnx\n" in ended.err
    assert "warning" not in command("export", "--onnx", "--dry-run").err
