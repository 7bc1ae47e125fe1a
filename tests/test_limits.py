"""Limits of a process, read from small imitations of Linux's file trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from toolkit import limits

EIGHT = frozenset(range(8))


def test_cores_of_this_machine() -> None:
    assert 1 <= limits.cores() <= len(limits.usable_cores()) <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000"}, 8),
        ({"cpu.max": "200000 100000"}, 2),
        ({"cpu.max": "250000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "6400000 100000"}, 8),
        ({"pod/job/cpu.max": "max 100000", "pod/cpu.max": "300000 100000"}, 3),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_container_quotas_are_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr(limits, "usable_cores", lambda: EIGHT)
    proc, sys = tmp_path / "proc", tmp_path / "sys"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/pod/job\n")
    for name, text in files.items():
        file = sys / "fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    assert limits.cores(proc, sys) == cores


@pytest.mark.parametrize(
    ("cpuinfo", "flags"),
    [
        ("model name\t: Some CPU\nflags\t\t: fpu avx2 avx512_bf16\nvmx flags\t: vnmi\n", "fpu avx2 avx512_bf16"),
        ("processor\t: 0\nFeatures\t: fp asimd bf16\n", "fp asimd bf16"),
        ("processor : 0\n", ""),
        (None, ""),
    ],
)
def test_instructions_of_the_cpu(tmp_path: Path, cpuinfo: str | None, flags: str) -> None:
    if cpuinfo is not None:
        (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert limits.cpu_flags(tmp_path) == frozenset(flags.split())
