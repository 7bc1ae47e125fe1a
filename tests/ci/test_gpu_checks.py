"""`.ci/gpu/checks.py` on a CPU: kernels, output of tools, timeouts."""

from __future__ import annotations

import itertools
import runpy
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit.bench.acceptance.results import CheckReport, Results
from toolkit.kernels import headwise_operator
from toolkit.kernels.headwise_settings import Workload, heuristic_config
from toolkit.records import Environment

FILE = Path(__file__).parents[2] / ".ci" / "gpu" / "checks.py"
MACHINE = Environment("0", "3.12", "linux", "cpu", 2, 0, None, None, {})


@pytest.fixture(scope="module")
def checks() -> Any:
    return SimpleNamespace(**runpy.run_path(str(FILE)))


def test_the_sanitizer_runs_every_kernel(checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert all(bool(grad.any()) for grad in checks.every_kernel("cpu").values())
    for capability in (80, 86, 90, 120):
        kernels = {(heuristic_config(workload, capability).kernel, workload.has_bias) for workload in workloads}
        assert kernels == {*itertools.product(("whole_row", "online"), (False, True))}


@pytest.mark.parametrize(
    ("output", "passed", "detail"),
    [
        ("every kernel ran\n== ERROR SUMMARY: 0 errors", True, "0 findings"),
        ("every kernel ran\n== RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", True, "0 findings"),
        ("Traceback\n== ERROR SUMMARY: 3 errors", False, "3 findings"),
        ("== Error: Device not supported", None, "not run: == Error: Device not supported"),
        ("Traceback\n== ERROR SUMMARY: 0 errors", None, "not run: == ERROR SUMMARY: 0 errors"),
        ("", None, "not run: no output"),
    ],
)
def test_sanitizer_output_is_parsed(output: str, passed: bool | None, detail: str, checks: Any) -> None:
    report = checks.findings("memcheck", output)
    assert (report.name, report.passed, report.detail) == ("memcheck", passed, detail)
    assert report.output == ("" if passed else output)


@pytest.mark.parametrize(
    ("code", "output", "passed", "detail"),
    [
        (0, "132 passed, 2 skipped in 80 s", True, "132 passed, 0 failed"),
        (1, "1 failed, 131 passed, 1 error in 80 s", False, "131 passed, 2 failed"),
        (5, "no tests ran", False, "0 passed, 0 failed"),
        (None, "...", None, "not finished after 7 s"),
    ],
)
def test_tests_are_counted(
    code: int | None, output: str, passed: bool | None, detail: str, checks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(checks.run_tests.__globals__, "_run", lambda command, timeout_s: (code, output))
    report = checks.run_tests(7.0)
    assert (report.passed, report.detail) == (passed, detail)


def test_checks_without_a_result_are_repeated(checks: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run: list[str] = []

    def report(name: str) -> CheckReport:
        run.append(name)
        return CheckReport(name, True, "0 findings")

    functions = checks._steps.__globals__
    monkeypatch.setitem(functions, "run_tests", lambda timeout_s: report("tests"))
    monkeypatch.setitem(functions, "run_sanitizer", lambda tool, timeout_s: report(tool))
    earlier = (CheckReport("tests", True, ""), CheckReport("memcheck", None, ""), CheckReport("racecheck", False, ""))
    *_, last = checks._steps(time.monotonic() + 100, Results(MACHINE, checks=earlier), tmp_path)
    assert run == ["memcheck", "synccheck"]
    assert {check.name: check.passed for check in last.checks} == {
        "tests": True,
        "racecheck": False,
        "memcheck": True,
        "synccheck": True,
    }
    assert not list(checks._steps(time.monotonic(), Results(MACHINE), tmp_path)), "there is no time left"


def test_a_timeout_kills_the_child_processes_too(checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
    run: Callable[..., Any] = checks._run
    assert run(["sh", "-c", "printf 'begun\\nmore\\n'; sleep 3600 & sleep 3600"], 7.0) == (
        None,
        "more\n\ntimeout after 7 s",
    )


def test_without_a_gpu(checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert checks.main([]) == 4
