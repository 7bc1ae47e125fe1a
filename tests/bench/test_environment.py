from __future__ import annotations

import os
import platform
import stat
from pathlib import Path

import pytest

import toolkit
from toolkit import records
from toolkit.bench import environment
from toolkit.records import Environment


def test_this_machine_is_described(tmp_path: Path) -> None:
    found = environment.capture()
    assert found.toolkit == toolkit.__version__
    assert found.python == platform.python_version()
    assert found.processor
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert found.memory_bytes > 100_000_000
    assert {"torch", "timm", "onnx", "torch-pruning", "numpy"} <= found.libraries.keys()
    assert {"onnxruntime", "onnxruntime-gpu"} & found.libraries.keys()
    records.save(found, tmp_path / "environment.json")
    assert records.load(Environment, tmp_path / "environment.json") == found


def test_processor_and_clocks_of_an_x86_machine(tmp_path: Path) -> None:
    cores = [f"processor\t: {core}\nmodel name\t: Tiny CPU\ncpu MHz\t\t: {2000 + core}.5\n" for core in range(2)]
    (tmp_path / "cpuinfo").write_text("\n".join(cores))
    found = environment.capture(proc=tmp_path, sys=tmp_path)
    assert found.processor == "Tiny CPU"
    assert found.clocks_mhz == (2000.5, 2001.5)


def test_processor_clocks_and_governor_of_an_arm_board(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 62.5\n\nModel\t\t: Small Board Rev 1\n")
    folder = tmp_path / "devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_cur_freq").write_text("1500000\n")
    (folder / "scaling_governor").write_text("performance\n")
    found = environment.capture(proc=tmp_path, sys=tmp_path)
    assert found.processor == "Small Board Rev 1"
    assert found.clocks_mhz == (1500.0,)
    assert found.power_mode == "performance"


def test_a_machine_that_tells_nothing_is_no_error(tmp_path: Path) -> None:
    found = environment.capture(proc=tmp_path, sys=tmp_path)
    assert found.processor
    assert found.clocks_mhz == ()
    assert found.power_mode is None


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("fs/cgroup/memory.max", "123456\n", 123456),
        ("fs/cgroup/jobs/one/memory.max", "4096\n", 4096),
        ("fs/cgroup/memory/memory.limit_in_bytes", "7777\n", 7777),
        ("fs/cgroup/memory.max", "max\n", None),
    ],
)
def test_a_control_groups_limit_is_respected(file: str, text: str, expected: int | None, tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/jobs/one\n")
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert environment.capture(proc=tmp_path, sys=tmp_path).memory_bytes == (expected or whole)


@pytest.mark.parametrize(
    ("script", "gpu", "driver"),
    [
        ("echo 'NVIDIA L4, 580.65.06'; echo 'NVIDIA T4, 580.65.06'", "NVIDIA L4, NVIDIA T4", "580.65.06"),
        ("echo 'no devices were found'", None, None),
        ("exit 9", None, None),
    ],
)
def test_the_gpu_is_what_nvidia_smi_says(
    script: str, gpu: str | None, driver: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    found = environment.capture()
    assert (found.gpu, found.driver) == (gpu, driver)
