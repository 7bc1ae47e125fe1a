"""One layer's attention as a kernel whose only arguments are tensors: for programs that have no Triton."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeAlias

from toolkit.kernels.headwise_attention import ALIGNMENT, Heads, unfit
from toolkit.kernels.headwise_settings import Plan, Work, by_rule, columns_of

Constant: TypeAlias = int | float | tuple[tuple[int, ...], ...] | None


@dataclass(frozen=True)
class Layer:
    """What one layer computes: softmax(q k^T * scale + bias) v for every head."""

    heads: Heads
    scale: float
    """The source model's head_dim ** -0.5, whatever was cut since; 1 where the queries' projection is scaled."""
    tokens: int
    rows: int | None = None
    """Queries, where they are a tensor of their own; None: all tokens ask."""
    bias_heads: int = 0
    """Heads of the bias: none, one that all heads share, or all."""

    def __post_init__(self) -> None:
        """Raise ValueError for what there is no kernel for."""
        if not self.heads or min(self.tokens, self.asking, *map(min, self.heads)) < 1:
            raise ValueError(f"there is no attention like {self}")
        if self.bias_heads not in (0, 1, len(self.heads)):
            raise ValueError(f"a bias is for one head or for all {len(self.heads)}, not for {self.bias_heads}")
        if why := unfit(self.heads):
            raise ValueError(why)

    @property
    def asking(self) -> int:
        """Queries of an image."""
        return self.tokens if self.rows is None else self.rows

    def tensors(self) -> dict[str, str]:
        """The arguments of `layer` that there are, in order, and their shapes."""
        qk_width, v_width = sum(qk for qk, _ in self.heads), sum(v for _, v in self.heads)
        filled = -(-self.tokens // ALIGNMENT) * ALIGNMENT
        found = {}
        if self.rows is None:
            found["packed"] = f"[batch, {self.tokens}, {2 * qk_width + v_width}]: all queries, all keys, all values"
        else:
            found["packed"] = f"[batch, {self.tokens}, {qk_width + v_width}]: all keys, all values"
            found["queries"] = f"[batch, {self.rows}, {qk_width}]"
        if self.bias_heads:
            found["bias"] = f"[{self.bias_heads}, {self.asking}, {filled}]: as many columns as tokens are read"
        found["out"] = f"[batch, {self.asking}, {v_width}]"
        return found

    def plan(self, capability: int) -> Plan:
        """Which kernel does the work, and its sizes."""
        return by_rule(Work("forward", self.tokens, tuple(self.heads), self.bias_heads > 0), capability)

    def tiles(self, capability: int) -> int:
        """Of queries: among so many programs a head can be shared out."""
        return -(-self.asking // self.plan(capability).settings["TILE"])

    def least_shares(self, capability: int) -> int:
        """Programs that share a head at least: `online` has one for every tile."""
        return 1 if self.plan(capability).kernel == "whole_row" else self.tiles(capability)

    def settings(self, capability: int) -> dict[str, Constant]:
        """Constants of `headwise_forward.layer` on a GPU, those for tensors that there are not included, and the
        compiler's options."""
        kernel, sizes = self.plan(capability)
        filled = -(-self.tokens // ALIGNMENT)
        missing = {name: None for name in ("queries", "bias") if name not in self.tensors()}
        return {
            **missing,
            "LAYOUT": columns_of(self.heads),
            "Q": sum(qk for qk, _ in self.heads) // ALIGNMENT,
            "V": sum(v for _, v in self.heads) // ALIGNMENT,
            "ROWS": self.asking,
            "TOKENS": self.tokens,
            "BIAS_HEAD": self.asking * filled if self.bias_heads > 1 else 0,
            "SCALE_LOG2": self.scale * math.log2(math.e),
            "WHOLE_ROW": kernel == "whole_row",
            "KEYS_0": sizes.get("KEYS_0", sizes.get("KEYS")),
            **{name: sizes.get(name, 0) for name in ("KEYS_1", "KEYS_2", "HOPPER")},
            **{name: sizes[name] for name in ("TILE", "DQ", "DV", "num_warps", "num_stages", "enable_fp_fusion")},
        }
