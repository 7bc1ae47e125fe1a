"""Configurations that were measured to be the fastest on a GPU: `tuned/GPU.json`, written by `tune`.

One file per GPU model, by its CUDA name. Workloads that it does not list use the heuristic.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch

from toolkit.kernels.headwise_settings import (
    HOPPER,
    MIN_TILE,
    KernelConfig,
    Kind,
    Settings,
    Workload,
    constants,
    heuristic_config,
)

FOLDER = Path(__file__).with_name("tuned")
SCHEMA = 1


@dataclass(frozen=True)
class TuningKey:
    """Workloads that share a tuned configuration: head count, exact widths and batch size do not matter."""

    kind: Kind
    num_keys: int
    """Rounded up to a multiple of `MIN_TILE`."""
    dim_qk: int
    dim_v: int
    has_bias: bool
    has_key_bias: bool


@dataclass(frozen=True)
class TunedConfig:
    """The fastest configuration of a workload, and its time."""

    key: TuningKey
    kernel: str
    settings: Settings
    """Only the tunable ones: those that do not follow from the workload."""
    us: float
    """Microseconds of the forward pass, or of the whole backward pass."""
    heuristic_us: float
    """Microseconds with the heuristic configuration."""
    measured_with: str
    """Library versions, batch size and number of heads."""


def tuning_key(workload: Workload) -> TuningKey:
    """The key of a workload's tuned configuration."""
    num_keys = -(-workload.num_keys // MIN_TILE) * MIN_TILE
    return TuningKey(workload.kind, num_keys, *workload.dims, workload.has_bias, workload.has_key_bias)


@lru_cache(maxsize=4096)
def best_config(workload: Workload, device: torch.device) -> KernelConfig:
    """The tuned configuration of a workload on a device, else the heuristic one."""
    capability = capability_of(device)
    configs = load(torch.cuda.get_device_name(device)) if device.type == "cuda" else {}
    tuned = configs.get(tuning_key(workload))
    if tuned is None:
        return heuristic_config(workload, capability)
    return KernelConfig(tuned.kernel, {**constants(workload, tuned.kernel, capability), **tuned.settings})


def capability_of(device: torch.device) -> int:
    """Compute capability, times ten; Hopper's for devices where the kernels are interpreted."""
    if device.type != "cuda":
        return HOPPER
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def path_of(gpu: str) -> Path:
    """NVIDIA H200 -> tuned/NVIDIA-H200.json"""
    return FOLDER / f"{gpu.replace(' ', '-')}.json"


@lru_cache
def load(gpu: str) -> Mapping[TuningKey, TunedConfig]:
    """Tuned configurations of a GPU model; empty if there is no file. Raises ValueError for an invalid file."""
    path = path_of(gpu)
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    if content.get("schema") != SCHEMA:
        raise ValueError(f"{path} was written by another version: run python -m toolkit.kernels.tune again")
    try:
        configs = [TunedConfig(**{**entry, "key": TuningKey(**entry["key"])}) for entry in content["configs"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}; delete it") from error
    return {config.key: config for config in configs}


def save(gpu: str, configs: Iterable[TunedConfig]) -> Path:
    """Merge configurations into a GPU model's file and return its path."""
    merged = {**load(gpu), **{config.key: config for config in configs}}
    in_order = sorted(merged.values(), key=lambda config: tuple(asdict(config.key).values()))
    content = {"schema": SCHEMA, "gpu": gpu, "configs": [asdict(config) for config in in_order]}
    path = path_of(gpu)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    load.cache_clear()
    best_config.cache_clear()
    return path
