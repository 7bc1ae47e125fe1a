"""Specification of one layer's attention kernel, compiled for programs that have no Triton."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from toolkit.kernels.heads import ALIGNMENT, Heads, head_table, total_widths, unsupported
from toolkit.kernels.headwise_settings import KernelConfig, Workload, heuristic_config

Constant: TypeAlias = int | float | tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True)
class LayerSpec:
    """softmax(q k^T * scale + bias + key_bias) v for the heads of one layer.

    Raises ValueError for what the kernel does not support.
    """

    heads: Heads
    scale: float
    """head_dim ** -0.5 of the source model, also after pruning; 1 if the query projection is already scaled."""
    num_keys: int
    queries: int | None = None
    """Number of queries if they are a separate tensor; None: every token is a query, packed with keys and values."""
    bias_heads: int = 0
    """First dimension of the bias: 0 (no bias), 1 (shared by all heads), or the number of heads."""
    has_key_bias: bool = False
    """Whether a bias per image and key is added to the logits."""

    def __post_init__(self) -> None:
        if not self.heads or min(map(min, self.heads)) < 1:
            raise ValueError(f"every head needs a qk_dim and a v_dim of at least 1, got {list(self.heads)}")
        if min(self.num_keys, self.num_queries) < 1:
            raise ValueError(f"a layer needs tokens, got {self.num_queries} queries and {self.num_keys} keys")
        if self.bias_heads not in (0, 1, len(self.heads)):
            raise ValueError(f"a bias has 1 or {len(self.heads)} heads, got {self.bias_heads}")
        if reason := unsupported(self.heads):
            raise ValueError(reason)

    @property
    def num_queries(self) -> int:
        """Query tokens per image."""
        return self.num_keys if self.queries is None else self.queries

    def tensors(self) -> dict[str, str]:
        """Tensor arguments of the compiled `headwise_forward.layer`, in order, with their shapes."""
        qk_width, v_width = total_widths(self.heads)
        padded_keys = -(-self.num_keys // ALIGNMENT) * ALIGNMENT
        shapes = {}
        if self.queries is None:
            shapes["packed"] = f"[batch, {self.num_keys}, {2 * qk_width + v_width}]: q, k, v"
        else:
            shapes["packed"] = f"[batch, {self.num_keys}, {qk_width + v_width}]: k, v"
            shapes["queries"] = f"[batch, {self.queries}, {qk_width}]"
        if self.bias_heads:
            padding = f", rows padded to {padded_keys}" if padded_keys != self.num_keys else ""
            shapes["bias"] = f"[{self.bias_heads}, {self.num_queries}, {padded_keys}]: added to the logits{padding}"
        if self.has_key_bias:
            shapes["key_bias"] = f"[batch, {self.num_keys}]: float32, added to the logits of every head and query"
        shapes["out"] = f"[batch, {self.num_queries}, {v_width}]"
        return shapes

    def config(self, capability: int) -> KernelConfig:
        """The kernel and its tile sizes on GPUs of a compute capability (times ten)."""
        has_biases = self.bias_heads > 0, self.has_key_bias
        return heuristic_config(Workload("forward", self.num_keys, tuple(self.heads), *has_biases), capability)

    def query_blocks(self, capability: int) -> int:
        """Number of query blocks: the largest useful second grid dimension."""
        return -(-self.num_queries // self.config(capability).settings["BLOCK_Q"])

    def min_query_splits(self, capability: int) -> int:
        """Smallest second grid dimension: `online` needs a program per query block."""
        return 1 if self.config(capability).kernel == "whole_row" else self.query_blocks(capability)

    def settings(self, capability: int) -> dict[str, Constant]:
        """`constexpr` arguments of `headwise_forward.layer`, with None for absent tensors, and compiler options."""
        kernel, settings = self.config(capability)
        qk_width, v_width = total_widths(self.heads)
        padded_keys = -(-self.num_keys // ALIGNMENT)
        absent = {name: None for name in ("queries", "bias", "key_bias") if name not in self.tensors()}
        same = ("BLOCK_Q", "DIM_QK", "DIM_V", "num_warps", "num_stages", "enable_fp_fusion")
        return {
            **absent,
            "LAYOUT": head_table(self.heads),
            "Q": qk_width // ALIGNMENT,
            "V": v_width // ALIGNMENT,
            "NUM_QUERIES": self.num_queries,
            "NUM_KEYS": self.num_keys,
            "STRIDE_BIAS_HEAD": self.num_queries * padded_keys if self.bias_heads > 1 else 0,
            "SCALE_LOG2": self.scale * math.log2(math.e),
            "WHOLE_ROW": kernel == "whole_row",
            "CHUNK_0": settings.get("CHUNK_0", settings.get("BLOCK_K")),
            **{name: settings.get(name, 0) for name in ("CHUNK_1", "CHUNK_2", "HOPPER")},
            **{name: settings[name] for name in same},
        }
