"""Kernel and tile sizes for a workload, by heuristic.

Configurations that were measured on a GPU take precedence (`tuned`). The heuristics avoid register spills and stay
within shared memory on every supported GPU; both were checked with `machine_code`.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

Kind: TypeAlias = Literal["forward", "backward_keys", "backward_queries"]
Settings = dict[str, int]
"""A kernel's `constexpr` arguments and compiler options (num_warps, num_stages, ...)."""
HOPPER = 90
"""Compute capability (times ten) of Hopper, whose tensor cores read both operands from shared memory."""
WHOLE_ROW_KEYS, WHOLE_ROW_KEYS_ON_HOPPER = 208, 320
WHOLE_ROW_DIM = 64
"""Up to this many keys and this head width, a row of logits, the keys and the values fit on the chip. A bias needs as
many registers as the logits: with one, Hopper's limit is that of the others."""
PROGRAMS_PER_SM = 2
"""Resident programs of `whole_row` per SM, at head_dim 64."""
MIN_TILE = 16
"""Smallest dimension of a tensor-core product in Triton."""
MAX_CHUNKS = 3
"""Maximum number of power-of-two chunks that `whole_row` splits the keys into."""


class Workload(NamedTuple):
    """The problem that a kernel solves."""

    kind: Kind
    num_keys: int
    heads: tuple[tuple[int, int], ...]
    has_bias: bool = False
    has_key_bias: bool = False
    with_lse: bool = False
    """Whether the forward pass stores the log-sum-exp for the backward pass."""

    @property
    def dims(self) -> tuple[int, int]:
        """Padded tile widths (DIM_QK, DIM_V): next power of two of the widest head, at least `MIN_TILE`."""
        qk, v = (max(MIN_TILE, 1 << (max(dims) - 1).bit_length()) for dims in zip(*self.heads, strict=True))
        return qk, v


class KernelConfig(NamedTuple):
    """A kernel and the settings it is compiled with."""

    kernel: str
    settings: Settings


def heuristic_config(workload: Workload, capability: int) -> KernelConfig:
    """The configuration for GPUs of a compute capability (times ten) that were not tuned."""
    kernel = _forward_kernel(workload, capability) if workload.kind == "forward" else workload.kind
    sizes = _tile_sizes(workload, kernel, capability)
    return KernelConfig(kernel, {**constants(workload, kernel, capability), **sizes})


def constants(workload: Workload, kernel: str, capability: int) -> Settings:
    """The settings that the workload determines; the others are free to tune."""
    dim_qk, dim_v = workload.dims
    settings = {"DIM_QK": dim_qk, "DIM_V": dim_v, "HAS_BIAS": workload.has_bias}
    settings |= {"HAS_KEY_BIAS": workload.has_key_bias, "enable_fp_fusion": True}
    if workload.kind == "forward":
        settings["WITH_LSE"] = workload.with_lse
    if kernel == "whole_row":
        sizes = zip(("CHUNK_0", "CHUNK_1", "CHUNK_2"), (*key_chunks(workload.num_keys), 0, 0), strict=False)
        settings |= {"NUM_KEYS": workload.num_keys, "HOPPER": capability == HOPPER, **dict(sizes)}
    return settings


def _forward_kernel(workload: Workload, capability: int) -> str:
    roomy = capability == HOPPER and not workload.has_bias
    max_keys = WHOLE_ROW_KEYS_ON_HOPPER if roomy else WHOLE_ROW_KEYS
    return "whole_row" if workload.num_keys <= max_keys and max(workload.dims) <= WHOLE_ROW_DIM else "online"


def _tile_sizes(workload: Workload, kernel: str, capability: int) -> Settings:
    dim = max(workload.dims)
    wide = dim > WHOLE_ROW_DIM
    if kernel == "online":
        few = wide or (workload.has_bias and capability != HOPPER)
        keys = 128 if dim == MIN_TILE else 32 if few else 64
        # Except on Hopper, registers spill with 64 queries on 4 warps.
        queries, warps = (128, 8) if keys == 32 and capability != HOPPER else (64, 4)
        return {"BLOCK_Q": queries, "BLOCK_K": keys, "num_warps": warps, "num_stages": 2}
    if kernel != "whole_row":
        narrow = dim == MIN_TILE and workload.has_bias and workload.has_key_bias
        return {"BLOCK_Q": 32 if wide or narrow else 64, "BLOCK_K": 32, "num_warps": 4, "num_stages": 1}
    if not workload.has_bias:
        return {"BLOCK_Q": 64, "num_warps": 4, "num_stages": 1}
    if capability == HOPPER:
        return {"BLOCK_Q": 64, "num_warps": 4 if dim == MIN_TILE else 8, "num_stages": 1}
    block, warps = (16, 4) if dim == MIN_TILE else (32, 8)
    return {"BLOCK_Q": block, "num_warps": warps, "num_stages": 1}


def key_chunks(num_keys: int) -> tuple[int, ...]:
    """At most `MAX_CHUNKS` descending powers of two, from 16 on, that hold `num_keys` with the least padding.

    197 -> 128, 64, 16
    """
    left, chunks = -(-num_keys // MIN_TILE) * MIN_TILE, list[int]()
    while left > 0:
        largest = 1 << (left.bit_length() - 1)
        if len(chunks) == MAX_CHUNKS - 1 and largest < left:
            largest *= 2
        chunks.append(largest)
        left -= largest
    if len(chunks) > 1 and chunks[-1] == chunks[-2]:  # 128, 64, 64 is 256
        return key_chunks(sum(chunks))
    return tuple(chunks)
