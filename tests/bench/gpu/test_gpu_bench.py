"""`make gpu` on a CPU: every subject is called and every requirement evaluated; nothing is timed."""

from __future__ import annotations

import copy
import itertools
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit.bench.gpu import __main__ as command
from toolkit.bench.gpu import attention, checks, clock, models, page
from toolkit.bench.gpu.attention import Case, cases
from toolkit.bench.gpu.clock import Call, Times
from toolkit.bench.gpu.names import BACKENDS, BUCKETS, DENSE, MODELS, MODES, OURS, PRUNED
from toolkit.kernels import headwise_operator
from toolkit.kernels.eager import reference
from toolkit.kernels.headwise_settings import Workload, heuristic_config
from toolkit.models.profile import profile


def once(subjects: Mapping[str, Sequence[Call]]) -> Times:
    """A clock that runs every call once and reports one microsecond."""
    times = Times()
    for name, calls in subjects.items():
        try:
            for call in calls:
                call()
            times.us[name] = [1.0] * 30
        except RuntimeError as error:
            times.errors[name] = clock.summary_of(error)
    return times


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("heads", [((16, 16),) * 2, ((16, 16), (8, 8))], ids=["even", "uneven"])
def test_a_case_calls_every_subject(heads: tuple[tuple[int, int], ...], training: bool, has_bias: bool) -> None:
    case = Case("some", heads, 17, 2, "float32", has_bias, training)
    result = attention.measure(case, once, "cpu")
    assert {OURS, "math"} <= result["us"].keys()
    assert (BUCKETS in result["us"]) == (heads[0] != heads[1])
    assert result["us"].keys() | result["errors"].keys() >= set(BACKENDS)
    assert result["headwise_backend"] == "sdpa"
    assert "the tensors are on cpu" in result["reason"]


@pytest.mark.parametrize("has_bias", [False, True])
def test_sdpa_backends_match_the_reference(has_bias: bool) -> None:
    heads = ((16, 16),) * 2
    packed = torch.randn(2, 17, 96)
    bias = torch.randn(2, 17, 17) if has_bias else None
    attend, _ = attention.subjects(Case("some", heads, 17, 2))["math"]
    torch.testing.assert_close(attend(packed, bias), reference(packed, heads, attention.SCALE, bias))


def test_every_backend_is_forced() -> None:
    assert tuple(attention.FORCED) == BACKENDS


def test_the_cases_cover_all_requirements() -> None:
    named = {(case.name, case.tokens, len(case.heads)) for case in cases() if case.batch == page.BATCH}
    assert {("dense", 197, 12), ("uneven", 197, 8), ("dense 577", 577, 12)} <= named
    assert cases()[0].bytes_moved == 128 * 197 * 12 * 64 * 4 * 2, "queries, keys, values and the output"


@pytest.mark.parametrize("name", MODELS)
def test_pruned_models_have_about_half_the_macs(name: str) -> None:
    variants = models.build_variants(name, depth=2)
    macs = {kind: profile(variants[kind], {"x": torch.empty(1, 3, 224, 224)}).macs for kind in (DENSE, PRUNED)}
    assert 1.7 < macs[DENSE] / macs[PRUNED] < 2.6
    with torch.inference_mode():
        assert {tuple(model.eval()(torch.zeros(1, 3, 224, 224)).shape) for model in variants.values()} == {(1, 1000)}


def test_the_sanitizer_runs_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward kernels that any GPU would select; the backward kernels are the same for all."""
    workloads: list[Workload] = []
    operator = headwise_operator.operator

    def recorded(
        packed: Tensor, queries: None, bias: Tensor | None, key_bias: None, *options: Any
    ) -> tuple[Tensor, Tensor]:
        heads = tuple(zip(*options[:2], strict=True))
        workloads.append(Workload("forward", packed.shape[1], heads, bias is not None, with_lse=True))
        return operator(packed, queries, bias, key_bias, *options)

    monkeypatch.setattr(headwise_operator, "operator", recorded)
    assert all(bool(grad.any()) for grad in checks.run_every_kernel("cpu").values())
    for capability in (80, 86, 90, 120):
        kernels = {(heuristic_config(workload, capability).kernel, workload.has_bias) for workload in workloads}
        assert kernels == {*itertools.product(("whole_row", "online"), (False, True))}


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (f"{checks.SENTINEL}\n== ERROR SUMMARY: 0 errors", {"findings": 0, "output": ""}),
        (
            f"{checks.SENTINEL}\n== RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)",
            {"findings": 0, "output": ""},
        ),
        ("Traceback\n== ERROR SUMMARY: 3 errors", {"findings": 3, "output": "Traceback\n== ERROR SUMMARY: 3 errors"}),
        ("== Error: Device not supported", {"not_run": "== Error: Device not supported"}),
        ("Traceback\n== ERROR SUMMARY: 0 errors", {"not_run": "Traceback\n== ERROR SUMMARY: 0 errors"}),
    ],
)
def test_sanitizer_output_is_parsed(output: str, expected: dict[str, Any]) -> None:
    assert checks.findings(output) == expected


def test_a_timeout_kills_the_child_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipe reaches its end only once every process that holds it open has ended."""

    class Impatient(subprocess.Popen[str]):
        """Times out as soon as the program has printed its first line."""

        def communicate(self, input: str | None = None, timeout: float | None = None) -> tuple[str, str]:
            assert self.stdout is not None
            if timeout is not None:
                assert self.stdout.readline() == "begun\n"
                raise subprocess.TimeoutExpired(self.args, timeout)
            with self:
                return self.stdout.read(), ""

    monkeypatch.setattr(subprocess, "Popen", Impatient)
    assert checks._run(["sh", "-c", "printf 'begun\\nmore\\n'; sleep 3600 & sleep 3600"], 7.0) == (
        None,
        "timeout after 7 s\nmore\n",
    )


def kernel(name: str, tokens: int, heads: int, ours: float, sdpa: float) -> dict[str, Any]:
    case = {"name": name, "tokens": tokens, "heads": [[64, 64]] * heads, "batch": 128, "dtype": "bfloat16"}
    us = {OURS: [ours] * 30, "flash": [sdpa] * 30, "cudnn": [2 * sdpa] * 30}
    bytes_moved = 128 * tokens * heads * 64 * 8
    return {
        "case": {**case, "has_bias": False, "training": False}, "us": us, "errors": {}, "bytes_moved": bytes_moved,
        "headwise_backend": "triton", "reason": "",
    }  # fmt: skip


RESULTS: dict[str, Any] = {
    "machine": dict.fromkeys(("gpu", "driver", "torch", "triton", "timm", "cuda", "python", "commit"), "x"),
    "watched": {"kernels": [{"clocks.sm": 1980.0, "temperature.gpu": 60.0}], "checks": []},
    "checks": {"tests": {"code": 0, "passed": 7}, "sanitizer": {"memcheck": {"findings": 0}}},
    "kernels": [
        kernel("dense", 197, 12, 50.0, 61.0),
        kernel("uneven", 197, 8, 20.0, 31.0),
        kernel("dense 577", 577, 12, 200.0, 181.0),
    ],
    "nominal_bandwidth": 4.8e12,
    "copy_bandwidth": 4.3e12,
    "models": [
        {"model": name, "batch": 128, "mode": mode, "macs": {"dense": 200, "pruned": 100},
         "us": {"timm": [10.0] * 30, "dense": [10.0] * 30, "pruned": [5.5] * 30}, "errors": {}}
        for name in MODELS for mode in MODES
    ],
}  # fmt: skip


def test_all_requirements_are_met() -> None:
    assert [requirement.passed for requirement in page.requirements(RESULTS)] == [True] * 12
    assert "1.22 [1.22, 1.22], flash" in page.markdown(RESULTS)
    assert "0.91 (1.82x faster, 2.00x fewer MACs)" in page.markdown(RESULTS)
    assert "SM clock 1980 to 1980 MHz" in page.markdown(RESULTS)


@pytest.mark.parametrize(
    ("path", "value", "row"),
    [
        (("checks", "tests"), {"code": 1, "passed": 6, "failed": 1}, 0),
        (("checks", "tests"), {"code": 0}, 0),
        (("checks", "sanitizer", "memcheck", "findings"), 1, 1),
        (("kernels", 0, "us", OURS), [51.0] * 30, 2),
        (("kernels", 1, "us", OURS), [21.0] * 30, 3),
        (("kernels", 2, "us", OURS), [202.0] * 30, 4),
        (("nominal_bandwidth",), 7e12, 5),
        (("models", 0, "us", "pruned"), [5.6] * 30, 6),
        (("models", 5, "errors"), {PRUNED: "OutOfMemoryError: it is full"}, 11),
        (("kernels", 0, "headwise_backend"), "sdpa", None),
        (("kernels", 1, "errors"), {OURS: "CompilationError: no"}, 3),
    ],
    ids=str,
)
def test_a_failed_requirement_is_marked(path: tuple[Any, ...], value: object, row: int | None) -> None:
    results: Any = copy.deepcopy(RESULTS)
    parent = results
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    failed = {2, 5} if row is None else {row}  # two requirements refer to the dense case
    assert [requirement.passed for requirement in page.requirements(results)] == [
        index not in failed for index in range(12)
    ]
    assert "**not met**" in page.markdown(results)


def test_requirements_that_were_not_run_are_not_met() -> None:
    results = page.requirements({"machine": RESULTS["machine"]})
    assert [requirement.passed for requirement in results] == [None] * 12
    assert page.markdown({"machine": RESULTS["machine"]}).count("not run") == 24


def test_an_error_in_a_table_stays_in_its_cell() -> None:
    results: Any = copy.deepcopy(RESULTS)
    results["kernels"][0]["errors"][OURS] = "CompilationError: a|b *c*"
    lines = page.markdown(results).splitlines()
    cells = [line.count("|") - line.count(r"\|") for line in lines if "CompilationError" in line and line[0] == "|"]
    assert set(cells) == {5}
    assert any(line.endswith(": `CompilationError: a|b *c*`") for line in lines)


def test_clocks_are_monitored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool, written = tmp_path / "nvidia-smi", tmp_path / "written"
    os.mkfifo(written)  # its reader and writer wait for each other
    lines = "echo 1980, 3201, 55, 400.5\necho 1980, 3201, [N/A], 400.5"
    tool.write_text(f"#!/bin/sh\n{lines}\necho > '{written}'\nexec sleep 3600\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with clock.gpu_monitor() as samples:
        assert samples == []
        written.read_text()
    assert samples == [{"clocks.sm": 1980.0, "clocks.mem": 3201.0, "temperature.gpu": 55.0, "power.draw": 400.5}]


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main([]) == 4
    assert "this machine has no usable NVIDIA GPU" in capsys.readouterr().err


def test_an_unknown_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        command.main(["--only", "games"])
    assert exit_.value.code == 2
    assert "games is not one of checks, kernels, models" in capsys.readouterr().err
