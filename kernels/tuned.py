"""Settings that were measured to be the fastest on a GPU: `tuned/GPU.json`, written by `tune`.

A file is for one kind of GPU, by the name that CUDA has for it. What it does not hold is computed by rule.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch

from toolkit.kernels.headwise_settings import HOPPER, SMALLEST, Plan, Settings, Work, by_rule, constants

FOLDER = Path(__file__).with_name("tuned")
SCHEMA = 1


@dataclass(frozen=True)
class Size:
    """Works that are computed alike."""

    kind: str
    tokens: int
    """Rounded up to whole rows of the smallest product."""
    qk_tile: int
    v_tile: int
    has_bias: bool


@dataclass(frozen=True)
class Tuned:
    """What was the fastest, and how fast."""

    size: Size
    kernel: str
    settings: Settings
    """Those that are free to choose."""
    us: float
    """Of the forward pass, or of the whole backward pass."""
    by_rule_us: float
    made_with: str
    """Versions, batch and heads."""


def size_of(work: Work) -> Size:
    """All that matters but the number of heads, their widths within the tiles, and the batch."""
    return Size(work.kind, -(-work.tokens // SMALLEST) * SMALLEST, *work.tiles, work.has_bias)


@lru_cache(maxsize=4096)
def plan(work: Work, device: torch.device) -> Plan:
    """How this is computed on a device: as was measured to be the fastest there, or by rule."""
    capability = capability_of(device)
    known = measured(torch.cuda.get_device_name(device)) if device.type == "cuda" else {}
    found = known.get(size_of(work))
    if found is None:
        return by_rule(work, capability)
    return Plan(found.kernel, {**constants(work, found.kernel, capability), **found.settings})


def capability_of(device: torch.device) -> int:
    """Of a GPU, times ten; where kernels are interpreted they are those of Hopper."""
    if device.type != "cuda":
        return HOPPER
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def file_of(gpu: str) -> Path:
    """NVIDIA H200 -> tuned/NVIDIA-H200.json"""
    return FOLDER / f"{gpu.replace(' ', '-')}.json"


@lru_cache
def measured(gpu: str) -> Mapping[Size, Tuned]:
    """What is known of a GPU; nothing where it was never measured. Raises ValueError for a file of another form."""
    try:
        found = json.loads(file_of(gpu).read_text())
    except FileNotFoundError:
        return {}
    if found.get("schema") != SCHEMA:
        raise ValueError(f"{file_of(gpu)} is of another version: run python -m toolkit.kernels.tune again")
    try:
        every = [Tuned(**{**entry, "size": Size(**entry["size"])}) for entry in found["fastest"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file_of(gpu)} is damaged: {error}; delete it") from error
    return {each.size: each for each in every}


def save(gpu: str, fastest: Iterable[Tuned]) -> Path:
    """Add to what is known of a GPU."""
    known = {**measured(gpu), **{each.size: each for each in fastest}}
    in_order = sorted(known.values(), key=lambda each: tuple(asdict(each.size).values()))
    content = {"schema": SCHEMA, "gpu": gpu, "fastest": [asdict(each) for each in in_order]}
    file = file_of(gpu)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")
    measured.cache_clear()
    plan.cache_clear()
    return file
