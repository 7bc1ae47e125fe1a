from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

import toolkit
from toolkit import plugins, records
from toolkit.bench import environment
from toolkit.machine import nvidia
from toolkit.machine.nvidia import Driver
from toolkit.records import Environment


def test_this_machine_is_described(tmp_path: Path) -> None:
    machine = environment.capture(plugins.requirements())
    assert machine.toolkit == toolkit.__version__
    assert machine.python == platform.python_version()
    assert machine.processor
    assert 1 <= machine.cores <= (os.cpu_count() or 1)
    assert machine.memory_bytes > 100_000_000
    assert {"torch", "timm", "onnx", "torch-pruning", "numpy"} <= machine.libraries.keys()
    assert {"onnxruntime", "onnxruntime-gpu"} & machine.libraries.keys()
    records.save(machine, tmp_path / "environment.json")
    assert records.load(Environment, tmp_path / "environment.json") == machine


def test_cpu_name_and_clocks_of_an_x86_machine(tmp_path: Path) -> None:
    cores = [f"processor\t: {core}\nmodel name\t: Tiny CPU\ncpu MHz\t\t: {2000 + core}.5\n" for core in range(2)]
    (tmp_path / "cpuinfo").write_text("\n".join(cores))
    machine = environment.capture((), proc=tmp_path, sys=tmp_path)
    assert machine.processor == "Tiny CPU"
    assert machine.clocks_mhz == (2000.5, 2001.5)


def test_cpu_name_clocks_and_governor_of_an_arm_board(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nBogoMIPS\t: 62.5\n\nModel\t\t: Small Board Rev 1\n")
    folder = tmp_path / "devices/system/cpu/cpu0/cpufreq"
    folder.mkdir(parents=True)
    (folder / "scaling_cur_freq").write_text("1500000\n")
    (folder / "scaling_governor").write_text("performance\n")
    machine = environment.capture((), proc=tmp_path, sys=tmp_path)
    assert machine.processor == "Small Board Rev 1"
    assert machine.clocks_mhz == (1500.0,)
    assert machine.power_mode == "performance"


def test_missing_system_files_are_no_error(tmp_path: Path) -> None:
    machine = environment.capture((), proc=tmp_path, sys=tmp_path)
    assert machine.processor
    assert machine.clocks_mhz == ()
    assert machine.power_mode is None


@pytest.mark.parametrize(
    ("file", "text", "expected"),
    [
        ("fs/cgroup/memory.max", "123456\n", 123456),
        ("fs/cgroup/jobs/one/memory.max", "4096\n", 4096),
        ("fs/cgroup/memory/memory.limit_in_bytes", "7777\n", 7777),
        ("fs/cgroup/memory.max", "max\n", None),
    ],
)
def test_memory_limits_of_control_groups_are_respected(
    file: str, text: str, expected: int | None, tmp_path: Path
) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/cgroup").write_text("0::/jobs/one\n")
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(text)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert environment.capture((), proc=tmp_path, sys=tmp_path).memory_bytes == (expected or total)


def test_gpu_and_driver_come_from_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvidia, "driver", lambda: Driver("580.65.06", ("NVIDIA L4", "NVIDIA T4")))
    machine = environment.capture(())
    assert (machine.gpu, machine.driver) == ("NVIDIA L4, NVIDIA T4", "580.65.06")
