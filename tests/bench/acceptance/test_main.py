"""Parts are written after every step, and resume where they ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toolkit.bench.acceptance import __main__ as command
from toolkit.bench.acceptance import results as module
from toolkit.bench.acceptance.results import Results, continued, read


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch, results: Results) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(command, "code_hash", lambda machine: "ab")

    def steps(earlier: Results, out: Path) -> Iterator[Results]:
        for count in range(len(earlier.kernels) + 1, 4):
            yield replace(earlier, kernels=results.kernels[:count])

    monkeypatch.setitem(command.PARTS, "kernels", steps)


def counted(out: Path, results: Results) -> int:
    assert (out / "README.md").read_text().startswith("# ")
    return len(read(out, results.environment).kernels)


@pytest.mark.usefixtures("with_gpu")
def test_a_part_resumes_after_its_time_limit(tmp_path: Path, results: Results) -> None:
    assert command.main(["kernels", "--out", str(tmp_path), "--seconds", "-1"]) == 0
    assert counted(tmp_path, results) == 0, "results are written before the first step"
    replace(results, kernels=results.kernels[:1], code={"kernels": "ab"}).save(tmp_path)
    assert command.main(["kernels", "--out", str(tmp_path)]) == 0
    assert counted(tmp_path, results) == 3


@pytest.mark.usefixtures("with_gpu")
def test_a_failed_claim_is_an_exit_code(tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    slow = replace(results.kernels[0], latency_ms={**results.kernels[0].latency_ms, "flash": (0.001,) * 30})
    monkeypatch.setitem(command.PARTS, "kernels", lambda earlier, out: iter([replace(earlier, kernels=(slow,))]))
    assert command.main(["kernels"]) == 1
    assert "**not met**" in Path("bench/results/NVIDIA-H100/README.md").read_text()


def test_claims_of_other_parts_do_not_fail_a_part(results: Results) -> None:
    failed = replace(results.models[0], bench=None, failure="out of memory")
    mixed = replace(results, models=(failed,))
    assert [command.exit_code(mixed, part) for part in ("checks", "kernels", "models")] == [0, 0, 1]


def test_results_of_other_code_are_dropped_by_part(results: Results) -> None:
    same, other = continued(results, "kernels", "ab"), continued(results, "kernels", "cd")
    assert same == results
    assert (other.kernels, other.bandwidth, other.code) == ((), None, {"kernels": "cd"})
    assert other.models == results.models
    assert continued(results, "models", "ab").models == ()


def test_the_code_is_hashed_with_its_libraries_and_its_gpu(results: Results) -> None:
    machine = results.environment
    others = [
        replace(machine, libraries={"torch": "2"}),
        replace(machine, gpu="NVIDIA L4"),
        replace(machine, driver="1"),
    ]
    assert module.code_hash(replace(machine, clocks_mhz=(1.0,))) == module.code_hash(machine)
    assert len({module.code_hash(other) for other in (machine, *others)}) == 4


def test_a_model_that_failed_is_measured_again(
    tmp_path: Path, results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = replace(results.models[0], bench=None, failure="out of memory")
    earlier = replace(results, models=(failed, *results.models[1:]), code={"models": "ab" * 32})
    folders: list[Path] = []
    monkeypatch.setattr(command.models, "make_models", lambda name, folder: folders.append(folder))
    monkeypatch.setattr(command.models, "measure", lambda step, folder, mode: results.models[0])
    monkeypatch.setattr(
        command.models, "steps", lambda: [command.models.Step(failed.model, failed.mode, failed.batch_size)]
    )
    (after,) = command._models(earlier, tmp_path)
    assert (after.models[-1], len(after.models)) == (results.models[0], len(results.models))
    assert folders == [tmp_path / "models" / "abababababab" / failed.model]


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.main(["models"]) == 4
    assert "this machine has no usable NVIDIA GPU" in capsys.readouterr().err


def test_an_unknown_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["games"])
    assert ended.value.code == 2
    assert "invalid choice: 'games'" in capsys.readouterr().err
